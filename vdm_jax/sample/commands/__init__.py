"""What `python -m vdm_jax.sample --task NAME` does: a request and a function for each."""
