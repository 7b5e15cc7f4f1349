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
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, UInt8

from vdm_jax.core.refusal import Refusal
from vdm_jax.models.i3d import I3D, LEAST_FRAMES
from vdm_jax.nn.resize import bilinear

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
        return _centred(_resized(videos.astype(jnp.float32), self.side, self.side))


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
        x = _resized(videos.astype(jnp.float32), height, width)
        return _centred(x[:, :, top : top + self.side, left : left + self.side])


def i3d_logits(
    model: I3D, videos: UInt8[Array, "b t h w 3"], framing: Framing = Stretch()
) -> Float32[Array, "b classes"]:
    """The logits that FVD compares, one row for each video. Pure: to be compiled with `jax.jit`.

    In full float32 on every platform: accelerators round it where they are not told otherwise.
    On CPU one video a call is fastest: its activations stay in the cache.

    Raises:
        Refusal: for videos of fewer than 9 frames.
    """
    if videos.shape[1] < LEAST_FRAMES:
        raise Refusal(f"FVD takes videos of {LEAST_FRAMES} frames or more, got {videos.shape[1]}")
    with jax.default_matmul_precision("highest"):
        return model(framing(videos))


def _resized(
    x: Float[Array, "b t h w c"], height: int, width: int
) -> Float[Array, "b t {height} {width} c"]:
    b, t, *frame = x.shape
    return bilinear(x.reshape(b * t, *frame), (height, width)).reshape(b, t, height, width, -1)


def _centred(x: Float[Array, "b t h w 3"]) -> Float[Array, "b t h w 3"]:
    return 2 * x / 255 - 1
