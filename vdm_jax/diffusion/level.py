"""The noise level of a video: one (alpha, sigma) pair per frame.

z = alpha * x0 + sigma * eps. A level per frame, rather than per video, is what lets known frames
stand clean among noisy ones (image-to-video, prediction, interpolation) with no special case.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Level(NamedTuple):
    """Signal and noise scales, of equal shape; usually "b t", or "t", or "" (broadcast on use).

    A ladder of levels (what a sampler walks down) has one more axis in front.
    """

    alpha: Float[Array, "*batch"]
    sigma: Float[Array, "*batch"]

    @property
    def logsnr(self) -> Float[Array, "*batch"]:
        """log(alpha^2 / sigma^2): +inf for a clean frame, -inf for pure noise."""
        return 2 * (jnp.log(self.alpha) - jnp.log(self.sigma))

    def frames(self, z: Float[Array, "b t h w c"]) -> "Level":
        """The same level as "b t", one pair for each frame of `z`."""
        return Level(*(jnp.broadcast_to(part, z.shape[:2]) for part in self))

    def broadcast(self, z: Float[Array, "b t h w c"]) -> "Level":
        """The same level as "b t 1 1 1", ready to multiply a video."""
        return Level(*(part[..., None, None, None] for part in self.frames(z)))

    def noised(
        self, x0: Float[Array, "b t h w c"], eps: Float[Array, "b t h w c"]
    ) -> Float[Array, "b t h w c"]:
        """alpha * x0 + sigma * eps, frame by frame."""
        alpha, sigma = self.broadcast(x0)
        return alpha * x0 + sigma * eps

    def clean_where(self, known: Bool[Array, "b t"]) -> "Level":
        """The same with known frames at (1, 0).

        A level, "" or "b t", becomes "b t"; a ladder, (n+1,) or (n+1, b, t), becomes (n+1, b, t).
        """
        rung = () if self.sigma.ndim in (0, 2) else self.sigma.shape[:1]
        shape = rung + known.shape
        wide = self.sigma.shape if self.sigma.ndim in (0, 2, 3) else (*rung, 1, 1)
        alpha, sigma = (jnp.broadcast_to(part.reshape(wide), shape) for part in self)
        known = jnp.broadcast_to(known, shape)
        return Level(jnp.where(known, 1, alpha), jnp.where(known, 0, sigma))
