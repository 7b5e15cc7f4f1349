"""`python -m vdm_jax VERB ...`: what the console script `vdm` does."""

from vdm_jax.cli import main

if __name__ == "__main__":
    main()
