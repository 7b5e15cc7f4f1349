"""What a detector finds, as scores: how many, how large, in how many frames.

The detector is the user's, of boxes or of masks, whatever it was trained to find: people, faces,
logos. A network in ONNX runs here (`Onnx`); anything else is a function of the user's (`Imported`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from vdm_jax.core.opencv import opencv
from vdm_jax.core.refusal import Refusal
from vdm_jax.curate.stage import Clip, Resources
from vdm_jax.curate.weights import Need

GREY = 114  # around a picture that does not fill the network's input


class Found(NamedTuple):
    """All that was found in a frame. areas: of each, as a share of the frame. sure: 0 to 1. kinds:
    numbers of classes.
    """

    areas: Float[np.ndarray, " n"]
    sure: Float[np.ndarray, " n"]
    kinds: Int[np.ndarray, " n"]


@runtime_checkable
class Detector(Protocol):
    def detect(self, frame: UInt8[np.ndarray, "h w 3"]) -> Found: ...


@runtime_checkable
class DetectorConfig(Protocol):
    """A frozen dataclass that builds a detector: `Onnx`, `Imported`."""

    @property
    def needs(self) -> Sequence[Need]: ...

    def check(self, weights: Mapping[str, Path]) -> None:
        """Refuse what cannot be built."""
        ...

    def build(self, weights: Mapping[str, Path]) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Detection:
    """name: that columns begin with. kinds: numbers of the classes that count; empty: all. sure:
    from which a detection is believed. frames: of each clip, evenly spread, that are looked at.
    """

    name: str
    detector: DetectorConfig
    kinds: tuple[int, ...] = ()
    sure: float = 0.5
    frames: int = 3
    gpus: float = 0.0
    gigabytes: float = 1.0

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise Refusal(f"name of a detection must be one word, got {self.name!r}")
        if self.frames < 1 or not 0 <= self.sure <= 1:
            raise Refusal(f"{self.name}: frames must be at least 1 and sure in [0, 1]")

    @property
    def needs(self) -> tuple[Need, ...]:
        return tuple(self.detector.needs)

    def build(self, weights: Mapping[str, Path]) -> "DetectionStage":
        return DetectionStage(self, weights)


class DetectionStage:
    def __init__(self, config: Detection, weights: Mapping[str, Path]):
        self._config, self._weights = config, weights
        self.resources = Resources(gpus=config.gpus, gigabytes=config.gigabytes)
        self.columns = {
            f"{config.name}_count": "most in one frame",
            f"{config.name}_area": "the largest of all, in % of the frame",
            f"{config.name}_frames": "frames with at least one, in %",
        }

    def setup(self) -> None:
        self._config.detector.check(self._weights)

    def process(self, clip: Clip) -> Iterable[Clip]:
        areas = [self._areas(frame) for frame in clip.spread(self._config.frames)]
        counts = np.array([len(each) for each in areas])
        largest = max((float(each.max()) for each in areas if len(each)), default=0.0)
        values = float(counts.max()), 100 * largest, 100 * float((counts > 0).mean())
        return [clip.scored(**dict(zip(self.columns, values, strict=True)))]

    def _areas(self, frame: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, " n"]:
        """Of all that counts in a frame."""
        found, kinds = self._detector.detect(frame), self._config.kinds
        counts = found.sure >= self._config.sure
        if kinds:
            counts &= np.isin(found.kinds, kinds)
        return found.areas[counts]

    @cached_property
    def _detector(self) -> Detector:
        return self._config.detector.build(self._weights)


def of_boxes(boxes: Float[np.ndarray, "n 4"], height: int, width: int) -> Float[np.ndarray, " n"]:
    """Areas of boxes (left, top, right, bottom) in pixels, as far as they lie in the frame."""
    inside = np.clip(boxes, 0, [width, height, width, height])
    sides = np.maximum(inside[:, 2:] - inside[:, :2], 0)
    return sides.prod(1) / (height * width)


@dataclass(frozen=True, kw_only=True)
class Onnx:
    """A network in an ONNX file that takes one picture and gives boxes.

    Input: one, float32 (1, 3, h, w), RGB in 0..1; the frame is scaled to fit and stands in the
    middle of grey. Output: the first, float32 (1, n, 6): left, top, right, bottom in pixels of the
    input, how sure (0 to 1), the number of the class; rows beyond what was found are of 0. It is
    how YOLO networks are exported with their selection of boxes inside.

    weights: name of the file in --weights. side: height and width where the file leaves them open.
    """

    weights: str = "detector"
    side: int = 640

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Need(self.weights, "an ONNX file of a detector, (1, 3, h, w) to (1, n, 6)"),)

    def check(self, weights: Mapping[str, Path]) -> None:
        self.build(weights)

    def build(self, weights: Mapping[str, Path]) -> "OnnxDetector":
        return OnnxDetector(weights[self.weights], self.side)


class OnnxDetector:
    """On the CPU, with one thread: there is a worker for each core."""

    def __init__(self, path: Path, side: int):
        try:
            import onnxruntime
        except ImportError as error:
            raise Refusal(
                f"detection needs onnxruntime: pip install 'vdm-jax[curate]' ({error})"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._run = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # of the library's own kinds, which share no other base
            reason = str(error).strip().splitlines()[0][:200]
            raise Refusal(f"{path}: is no network in ONNX that runs here: {reason}") from error
        inputs = self._run.get_inputs()
        told = [f"{each.type} {each.shape}" for each in inputs]
        shape = inputs[0].shape
        if told[1:] or inputs[0].type != "tensor(float)" or len(shape) != 4 or shape[1] != 3:
            raise Refusal(f"{path}: takes {', '.join(told)}; wanted is float (1, 3, h, w)")
        self._name = inputs[0].name
        self._sizes = [size if isinstance(size, int) else side for size in shape[2:]]
        given = self._rows(np.zeros((1, 3, *self._sizes), np.float32)).shape
        if len(given) != 3 or given[0] != 1 or given[2] != 6:
            raise Refusal(f"{path}: gives {given}; wanted is (1, n, 6)")

    def detect(self, frame: UInt8[np.ndarray, "h w 3"]) -> Found:
        height, width, _ = frame.shape
        picture, scale, corner = fitted(frame, *self._sizes)
        inputs = picture.transpose(2, 0, 1)[None].astype(np.float32) / 255
        rows = self._rows(inputs)[0]
        boxes = (rows[:, :4] - np.tile(corner, 2)) / scale
        return Found(of_boxes(boxes, height, width), rows[:, 4], rows[:, 5].astype(int))

    def _rows(self, inputs: Float[np.ndarray, "1 3 h w"]) -> Float[np.ndarray, "..."]:
        return np.asarray(self._run.run(None, {self._name: inputs})[0])


def fitted(
    frame: UInt8[np.ndarray, "h0 w0 3"], height: int, width: int
) -> tuple[UInt8[np.ndarray, "{height} {width} 3"], float, Float[np.ndarray, "2"]]:
    """(the frame in the middle of grey, how much it was scaled, where its left top corner is)."""
    scale = min(height / frame.shape[0], width / frame.shape[1])
    h, w = (max(1, round(side * scale)) for side in frame.shape[:2])
    top, left = (height - h) // 2, (width - w) // 2
    out = np.full((height, width, 3), GREY, np.uint8)
    out[top : top + h, left : left + w] = opencv().resize(frame, (w, h))
    return out, scale, np.array([left, top], float)
