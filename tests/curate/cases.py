"""What a file is, and what is to become of it."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from curate.media import movie, scene

CANARY = b"CANARY-4f1d9a-CANARY"
COLOUR = (255, 0, 255)  # of the film among the canaries
GOOD = frozenset({""})
NO_VIDEO = frozenset({"no_video"})
BROKEN = frozenset({"no_video", "damaged", "cut_short", "empty", "over_limits"})


@dataclass(frozen=True, kw_only=True)
class Case:
    """allowed: reasons, of which one is to stand in the quarantine; "" where the file is kept.

    frames: what is to be seen in it, if it is kept and this is known. error: mean difference of any
    frame, of 255. prefix: any number of its first frames is right, or none.
    """

    name: str
    kind: str
    allowed: frozenset[str]
    frames: np.ndarray | None = None
    error: float = 6.0
    prefix: bool = False


@dataclass
class Corpus:
    """folder: of the videos. outside: of canaries. port: at which nobody may call."""

    folder: Path
    outside: Path
    port: int
    rng: np.random.Generator
    cases: list[Case] = field(default_factory=list)

    def add(self, name, data, kind, allowed=GOOD, frames=None, **more):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.told(name, kind, allowed, frames, **more)

    def told(self, name, kind, allowed, frames=None, **more):
        self.cases.append(
            Case(name=name, kind=kind, allowed=frozenset(allowed), frames=frames, **more)
        )

    @property
    def canaries(self):
        return [*self.outside.iterdir(), self.folder / "canary.bin", self.folder / "canary.txt"]


@cache
def plain(suffix=".mp4", codec="libx264", options=(), muxing=()):
    return movie(scene(), suffix, codec, options=options, muxing=muxing)
