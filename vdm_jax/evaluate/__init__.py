"""Measures of what a model makes: by metrics, and by people."""
