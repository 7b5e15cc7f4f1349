"""One architecture a file; a model never imports another model."""
