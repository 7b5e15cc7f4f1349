"""Cutting and scaling of clips: which frames, which part of the picture, at which size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from vdm_jax.core.refusal import Refusal

TRANSFORM_VERSION = 2  # goes up when the same settings give other pixels, windows or fields

Place = tuple[float, float]
"""Where a crop lies in what it is cut from, down and across: 0 is at the top left, 1 at the end."""

MIDDLE: Place = (0.5, 0.5)


@dataclass(frozen=True)
class CentreCrop:
    """The middle of every picture."""

    def at(self, rng: np.random.Generator) -> Place:
        return MIDDLE


@dataclass(frozen=True)
class RandomCrop:
    """Any part of a picture, the same in all frames of a sample."""

    def at(self, rng: np.random.Generator) -> Place:
        down, across = rng.random(2)
        return float(down), float(across)


Crop = CentreCrop | RandomCrop


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


def check_fps(fps: float | int | None) -> None:
    """Refuse what is no rate; None is a clip's own."""
    if fps is not None and not 0 < fps < math.inf:
        raise Refusal(f"fps must be above 0, got {fps}")


def check_size(height: int, width: int) -> None:
    """Refuse a picture without pixels."""
    for name, value in (("height", height), ("width", width)):
        if value < 1:
            raise Refusal(f"{name} must be at least 1, got {value}")


def resampled(frames: int, own: float, fps: float) -> int:
    """How long a clip of `frames` at its `own` rate is at another, as `core.video` counts."""
    return round((frames - 1) * fps / own) + 1


def shown(number: int, own: float, fps: float) -> int:
    """Which frame of a clip at its `own` rate is seen at frame `number` of another rate.

    The last one whose time, to the nearest frame of the new rate, has come.
    """
    last = math.floor((number + 0.5) * own / fps + 1e-6)
    return last if round(last * fps / own) <= number else last - 1


def cover(
    frames: Sequence[UInt8[np.ndarray, "h0 w0 3"]] | UInt8[np.ndarray, "t h0 w0 3"],
    size: tuple[int, int],
    at: Place = MIDDLE,
    resampling: Image.Resampling = Image.Resampling.BICUBIC,
) -> UInt8[np.ndarray, "t h w 3"]:
    """Scale (antialiased) and crop to fill size = (height, width)."""
    height, width = size
    old_height, old_width = frames[0].shape[:2]
    if (old_height, old_width) == size:
        return np.asarray(frames)
    scale = max(height / old_height, width / old_width)
    top, left = (old_height - height / scale) * at[0], (old_width - width / scale) * at[1]
    box = (left, top, left + width / scale, top + height / scale)
    small = [
        Image.fromarray(frame).resize((width, height), resampling, box=box) for frame in frames
    ]
    return np.stack([np.asarray(picture) for picture in small])


def framing(
    old: tuple[int, int], size: tuple[int, int], at: Place = MIDDLE
) -> Float32[np.ndarray, " 6"]:
    """What `cover` did, as networks are told it (SDXL, Podell et al. 2023, section 2.2).

    Height and width before; top and left of the crop, in pixels of the scaled picture; height and
    width after.
    """
    scale = max(size[0] / old[0], size[1] / old[1])
    top, left = ((o * scale - new) * place for o, new, place in zip(old, size, at, strict=True))
    return np.array([*old, top, left, *size], np.float32)


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
