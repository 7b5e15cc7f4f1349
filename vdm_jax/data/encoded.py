"""Clips that lie in memory as they were stored: the bytes of a video file, or of pictures.

Both come from strangers: `core.container` and `core.still` look at the bytes before FFmpeg or
Pillow does, and hold what they claim against `Limits`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from vdm_jax.core import container, still
from vdm_jax.core.container import Limits
from vdm_jax.core.refusal import Refusal

Video = UInt8[np.ndarray, "t h w 3"]


class Extent(NamedTuple):
    """How much there is of a clip. fps: None where what is stored does not tell."""

    frames: int
    height: int
    width: int
    fps: float | None


def measure_file(data: bytes, limits: Limits) -> Extent:
    """Of the bytes of a video file, all packets of which are read. Raises Refusal."""
    frames, fps = container.measure(data, limits=limits)
    (first,), _ = container.collect(data, stop=1, limits=limits)
    return Extent(frames, first.shape[0], first.shape[1], fps)


def read_file(data: bytes, numbers: range, limits: Limits) -> Video:
    """The frames `numbers` of the bytes of a video file. Raises Refusal."""
    first, last = numbers[0], numbers[-1]
    pictures, _ = container.collect(data, start=first, stop=last + 1, limits=limits)
    if len(pictures) != last + 1 - first:
        raise Refusal(f"video in memory: ends after {first + len(pictures)} frames")
    return np.stack(pictures[:: numbers.step])


def measure_pictures(pictures: Sequence[bytes], limits: Limits) -> Extent:
    """Of the bytes of one picture a frame; the first is decoded. Raises Refusal."""
    if not pictures:
        raise Refusal("has no pictures")
    height, width, _ = still.read_image(pictures[0], limits).shape
    return Extent(len(pictures), height, width, None)


def read_pictures(pictures: Sequence[bytes], limits: Limits) -> Video:
    """Pictures of one size as the frames of a clip. Raises Refusal."""
    frames: list[np.ndarray] = []
    for picture in pictures:
        frames.append(still.read_image(picture, limits))
        height, width, _ = frames[0].shape
        check_room(len(pictures), height, width, limits)
        if frames[-1].shape != frames[0].shape:
            raise Refusal(f"picture {len(frames) - 1} of {len(pictures)} differs in size")
    return np.stack(frames)


def check_room(frames: int, height: int, width: int, limits: Limits) -> None:
    """Refuse what would take more memory than is allowed."""
    if frames > limits.frames or frames * height * width * 3 > limits.bytes:
        raise Refusal(f"{frames} frames of {width}x{height} are more than may be read at once")
