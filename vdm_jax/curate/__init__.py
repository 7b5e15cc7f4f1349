"""From raw video to training clips: `python -m vdm_jax.curate`."""
