"""Judges: what a finished run is graded by; the table is printed and kept in the report."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.loader import Source, stack
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.metrics import shapes
from vdm_jax.metrics.frames import psnr

Draw = Callable[[Mapping[str, Any]], UInt8[np.ndarray, "n t h w c"]]
"""Samples, {"video": …, "caption": …}, to what the model makes of all that its task reads of
them: captions, first frames, or of an autoencoder the videos themselves."""


class Verdict(NamedTuple):
    """table: for people. scores: the model's, by name."""

    table: str
    scores: dict[str, float]


@runtime_checkable
class Judge(Protocol):
    """Grades a model by what it makes of held-out samples."""

    def check(self, held_out: Source) -> None:
        """Refuse samples that this judge cannot grade by."""
        ...

    def __call__(self, draw: Draw, held_out: Source) -> Verdict: ...


@dataclass(frozen=True)
class ShapesJudge:
    """The oracle of the moving shapes, beside copying the first frame and beside the truth."""

    num_videos: int = 64
    direction: float = 0.90
    """Least share of right directions."""
    colour: float = 0.95
    """Least share of right colours."""
    first_frame_psnr: float = 28.0
    """Least PSNR of the first frame, dB."""
    last_position_error: float = 0.10
    """Largest mean distance from the true last place, in frame widths."""

    def __post_init__(self) -> None:
        if self.num_videos < 1:
            raise Refusal(f"judge.num_videos must be at least 1, got {self.num_videos}")

    def check(self, held_out: Source) -> None:
        if not isinstance(held_out, MovingShapes):
            raise Refusal(f"ShapesJudge grades MovingShapes, not {type(held_out).__name__}")

    def __call__(self, draw: Draw, held_out: Source) -> Verdict:
        assert isinstance(held_out, MovingShapes)
        truths = [held_out.truth(i) for i in range(self.num_videos)]
        true = np.stack([truth.video for truth in truths])
        captions = [truth.caption for truth in truths]
        scores = shapes.score(draw({"video": true, "caption": captions}), truths)
        rows = {
            "model": scores,
            "copy the first frame": shapes.score(shapes.copy_first_frame(true), truths),
            "the truth itself": shapes.score(true, truths),
        }
        bar = shapes.ShapeScores(
            self.direction, self.colour, math.nan, self.first_frame_psnr, self.last_position_error,
            self.num_videos,
        )  # fmt: skip
        return Verdict(shapes.table(rows, bar), dataclasses.asdict(scores))


@dataclass(frozen=True)
class PSNRJudge:
    """How well samples come back: for autoencoders, of which nothing new is asked."""

    num_videos: int = 64
    """Held-out samples that are compared, or all if there are fewer."""

    def __post_init__(self) -> None:
        if self.num_videos < 1:
            raise Refusal(f"judge.num_videos must be at least 1, got {self.num_videos}")

    def check(self, held_out: Source) -> None:
        """Every source has samples."""

    def __call__(self, draw: Draw, held_out: Source) -> Verdict:
        count = min(self.num_videos, len(held_out))
        samples = stack([held_out[i] for i in range(count)])
        truth = samples["video"]
        flat = np.broadcast_to(truth.mean((2, 3), keepdims=True).round(), truth.shape)
        scores = {
            "psnr": float(psnr(draw(samples), truth).mean()),
            "psnr_of_mean_colour": float(psnr(flat.astype(np.uint8), truth).mean()),
        }
        table = (
            f"PSNR of {count} held-out samples: {scores['psnr']:.2f} dB (each frame's mean colour "
            f"alone: {scores['psnr_of_mean_colour']:.2f} dB)"
        )
        return Verdict(table, scores)
