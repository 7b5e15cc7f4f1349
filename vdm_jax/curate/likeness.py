"""What clips are compared by, to find those that are there twice."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from vdm_jax.core.opencv import grey, opencv
from vdm_jax.curate.stage import Clip, Resources, above_zero

LIKENESS = "likeness"
FLAT = 2.0
"""Deviation of pixels, of 255, below which a picture has nothing to be compared by."""


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """frames: of each clip, evenly spread. side: to which each is scaled."""

    frames: int = 5
    side: int = 12

    def __post_init__(self) -> None:
        above_zero(self, "frames", "side")

    def build(self) -> "LikenessStage":
        return LikenessStage(self)


class LikenessStage:
    """A unit vector of each clip: tiny grey pictures of it, each without its mean.

    Of a copy of another size, rate, brightness or compression it is nearly the same.
    """

    resources = Resources()
    columns: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, config: Likeness):
        self._config = config

    def setup(self) -> None:
        opencv()

    def process(self, clip: Clip) -> Iterable[Clip]:
        side = self._config.side, self._config.side
        area = opencv().INTER_AREA
        frames = clip.spread(self._config.frames)
        small = [opencv().resize(grey(frame), side, interpolation=area) for frame in frames]
        tiny = np.stack(small).astype(np.float32)
        tiny -= tiny.mean((1, 2), keepdims=True)
        length = float(np.linalg.norm(tiny))
        flat = length < FLAT * tiny.size**0.5
        vector = np.zeros(tiny.size, np.float32) if flat else tiny.reshape(-1) / length
        return [replace(clip, vectors={**clip.vectors, LIKENESS: vector})]


def copies(vectors: Float[np.ndarray, "n d"], alike: float, block: int = 4096) -> dict[int, int]:
    """{clip: an earlier clip that it is a copy of}, where the cosine of both is at least `alike`.

    The first of a group stays; all others point to it. Zero vectors are like nothing.
    """
    first: dict[int, int] = {}
    for begin in range(0, len(vectors), block):
        rows = vectors[begin : begin + block]
        for earlier in range(0, begin + 1, block):
            close = rows @ vectors[earlier : earlier + block].T >= alike
            for row, column in zip(*(index.tolist() for index in close.nonzero()), strict=True):
                a, b = begin + row, earlier + column
                if b < a and a not in first:
                    first[a] = first.get(b, b)
    return first
