"""OpenCV, which the extra `curate` brings, as curation and the metrics of motion use it."""

from functools import cache
from types import ModuleType

import numpy as np
from jaxtyping import UInt8

from vdm_jax.core.refusal import Refusal


@cache
def opencv() -> ModuleType:
    """The module, with one thread, since a worker has one core. Refusal where it is missing."""
    try:
        import cv2
    except ImportError as error:
        raise Refusal(
            f"this needs OpenCV, which is missing: pip install opencv-python-headless ({error})"
        ) from error
    cv2.setNumThreads(1)
    return cv2


def shrunk(frame: UInt8[np.ndarray, "h0 w0 3"], side: int) -> UInt8[np.ndarray, "h w 3"]:
    """Scaled so that the shorter side has `side` pixels at most, each the mean of an area.

    First by a whole number, which is fast, leaving out what remains at the right and below.
    """
    area, (height, width, _) = opencv().INTER_AREA, frame.shape
    scale, whole = side / min(height, width), min(height, width) // side
    if scale >= 1:
        return frame
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if whole > 1:
        down, across = height // whole, width // whole
        inside = frame[: down * whole, : across * whole]
        frame = opencv().resize(inside, (across, down), interpolation=area)
    return opencv().resize(frame, size, interpolation=area)


def grey(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    return opencv().cvtColor(frame, opencv().COLOR_RGB2GRAY)
