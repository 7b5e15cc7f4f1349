"""How well the pieces of a long video hang together, and how far it drifts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics.frames import unit


class Seams(NamedTuple):
    """inside: mean jump between adjacent frames of one piece. across: the same where one begins.

    In grey values, 0 to 255. Without seams `across` is NaN.
    """

    inside: float
    across: float

    @property
    def ratio(self) -> float:
        """1: a seam is no more of a jump than motion is."""
        return self.across / max(self.inside, 1e-9)


def jumps(video: Any) -> Float64[np.ndarray, " _"]:
    """Root mean square difference of each frame to the one before, in grey values.

    video: "t h w c", uint8 or floats in [0, 1]; one number less than it has frames.
    """
    frames = unit(video)
    if frames.ndim != 4 or len(frames) < 2:
        raise Refusal(f"jumps are told of one video of 2 frames or more, got {frames.shape}")
    return 255 * np.sqrt((np.diff(frames, axis=0) ** 2).mean((1, 2, 3)))


def seams(video: Any, begins: Sequence[int]) -> Seams:
    """Jumps into the frames `begins`, where pieces of the video begin, and all others."""
    jump = jumps(video)
    at = np.zeros(len(jump), bool)
    for frame in begins:
        if not 1 <= frame <= len(jump):
            raise Refusal(f"a piece begins at frame {frame}; this video has 1 to {len(jump)}")
        at[frame - 1] = True
    across = float(jump[at].mean()) if at.any() else float("nan")
    return Seams(float(jump[~at].mean()) if (~at).any() else float("nan"), across)


def drift(video: Any, size: int) -> float:
    """How far the last `size` frames are from the first, by their colours' means and deviations.

    The mean absolute difference of both over colours, in grey values: it sees what grows pale,
    loud or tinted as a video goes on, and does not see where things are.
    """
    frames = unit(video)
    first, last = frames[:size], frames[-size:]
    told = [[part.mean((0, 1, 2)), part.std((1, 2)).mean(0)] for part in (first, last)]
    return 255 * float(np.abs(np.array(told[0]) - np.array(told[1])).mean())
