"""Decoded pictures as RGB arrays: scaled, and turned and mirrored as their metadata says."""

import math
import struct
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type
from av.video.reformatter import Interpolation, VideoReformatter
from jaxtyping import UInt8

_EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_BICUBIC, _AREA = Interpolation.BICUBIC | _EXACT, Interpolation.AREA | _EXACT


class Upright:
    """Makes arrays of the pictures of one file. size: their (height, width); None is their own."""

    def __init__(self, size: tuple[int, int] | None):
        self._size = size
        self._ways: dict[int, _Way] = {}  # by the rotation that is told; one or two
        self._scaler = VideoReformatter()  # of all: its tables cost as much as a picture

    def __call__(self, picture: av.VideoFrame) -> UInt8[np.ndarray, "h w 3"]:
        if picture.rotation not in self._ways:
            self._ways[picture.rotation] = _way(picture)
        way = self._ways[picture.rotation]
        height, width = self._size or (picture.height, picture.width)
        if self._size and way.turns % 2:
            height, width = width, height
        halved = 2 * height <= picture.height and 2 * width <= picture.width
        rgb = self._scaler.reformat(
            picture,
            width=width,
            height=height,
            format="gbrp",  # in planes: the same values as rgb24, in half the time
            interpolation=_AREA if halved else _BICUBIC,
        )
        turned = np.rot90(rgb.to_ndarray(), way.turns)
        return np.ascontiguousarray(turned[:, ::-1] if way.mirrored else turned)


class _Way(NamedTuple):
    """How to turn a picture upright: quarters counterclockwise, then left and right exchanged."""

    turns: int
    mirrored: bool


def _way(picture: av.VideoFrame) -> _Way:
    """Costly: a picture that was asked for its side data is only freed by the garbage collector."""
    try:
        told: Any = picture.side_data  # its types only know of motion vectors
        matrix = told.get(Type.DISPLAYMATRIX)
    except ValueError:  # some other data, of a kind that PyAV has no name for
        return _Way(round(picture.rotation / 90) % 4, mirrored=False)
    if matrix is None:
        return _Way(0, mirrored=False)
    a, b, _, c, d, *_ = struct.unpack("9i", bytes(matrix))  # x' = ax + cy, y' = bx + dy
    mirrored = a * d < b * c
    quarters = math.atan2(-b, -a if mirrored else a) / (math.pi / 2)
    return _Way(round(quarters) % 4, mirrored)
