"""How much moves: the mean length of optical flow, as Stable Video Diffusion's curation has it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vdm_jax.core.opencv import grey, opencv, shrunk
from vdm_jax.curate.stage import Clip, Resources, above_zero
from vdm_jax.metrics.motion import flow


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Optical flow between frames half a second apart (SVD, appendix C: at 2 fps).

    seconds: between the two frames. side: shorter side, in pixels, that they are scaled to; flow is
    told in per cent of it, so that the score depends on neither size nor frame rate.
    """

    seconds: float = 0.5
    side: int = 128

    def __post_init__(self) -> None:
        above_zero(self, "seconds", "side")

    def build(self) -> "MotionStage":
        return MotionStage(self)


class MotionStage:
    """The flow of `metrics.motion`, whose `speed` tells the same of any video."""

    resources = Resources()
    columns = {"motion": "mean flow in half a second, in % of the shorter side"}  # noqa: RUF012

    def __init__(self, config: Motion):
        self._config = config

    def setup(self) -> None:
        opencv()

    def process(self, clip: Clip) -> Iterable[Clip]:
        frames, share = clip.every(self._config.seconds), 1.0
        if len(frames) == 1:  # shorter than that
            frames = clip.frames[[0, -1]]
            share = max(len(clip.frames) - 1, 1) / clip.fps / self._config.seconds
        small = [grey(shrunk(frame, self._config.side)) for frame in frames]
        means = [float(np.hypot(*flow(a, b)).mean()) for a, b in pairwise(small)]
        mean = math.fsum(means) / len(means) / share
        return [clip.scored(motion=100 * mean / min(small[0].shape))]
