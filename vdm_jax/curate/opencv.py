"""OpenCV, which the extra `curate` brings, as the stages use it."""

from functools import cache
from types import ModuleType

import numpy as np
from jaxtyping import UInt8

from vdm_jax.core.refusal import Refusal


@cache
def opencv() -> ModuleType:
    """The module, with one thread: there is a worker for each core. Refusal where it is missing."""
    try:
        import cv2
    except ImportError as error:
        raise Refusal(f"curation needs OpenCV: pip install 'vdm-jax[curate]' ({error})") from error
    cv2.setNumThreads(1)
    return cv2


def shrunk(frame: UInt8[np.ndarray, "h0 w0 3"], side: int) -> UInt8[np.ndarray, "h w 3"]:
    """Scaled so that the shorter side has `side` pixels at most, each the mean of an area."""
    scale = side / min(frame.shape[:2])
    if scale >= 1:
        return frame
    size = max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale))
    return opencv().resize(frame, size, interpolation=opencv().INTER_AREA)


def grey(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    return opencv().cvtColor(frame, opencv().COLOR_RGB2GRAY)
