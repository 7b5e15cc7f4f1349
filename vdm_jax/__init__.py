"""vdm_jax: train, sample and serve video diffusion models in JAX, on TPU, GPU and CPU."""

__version__ = "0.1.0"
