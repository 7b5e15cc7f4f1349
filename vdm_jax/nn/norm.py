"""Group normalisation of each frame by itself, joined with the affine step that follows it.

Statistics are taken within one frame (Wu & He 2018 with the frame as the sample). A group norm of
whole videos, which lets each frame reach the others, is the same function of "b t (h w) c".
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

EPS = 1e-5


def group_norm(
    x: Float[Array, "f h w c"],
    scale: Float[Array, "#f c"],
    shift: Float[Array, "#f c"],
    groups: int,
    eps: float = EPS,
) -> Float[Array, "f h w c"]:
    """normalise(x) * scale + shift, per frame and group of channels; computed in float32.

    The variance is the mean square of the centred values (two passes: no cancellation), and both
    steps fold into one multiply-add, x * a + b, with a and b per frame and channel.
    """
    a, b = _fold(x, scale, shift, groups, eps)
    return (x * a[:, None, None] + b[:, None, None]).astype(x.dtype)


def group_norm_silu(
    x: Float[Array, "f h w c"],
    scale: Float[Array, "#f c"],
    shift: Float[Array, "#f c"],
    groups: int,
    eps: float = EPS,
) -> Float[Array, "f h w c"]:
    """silu(group_norm(x, scale, shift))."""
    a, b = _fold(x, scale, shift, groups, eps)
    return jax.nn.silu(x * a[:, None, None] + b[:, None, None]).astype(x.dtype)


def _fold(x, scale, shift, groups, eps):
    mean, rstd = _moments(x, groups, eps)
    a = rstd * scale
    return a, shift - mean * a


def _moments(x, groups, eps):
    """Mean and 1/std of each frame's groups, repeated for every channel: each "f c"."""
    f, h, w, c = x.shape
    count = h * w * (c // groups)

    def per_group(sums):
        pooled = sums.reshape(f, groups, c // groups).sum(-1, keepdims=True) / count
        return jnp.broadcast_to(pooled, (f, groups, c // groups)).reshape(f, c)

    x = x.astype(jnp.float32)
    mean = per_group(x.sum((1, 2)))
    centred = x - mean[:, None, None]
    variance = per_group((centred * centred).sum((1, 2)))
    return mean, jax.lax.rsqrt(variance + eps)


class GroupNorm(nnx.Module):
    """Group norm with a learned scale and shift per channel."""

    def __init__(self, channels: int, groups: int, *, eps: float = EPS, rngs: nnx.Rngs):
        del rngs  # nothing is random
        self.groups = groups
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(channels))
        self.shift = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Float[Array, "f h w c"]) -> Float[Array, "f h w c"]:
        return group_norm(x, *self._affine(), self.groups, self.eps)

    def silu(self, x: Float[Array, "f h w c"]) -> Float[Array, "f h w c"]:
        """silu of the normalised frames, in one pass."""
        return group_norm_silu(x, *self._affine(), self.groups, self.eps)

    def film_silu(
        self, x: Float[Array, "f h w c"], film: Float[Array, "f 2 c"]
    ) -> Float[Array, "f h w c"]:
        """silu(norm(x) * (1 + film_scale) + film_shift) (Perez et al. 2018), in one pass."""
        gain = 1 + film[:, 0]
        scale, shift = self._affine()
        return group_norm_silu(x, scale * gain, shift * gain + film[:, 1], self.groups, self.eps)

    def _affine(self):
        """Scale and shift of every frame, each "1 c"."""
        return self.scale[...][None], self.shift[...][None]
