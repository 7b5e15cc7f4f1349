"""Large videos made small: what a model of super-resolution is trained to undo.

Both are antialiased: a pixel of the small video is a mean of what it covers, so that what is too
fine for it is gone and does not come back as another pattern. Everything is done on the host, in
bytes, as a small video that a user brings has been made and stored.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.transform import cover


@runtime_checkable
class Degradation(Protocol):
    """A way from large videos to small ones."""

    @property
    def factor(self) -> int:
        """How many times as high and as wide the large video is."""
        ...

    def __call__(self, video: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t h/f w/f 3"]:
        """The small video. Raises Refusal where height or width are no multiples of the factor."""
        ...


@dataclass(frozen=True)
class AreaMean:
    """Each pixel is the mean of factor x factor: what `guidance.Downsample` sees, in bytes."""

    factor: int = 4

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def __call__(self, video: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t _ _ 3"]:
        t, rows, columns = len(video), *smaller(video.shape[1], video.shape[2], self.factor)
        blocks = video.reshape(t, rows, self.factor, columns, self.factor, 3)
        return np.round(blocks.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)


@dataclass(frozen=True)
class Bicubic:
    """Cubic interpolation over 4 x factor pixels each way: sharper, as image programs shrink."""

    factor: int = 4

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def __call__(self, video: UInt8[np.ndarray, "t h w 3"]) -> UInt8[np.ndarray, "t _ _ 3"]:
        return cover(video, smaller(video.shape[1], video.shape[2], self.factor))


def smaller(height: int, width: int, factor: int) -> tuple[int, int]:
    """Height and width of the small video. Raises Refusal where they are no whole numbers."""
    if height % factor or width % factor:
        raise Refusal(
            f"a video of {height}x{width} has no {factor} times smaller one: height and width "
            f"must be multiples of {factor}"
        )
    return height // factor, width // factor


def _check_factor(factor: int) -> None:
    if factor < 1:
        raise Refusal(f"factor must be at least 1, got {factor}")
