"""Where the view goes: to a side, up or down, nearer or away, by the motion that most of it shares.

Optical flow on a grid is fitted by a shift, a turn and a scale with RANSAC (Fischler and Bolles
1981), so that what moves before the camera does not count. A thing that fills most of the picture
cannot be told from the camera.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from vdm_jax.core.opencv import grey, opencv, shrunk
from vdm_jax.curate.stage import Clip, Resources, above_zero
from vdm_jax.metrics.motion import flow

GRID = 8  # pixels between points
SHARED = 0.5  # of the points, from which the picture is said to move as one


@dataclass(frozen=True, kw_only=True)
class Camera:
    """seconds: between two frames. side: shorter side, in pixels, that they are scaled to."""

    seconds: float = 0.5
    side: int = 128

    def __post_init__(self) -> None:
        above_zero(self, "seconds", "side")

    def build(self) -> "CameraStage":
        return CameraStage(self)


class CameraStage:
    """A clip no longer than `seconds` has no scores."""

    resources = Resources()
    columns = {  # noqa: RUF012
        "pan": "how far the view goes right in half a second, in % of the shorter side",
        "tilt": "how far it goes up, likewise",
        "zoom": "how much nearer it comes in half a second, in %",
    }

    def __init__(self, config: Camera):
        self._config = config

    def setup(self) -> None:
        opencv()

    def process(self, clip: Clip) -> Iterable[Clip]:
        small = [grey(shrunk(f, self._config.side)) for f in clip.every(self._config.seconds)]
        moves = [fitted(flow(a, b)) for a, b in pairwise(small)]
        if not moves:
            return [clip]
        pan, tilt, zoom = (np.mean(moves, axis=0) * 0.5 / self._config.seconds).tolist()
        return [clip.scored(pan=pan, tilt=tilt, zoom=zoom)]


def fitted(flow: Float[np.ndarray, "2 h w"]) -> tuple[float, float, float]:
    """(pan, tilt, zoom) of the view between two frames; zeros where most does not move as one."""
    _, h, w = flow.shape
    y, x = np.mgrid[GRID // 2 : h : GRID, GRID // 2 : w : GRID].reshape(2, -1)
    centre = np.array([w - 1, h - 1]) / 2
    here = (np.stack([x, y], 1) - centre).astype(np.float32)
    there = here + flow[:, y, x].T
    matrix, inside = opencv().estimateAffinePartial2D(
        here, there, method=opencv().RANSAC, ransacReprojThreshold=1.0
    )
    if matrix is None or inside.mean() < SHARED:
        return 0.0, 0.0, 0.0
    shift = 100 * matrix[:, 2] / min(h, w)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    return -float(shift[0]), float(shift[1]), 100 * (scale - 1)
