"""How a video moves: how much, how steadily, and whether frames are the ones before, moved.

Of single videos, without a reference. A video that stands still is perfect in flicker and warping
error, so neither is read without `speed`. Needs OpenCV.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8

from vdm_jax.core.opencv import grey, opencv, shrunk
from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics.frames import unit

SMALLEST = 12  # pixels of the shorter side, below which flow cannot be told
RELATIVE, ABSOLUTE = 0.01, 0.5
"""How far forward and backward flow may disagree where nothing is hidden (Sundaram et al. 2010)."""


class Warping(NamedTuple):
    """error: mean squared, of pixels in [0, 1]. seen: part of the pixels that it is of."""

    error: float
    seen: float


def flow(a: UInt8[np.ndarray, "h w"], b: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, "2 h w"]:
    """Where each pixel of `a` lies in `b`: (x, y) from its own place, in pixels.

    DIS flow (Kroeger et al. 2016, arXiv:1603.03590), in OpenCV, preset "medium".
    """
    if min(a.shape) < SMALLEST:
        raise Refusal(f"flow is told of frames of at least {SMALLEST}x{SMALLEST}, got {a.shape}")
    dis = opencv().DISOpticalFlow_create(opencv().DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.moveaxis(dis.calc(a, b, None), -1, 0)


def speed(video: Any, fps: float, *, seconds: float = 0.5, side: int = 128) -> float:
    """Mean length of flow, in % of the shorter side per second.

    Twice the motion score of `vdm_jax.curate`, which tells it of half a second. video: "t h w 3",
    uint8 or floats in [0, 1]. seconds: between the frames compared (the first and the last of a
    shorter video). side: shorter side, in pixels, that they are scaled to at most.
    """
    frames = _bytes(_frames(video))
    if not fps > 0:
        raise Refusal(f"fps is above 0, got {fps}")
    step = min(max(1, round(seconds * fps)), len(frames) - 1)
    small = [grey(shrunk(frame, side)) for frame in frames[::step]]
    lengths = [float(np.hypot(*flow(a, b)).mean()) for a, b in pairwise(small)]
    return 100 * float(np.mean(lengths)) / min(small[0].shape) * fps / step


def warping_error(video: Any) -> Warping:
    """How much each frame differs from the next one, moved back onto it by optical flow.

    Lai et al. 2018 (arXiv:1808.00449), section 3.1, E_warp, the mean over pairs of adjacent frames
    and colours, over pixels that both frames see (`visible`); with the flow of the video itself.
    What does not move as one thing, as noise does, is partly taken for hidden: `seen` tells how
    much was not. A pair without any pixel that both see counts whole, as it is.

    video: "t h w 3", uint8 or floats in [0, 1].
    """
    frames = _frames(video)
    light = [grey(frame) for frame in _bytes(frames)]
    errors, seen = [], []
    for (x, y), (a, b) in zip(pairwise(frames), pairwise(light), strict=True):
        forward = flow(a, b)
        mask = visible(forward, flow(b, a))
        away = (warped(y, forward) - x) ** 2
        errors.append((away[mask] if mask.any() else away).mean())
        seen.append(mask.mean())
    return Warping(float(np.mean(errors)), float(np.mean(seen)))


def flicker(video: Any) -> float:
    """Mean absolute difference of adjacent frames, of pixels in 0..255.

    Temporal flickering of VBench (Huang et al. 2023, arXiv:2311.17982), which prints
    (255 - flicker) / 255. It is meant for scenes that stand still: motion counts as well.
    video: "t h w c", uint8 or floats in [0, 1].
    """
    return 255 * float(np.abs(np.diff(_frames(video), axis=0)).mean())


def warped(
    frame: Float64[np.ndarray, "h w c"], forward: Float[np.ndarray, "2 h w"]
) -> Float64[np.ndarray, "h w c"]:
    """Each pixel from where `forward` points to in `frame`, bilinearly; beyond it, its edge."""
    return np.stack([_at(frame[..., c], forward) for c in range(frame.shape[-1])], -1)


def visible(
    forward: Float[np.ndarray, "2 h w"], backward: Float[np.ndarray, "2 h w"]
) -> Bool[np.ndarray, "h w"]:
    """Pixels that lie in the second frame, too, and that its flow brings back to their place.

    Sundaram et al. 2010 (Dense Point Trajectories), equation 5:
    |w + w'|^2 < 0.01 (|w|^2 + |w'|^2) + 0.5, with the backward flow w' where w points to.
    """
    back = np.stack([_at(part, forward) for part in backward])
    apart, lengths = ((forward + back) ** 2).sum(0), (forward**2 + back**2).sum(0)
    x, y = _places(forward)
    _, h, w = forward.shape
    inside = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
    return inside & (apart < RELATIVE * lengths + ABSOLUTE)


def _places(forward: Float[np.ndarray, "2 h w"]) -> Float64[np.ndarray, "2 h w"]:
    """(x, y) of where each pixel goes."""
    _, h, w = forward.shape
    return np.stack(np.meshgrid(np.arange(w), np.arange(h))) + forward.astype(np.float64)


def _at(
    plane: Float[np.ndarray, "h w"], forward: Float[np.ndarray, "2 h w"]
) -> Float64[np.ndarray, "h w"]:
    from scipy.ndimage import map_coordinates  # half a second that curation does not need

    places = _places(forward)[::-1]
    return map_coordinates(plane.astype(np.float64), places, order=1, mode="nearest")


def _frames(video: Any) -> Float64[np.ndarray, "t h w c"]:
    frames = unit(video)
    if frames.ndim != 4 or len(frames) < 2:
        raise Refusal(f"motion is told of one video of 2 frames or more, got {frames.shape}")
    return frames


def _bytes(frames: Float64[np.ndarray, "t h w c"]) -> UInt8[np.ndarray, "t h w c"]:
    return (255 * frames.clip(0, 1)).round().astype(np.uint8)
