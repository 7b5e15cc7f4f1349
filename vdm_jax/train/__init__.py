"""The verb `train`: a config in, a run directory out."""
