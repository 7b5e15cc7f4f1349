"""Cutting and scaling of clips: which frames, which part of the picture, at which size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vdm_jax.core.refusal import Refusal

TRANSFORM_VERSION = 1  # goes up when the same settings give other pixels or other windows


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Which frames of a longer clip make a sample.

    num_frames: frames in a sample. every: take every n-th frame (2 halves the rate). step: frames
    of the clip from the start of one window to the next; None lays them end to end.
    """

    num_frames: int
    every: int = 1
    step: int | None = None

    def __post_init__(self):
        if min(self.num_frames, self.every, 1 if self.step is None else self.step) < 1:
            raise Refusal(f"windows need num_frames, every and step of at least 1, got {self}")

    @property
    def span(self) -> int:
        """Frames of the clip from the first to the last of a window."""
        return (self.num_frames - 1) * self.every + 1

    @property
    def stride(self) -> int:
        """Frames from one window's start to the next's."""
        return self.num_frames * self.every if self.step is None else self.step

    def count(self, total_frames: int) -> int:
        """Windows that fit into a clip."""
        return max(0, (total_frames - self.span) // self.stride + 1)

    def indices(self, window: int) -> range:
        """The frame numbers of one window of a clip."""
        start = window * self.stride
        return range(start, start + self.span, self.every)


def cover(
    frames: Sequence[UInt8[np.ndarray, "h0 w0 3"]] | UInt8[np.ndarray, "t h0 w0 3"],
    size: tuple[int, int],
) -> UInt8[np.ndarray, "t h w 3"]:
    """Scale (antialiased, bicubic) and crop around the centre to fill size = (height, width)."""
    height, width = size
    old_height, old_width = frames[0].shape[:2]
    if (old_height, old_width) == size:
        return np.stack(list(frames))
    scale = max(height / old_height, width / old_width)
    top, left = (old_height - height / scale) / 2, (old_width - width / scale) / 2
    box = (left, top, left + width / scale, top + height / scale)
    small = [
        Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC, box=box)
        for frame in frames
    ]
    return np.stack([np.asarray(picture) for picture in small])


def centre_crop(
    picture: UInt8[np.ndarray, "h0 w0 3"], width_to_height: float
) -> UInt8[np.ndarray, "h w 3"]:
    """The largest part of this shape around the centre of a picture."""
    h0, w0, _ = picture.shape
    h = min(h0, max(1, round(w0 / width_to_height)))
    w = min(w0, max(1, round(h0 * width_to_height)))
    top, left = (h0 - h) // 2, (w0 - w) // 2
    return picture[top : top + h, left : left + w]


def short_side(height: int, width: int, size: int) -> tuple[int, int]:
    """(height, width) of the same shape whose shorter side is `size`; both even."""
    scale = size / min(height, width)
    return max(2, round(height * scale / 2) * 2), max(2, round(width * scale / 2) * 2)
