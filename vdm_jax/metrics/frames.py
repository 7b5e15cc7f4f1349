"""Frame-wise likeness of two videos."""

from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

IDENTICAL_DB = 100.0  # what psnr reports for equal frames, so that means stay finite


def psnr(a: Shaped[Any, "*batch h w c"], b: Shaped[Any, "*batch h w c"]) -> Float64[Any, "*batch"]:
    """Peak signal to noise ratio of each frame, in dB: 10 log10(peak^2 / mean squared error).

    Both uint8 (peak 255), or both floats in [0, 1] (peak 1). At most IDENTICAL_DB.
    Raises TypeError when the two differ in kind.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype or not (a.dtype == np.uint8 or np.issubdtype(a.dtype, np.floating)):
        raise TypeError(f"psnr needs two uint8 or two float videos, got {a.dtype} and {b.dtype}")
    peak = 255.0 if a.dtype == np.uint8 else 1.0
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2, axis=(-3, -2, -1))
    floor = peak**2 * 10 ** (-IDENTICAL_DB / 10)
    return 10 * np.log10(peak**2 / np.maximum(error, floor))
