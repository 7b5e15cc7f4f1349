"""Cutting a stream of frames into shots, with PySceneDetect."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from vdm_jax.core.refusal import Refusal

INSTALL = "pip install 'vdm-jax[curate]'"


class Shot(NamedTuple):
    """Frames between two cuts; `start` is the number of the first in the stream."""

    start: int
    frames: UInt8[np.ndarray, "t h w 3"]


def shots(
    frames: Iterable[UInt8[np.ndarray, "h w 3"]], fps: float | int, *, start: int = 0
) -> Iterator[Shot]:
    """Split frames, numbered from `start`, at every hard cut; holds one shot in memory.

    A frame begins a new shot where its mean change of hue, saturation and brightness from the one
    before reaches PySceneDetect's default of 27 (of 255); frames of about 100 to 300 pixels suit
    it. No shortest length is set, as that would hide cuts inside shots: a flash yields shots of a
    few frames instead. Dissolves are not found. Raises Refusal if PySceneDetect is not installed.
    """
    cuts = _Cuts(fps)
    held: list[np.ndarray] = []
    for frame in frames:
        if cuts.before(frame) and held:
            yield Shot(start, np.stack(held))
            start, held = start + len(held), []
        held.append(frame)
    if held:
        yield Shot(start, np.stack(held))


class _Cuts:
    """Tells, frame by frame, whether a cut lies before it."""

    def __init__(self, fps: float | int):
        try:
            from scenedetect import FrameTimecode
            from scenedetect.detectors import ContentDetector
        except ImportError as error:
            raise Refusal(f"finding shots needs PySceneDetect: {INSTALL} ({error})") from error
        self._at = lambda number: FrameTimecode(number, float(fps))
        self._detector = ContentDetector(min_scene_len=0)
        self._number = 0

    def before(self, frame: UInt8[np.ndarray, "h w 3"]) -> bool:
        bgr = np.ascontiguousarray(frame[..., ::-1])
        found = self._detector.process_frame(self._at(self._number), bgr)
        self._number += 1
        return bool(found)
