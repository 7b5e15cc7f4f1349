"""What the Fréchet video distance compares: videos as I3D's logits.

Unterthiner et al. 2018 (arXiv:1812.01717). Published numbers differ in how a frame becomes the
224x224 pixels that I3D was trained on, which shifts FVD by several percent: a part says which,

- `Stretch`: every frame to a square, whatever its shape, as in TATS and cd-fvd;
- `ShortSideCrop`: the shorter side to 224 and the middle of the longer, as in VideoGPT and what
  compares itself with it.

For square videos the two are the same. Both interpolate linearly between the four nearest pixels,
smaller frames and larger alike, without smoothing.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from vdm_jax.core.refusal import Refusal
from vdm_jax.models.i3d import I3D, LEAST_FRAMES

SIDE = 224


@runtime_checkable
class Framing(Protocol):
    """How videos of any size become what I3D sees, -1..1."""

    def __call__(self, videos: UInt8[Array, "b t h w 3"]) -> Float32[Array, "b t H W 3"]: ...


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Both sides to `side` pixels, each by itself."""

    side: int = SIDE

    def __call__(self, videos: UInt8[Array, "b t h w 3"]) -> Float32[Array, "b t H W 3"]:
        return _centred(resized(videos.astype(jnp.float32), self.side, self.side))


@dataclass(frozen=True, kw_only=True)
class ShortSideCrop:
    """The shorter side to `side` pixels, the longer in proportion (rounded up) and cut to its
    middle."""

    side: int = SIDE

    def __call__(self, videos: UInt8[Array, "b t h w 3"]) -> Float32[Array, "b t H W 3"]:
        h, w = videos.shape[2:4]
        scale = self.side / min(h, w)
        height, width = (self.side if n == min(h, w) else math.ceil(n * scale) for n in (h, w))
        top, left = (height - self.side) // 2, (width - self.side) // 2
        x = resized(videos.astype(jnp.float32), height, width)
        return _centred(x[:, :, top : top + self.side, left : left + self.side])


def i3d_logits(
    model: I3D, videos: UInt8[Array, "b t h w 3"], framing: Framing = Stretch()
) -> Float32[Array, "b classes"]:
    """The logits that FVD compares, one row for each video. Pure: to be compiled with `jax.jit`.

    On CPU one video a call is fastest: its activations stay in the cache.

    Raises:
        Refusal: for videos of fewer than 9 frames.
    """
    if videos.shape[1] < LEAST_FRAMES:
        raise Refusal(f"FVD takes videos of {LEAST_FRAMES} frames or more, got {videos.shape[1]}")
    return model(framing(videos))


def resized(
    x: Float[Array, "b t h w c"], height: int, width: int
) -> Float[Array, "b t {height} {width} c"]:
    """Each frame at another size, linear between the centres of pixels; no smoothing.

    As torch's interpolate with mode="bilinear", align_corners=False, to the rounding of float32.
    """
    for axis, size in ((2, height), (3, width)):
        if x.shape[axis] != size:
            near = _between(x.shape[axis], size)
            share = near.share.reshape(tuple(size if a == axis else 1 for a in range(x.ndim)))
            lower, upper = (jnp.take(x, index, axis=axis) for index in (near.lower, near.upper))
            x = lower * (1 - share) + upper * share
    return x


class _Between(NamedTuple):
    """The two positions that each new one lies between, and how far towards the upper."""

    lower: np.ndarray
    upper: np.ndarray
    share: np.ndarray


def _between(old: int, new: int) -> _Between:
    """The step in float32 and the place rounded to it once, as torch's fused multiply-add does: a
    share that is rounded otherwise differs in the fifth decimal."""
    step = float(np.float32(old) / np.float32(new))
    place = np.maximum(step * (np.arange(new) + 0.5) - 0.5, 0).astype(np.float32)
    lower = place.astype(np.int32)
    return _Between(lower, np.minimum(lower + 1, old - 1), place - lower)


def _centred(x: Float[Array, "b t h w 3"]) -> Float[Array, "b t h w 3"]:
    return 2 * x / 255 - 1
