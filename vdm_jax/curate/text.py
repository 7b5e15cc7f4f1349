"""How much of the picture is text: titles, credits, captions burnt in."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vdm_jax.core.opencv import opencv, shrunk
from vdm_jax.core.refusal import Refusal
from vdm_jax.curate.stage import Clip, Resources, above_zero

SURE = 0.8  # score from which what was read is believed
LETTERS = 2  # of a text; a disc or a stroke is read as one


@dataclass(frozen=True, kw_only=True)
class Text:
    """frames: of each clip, evenly spread, that are read. side: shorter side, in pixels."""

    frames: int = 3
    side: int = 256

    def __post_init__(self) -> None:
        above_zero(self, "frames", "side")

    def build(self) -> "TextStage":
        return TextStage(self)


class TextStage:
    """PP-OCR's detector and reader through RapidOCR, whose package brings both networks.

    SVD, appendix C, drops clips of which more than 7 % is text.
    """

    resources = Resources(gigabytes=1.5)
    columns = {"text": "area of text in the frame that has most of it, in %"}  # noqa: RUF012

    def __init__(self, config: Text):
        self._config = config

    def setup(self) -> None:
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise Refusal(
                f"finding text needs RapidOCR: pip install 'vdm-jax[curate]' ({error})"
            ) from error
        engine = "EngineConfig.onnxruntime"
        settings = {
            "Global.log_level": "error",
            "Det.limit_type": "min",
            "Det.limit_side_len": self._config.side,
            f"{engine}.intra_op_num_threads": 1,
            f"{engine}.inter_op_num_threads": 1,
        }
        self._read = RapidOCR(params=settings)

    def process(self, clip: Clip) -> Iterable[Clip]:
        frames = clip.spread(self._config.frames)
        return [clip.scored(text=max(self.area(frame) for frame in frames))]

    def area(self, frame: UInt8[np.ndarray, "h w 3"]) -> float:
        """Share of a frame that is text, in %."""
        small = np.ascontiguousarray(shrunk(frame, self._config.side)[..., ::-1])
        found: Any = self._read(small, use_det=True, use_cls=False, use_rec=True)
        mask = np.zeros(small.shape[:2], np.uint8)
        boxes = () if found.boxes is None else found.boxes
        for box, words, sure in zip(boxes, found.txts or (), found.scores or (), strict=True):
            if sure >= SURE and sum(letter.isalnum() for letter in words) >= LETTERS:
                opencv().fillPoly(mask, [np.round(box).astype(np.int32)], 1)
        return 100 * float(mask.mean())
