"""The verb `sample`: a trained model and a request in, a video file out."""
