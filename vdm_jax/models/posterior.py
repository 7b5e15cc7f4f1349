"""Posterior: what every encoder says of latents, those of pictures and those of videos."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LOGVAR_RANGE = (-30.0, 20.0)


class Posterior(NamedTuple):
    """The normal distribution of the latents of frames "f h w c" or videos "b t h w c", float32."""

    mean: Float[Array, "*f h w c"]
    logvar: Float[Array, "*f h w c"]

    @classmethod
    def of(cls, moments: Float[Array, "*f h w c2"]) -> "Posterior":
        """Of means and logarithms of variances beside each other, as networks give them."""
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return cls(mean, jnp.clip(logvar, *LOGVAR_RANGE))

    def mode(self) -> Float[Array, "*f h w c"]:
        """The most likely latents: the mean."""
        return self.mean

    def sample(self, key: Array) -> Float[Array, "*f h w c"]:
        """Latents drawn at random."""
        return self.mean + jnp.exp(self.logvar / 2) * jax.random.normal(key, self.mean.shape)
