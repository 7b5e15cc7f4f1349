"""Frame-wise likeness of two videos."""

from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from vdm_jax.core.refusal import Refusal

IDENTICAL_DB = 100.0  # what psnr reports for equal frames, so that means stay finite

SIGMA, RADIUS = 1.5, 5
"""Of the window of SSIM, in pixels: 11x11."""
C1, C2 = 0.01**2, 0.03**2
"""(K1 L)^2 and (K2 L)^2 with L = 1, the range of the pixels."""
BEYOND = 1e-3
"""How far rounding may take a pixel out of [0, 1]."""


def psnr(a: Shaped[Any, "*batch h w c"], b: Shaped[Any, "..."]) -> Float64[Any, "*batch"]:
    """Peak signal to noise ratio of each frame, in dB: 10 log10(peak^2 / mean squared error).

    Both uint8 (peak 255), or both floats in [0, 1] (peak 1). At most IDENTICAL_DB.
    Raises Refusal when the two differ in kind or shape, or hold what is no pixel.
    """
    a, b = _pair(a, b)
    error = np.mean((a - b) ** 2, axis=(-3, -2, -1))
    return -10 * np.log10(np.maximum(error, 10 ** (-IDENTICAL_DB / 10)))


def ssim(a: Shaped[Any, "*batch h w c"], b: Shaped[Any, "..."]) -> Float64[Any, "*batch"]:
    """Structural similarity of each frame: 1 for equal ones, about 0 for unrelated ones.

    Wang et al. 2004 (Image Quality Assessment), section III: in a Gaussian window of 11x11 pixels
    (sigma 1.5) wherever it lies inside the frame, K1 = 0.01, K2 = 0.03, covariances of the window
    as a population; each colour by itself, then their mean. Both uint8, or both floats in [0, 1].
    Raises Refusal as `psnr` does, and for frames smaller than the window.
    """
    a, b = _pair(a, b)
    least = 2 * RADIUS + 1
    if min(a.shape[-3:-1]) < least:
        raise Refusal(f"SSIM takes frames of at least {least}x{least}, got {a.shape[-3:-1]}")
    flat = (x.reshape(-1, *x.shape[-3:]) for x in (a, b))
    values = [_similarity(x, y) for x, y in zip(*flat, strict=True)]
    return np.array(values, np.float64).reshape(a.shape[:-3])


def unit(video: Any) -> Float64[np.ndarray, "*batch h w c"]:
    """Frames as float64 in [0, 1], of uint8 or of floats that are there already.

    Raises Refusal for any other kind, frames of several sizes, and pixels outside or not finite.
    """
    try:
        found = np.asarray(video)
    except ValueError as error:
        raise Refusal("frames of several sizes make no video; bring them to one") from error
    if found.ndim < 3 or found.size == 0:
        raise Refusal(f"a video is (frames, height, width, colours), got {found.shape}")
    if found.dtype == np.uint8:
        return found / 255.0
    if not np.issubdtype(found.dtype, np.floating):
        raise Refusal(f"frames are uint8, or floats in [0, 1]; got {found.dtype}")
    found = found.astype(np.float64)
    low, high = found.min(), found.max()
    if not np.isfinite(low + high):
        wrong = np.argwhere(~np.isfinite(found))[0, :-3].tolist()
        raise Refusal(f"frame {', '.join(map(str, wrong)) or 0} has pixels that are not finite")
    if low < -BEYOND or high > 1 + BEYOND:
        raise Refusal(f"frames of floats are in [0, 1], these in [{low:.4g}, {high:.4g}]")
    return found


def _pair(
    a: Shaped[Any, "..."], b: Shaped[Any, "..."]
) -> tuple[Float64[np.ndarray, "*batch h w c"], Float64[np.ndarray, "*batch h w c"]]:
    x, y = unit(a), unit(b)
    kinds = np.asarray(a).dtype, np.asarray(b).dtype
    if x.shape != y.shape or (kinds[0] == np.uint8) != (kinds[1] == np.uint8):
        raise Refusal(
            f"two videos of one size and kind are compared, "
            f"got {kinds[0]} {x.shape} and {kinds[1]} {y.shape}"
        )
    return x, y


def _similarity(x: Float64[np.ndarray, "h w c"], y: Float64[np.ndarray, "h w c"]) -> float:
    """Wang et al. 2004, equation 13, averaged over the places of the window."""
    mx, my = _windowed(x), _windowed(y)
    xx, yy, xy = _windowed(x * x) - mx**2, _windowed(y * y) - my**2, _windowed(x * y) - mx * my
    alike = (2 * mx * my + C1) * (2 * xy + C2)
    return float((alike / ((mx**2 + my**2 + C1) * (xx + yy + C2))).mean())


def _windowed(x: Float64[np.ndarray, "h w c"]) -> Float64[np.ndarray, "_ _ c"]:
    from scipy.ndimage import gaussian_filter  # half a second that psnr does not need

    smooth = gaussian_filter(x, SIGMA, radius=RADIUS, axes=(0, 1))
    return smooth[RADIUS:-RADIUS, RADIUS:-RADIUS]
