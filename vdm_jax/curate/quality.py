"""How good the pictures are, technically: light, contrast, sharpness, noise, frames that stand.

Plain measures of pixels, of pictures of one size; nothing learnt, so none is called aesthetic.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import UInt8

from vdm_jax.core.opencv import grey, opencv, shrunk
from vdm_jax.curate.stage import Clip, Resources, above_zero

SECOND_DERIVATIVES = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
"""Sees noise and neither edges nor slopes (Immerkaer 1996, Fast Noise Variance Estimation)."""
QUARTER = 0.3186
"""Deviations of a normal number from zero, in the quarter that is nearest: fine texture, which most
pictures have somewhere, hides in the others."""
STANDS = 0.5
"""Mean change of a pixel, of 255, below which a frame is the one before."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """frames: of each clip, evenly spread, that are looked at; all for `standing`. side: shorter
    side, in pixels, that they are scaled to, so that scores mean the same at every stored size.
    """

    frames: int = 5
    side: int = 128

    def __post_init__(self) -> None:
        above_zero(self, "frames", "side")

    def build(self) -> "QualityStage":
        return QualityStage(self)


class QualityStage:
    resources = Resources()
    columns = {  # noqa: RUF012
        "brightness": "mean, in % of white",
        "contrast": "standard deviation of pixels, in % of white",
        "sharpness": "deviation of the Laplacian in that of the pixels; blur lowers it",
        "noise": "standard deviation of fine noise, in % of white",
        "standing": "share of frames that are the one before",
    }

    def __init__(self, config: Quality):
        self._config = config

    def setup(self) -> None:
        opencv()

    def process(self, clip: Clip) -> Iterable[Clip]:
        small = [shrunk(frame, self._config.side) for frame in clip.spread(self._config.frames)]
        scores = np.array([measured(grey(frame)) for frame in small])
        brightness, contrast, sharpness, noise = np.median(scores, axis=0).tolist()
        return [
            clip.scored(
                brightness=brightness,
                contrast=contrast,
                sharpness=sharpness,
                noise=noise,
                standing=standing(clip),
            )
        ]


def measured(picture: UInt8[np.ndarray, "h w"]) -> tuple[float, float, float, float]:
    """(brightness, contrast, sharpness, noise) of a grey picture; see `QualityStage.columns`."""
    cv2 = opencv()
    deviation = float(picture.std())
    laplacian = cv2.Laplacian(picture, cv2.CV_32F)
    fine = cv2.filter2D(picture, cv2.CV_32F, SECOND_DERIVATIVES)[1:-1, 1:-1]
    noise = float(np.quantile(np.abs(fine), 0.25)) / QUARTER / 6  # the filter's norm is 6
    sharpness = float(laplacian.std()) / max(deviation, 1.0)
    return float(picture.mean()) / 2.55, deviation / 2.55, sharpness, noise / 2.55


def standing(clip: Clip) -> float:
    """The share of frames, of all but the first, that hardly differ from the one before."""
    frames = clip.frames[:, ::4, ::4]
    if len(frames) == 1:
        return 1.0
    change = np.array([np.abs(b.astype(np.int16) - a).mean() for a, b in pairwise(frames)])
    return float((change < STANDS).mean())
