"""What flows through curation, and what a stage is: clip in, clips out."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float16, UInt8

from vdm_jax.core.refusal import Refusal
from vdm_jax.curate.clock import Clock

SIDECAR = "sidecar"
"""Who wrote the caption that the user gave with a file."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A part of a video file that is decoded at once: frames start … stop - 1.

    file: relative to the input folder. fps: at which they are numbered. end: of the whole video.
    height, width: that its frames are scaled to. caption: that the user gave with the file.
    """

    file: str
    start: int = 0
    stop: int = 0
    fps: float = 1.0
    end: int = 0
    height: int = 0
    width: int = 0
    caption: str = ""

    @property
    def key(self) -> str:
        return f"{self.file}:{self.start}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """Frames start … stop - 1 of a file, and what the stages found out about them.

    frames: at the stored size. scores: numbers by the name of their column; NaN where there is none
    to tell. vectors: what clips are compared by. captions: by who wrote them. rejected: why it is
    of no use; "" as long as it may be.
    """

    file: str
    start: int
    fps: float
    frames: UInt8[np.ndarray, "t h w 3"]
    scores: dict[str, float] = field(default_factory=dict)
    vectors: dict[str, np.ndarray] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)
    rejected: str = ""

    @property
    def key(self) -> str:
        return f"{self.file}:{self.start:07d}"

    @property
    def stop(self) -> int:
        return self.start + len(self.frames)

    def scored(self, **scores: float) -> "Clip":
        return replace(self, scores={**self.scores, **scores})

    def every(self, seconds: float) -> UInt8[np.ndarray, "n h w 3"]:
        """Frames that lie so far apart, from the first on."""
        return self.frames[:: max(1, round(seconds * self.fps))]

    def spread(self, count: int) -> UInt8[np.ndarray, "n h w 3"]:
        """So many frames, evenly from the first to the last."""
        return self.frames[np.linspace(0, len(self.frames) - 1, count).round().astype(int)]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one worker with this stage takes; Ray places workers by it."""

    cpus: float = 1.0
    gpus: float = 0.0
    gigabytes: float = 1.0


@runtime_checkable
class Stage(Protocol):
    """One step of curation. Made in every worker from its config, whose `build` it comes from.

    columns: the scores that it adds, with what they mean.
    """

    resources: Resources
    columns: dict[str, str]

    def setup(self) -> None:
        """Load what it needs, once in each worker. Raises Refusal where that is missing."""
        ...

    def process(self, clip: Clip) -> Iterable[Clip]:
        """None, one or more clips for one; a clip that others rejected is never asked about."""
        ...


@runtime_checkable
class StageConfig(Protocol):
    """A frozen dataclass that builds a stage."""

    def build(self) -> Stage: ...


def chain(stages: Iterable[Stage], clips: Iterable[Clip], clock: Clock) -> Iterable[Clip]:
    """Clips through all stages, one at a time; rejected ones pass by."""
    for stage in stages:
        step = type(stage).__name__.removesuffix("Stage").lower()
        clips = clock.over(step, _through(stage, clips))
    return clips


def _through(stage: Stage, clips: Iterable[Clip]) -> Iterable[Clip]:
    for clip in clips:
        if clip.rejected:
            yield clip
        else:
            yield from stage.process(clip)


def needed(stages: Iterable[Stage]) -> Resources:
    """What a worker takes that runs all of them, one after the other."""
    of_all = [stage.resources for stage in stages] or [Resources()]
    return Resources(
        cpus=max(each.cpus for each in of_all),
        gpus=max(each.gpus for each in of_all),
        gigabytes=sum(each.gigabytes for each in of_all),
    )


def above_zero(config: Any, *names: str) -> None:
    """Refuse a stage of which one of these numbers is not."""
    for name in names:
        if not getattr(config, name) > 0:
            value = getattr(config, name)
            raise Refusal(f"{type(config).__name__}: {name} must be above 0, got {value}")


Row = dict[str, Any]
"""A line of a table: what JSON can hold."""


def packed(vector: np.ndarray) -> str:
    """A vector in a row: its numbers as float16, in base64."""
    return base64.b64encode(vector.astype("<f2").tobytes()).decode()


def unpacked(text: str) -> Float16[np.ndarray, " d"]:
    return np.frombuffer(base64.b64decode(text), "<f2").astype(np.float16)
