"""Clips that a model draws for an evaluation: a folder of videos, which a kill does not lose.

Each clip is a lossless MP4, so that what is measured is what was drawn, and any other program can
measure it too. What is on disk is not drawn again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from vdm_jax.core import manifest, processes, video
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import About, digest
from vdm_jax.data.source import stack
from vdm_jax.data.transform import cover
from vdm_jax.evaluate.sets import Taken
from vdm_jax.sample.pipeline import Pipeline

NOTE = "drawn.json"


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What a model makes of the samples `given`: of their captions, their first frames, ….

    folder: of the videos. run: counts repetitions; the seed grows by it. size: (height, width) that
    clips are brought to when they are measured. settings: of how the model draws.
    """

    title: str
    model: Path
    folder: Path
    given: Taken
    size: tuple[int, int]
    settings: Mapping[str, Any]
    seed: int
    run: int = 0

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, number: int) -> UInt8[np.ndarray, "t h w 3"]:
        frames = video.read(self.path(number)).frames
        return cover(frames, self.size, resampling=Image.Resampling.BILINEAR)

    def about(self, number: int) -> About:
        return self.given.about(number)

    def identity(self, number: int) -> str:
        return f"{self._drawn_with} {self.given.identity(number)} as {number} at {self.size}"

    def path(self, number: int) -> Path:
        return self.folder / f"{self.run:02d}-{number:05d}.mp4"

    def missing(self) -> list[int]:
        return [number for number in range(len(self)) if not self.path(number).is_file()]

    @cached_property
    def _drawn_with(self) -> str:
        """All that the pixels depend on, apart from the sample."""
        told = {
            "weights": newest(self.model),
            "settings": {name: repr(value) for name, value in sorted(self.settings.items())},
            "seed": self.seed + self.run,
        }
        return json.dumps(told, sort_keys=True)

    def begin(self) -> None:
        """Say in the folder what it holds. Refuses one that holds clips of something else."""
        note = self.folder / NOTE
        mine = {str(self.run): self._drawn_with, "samples": digest(self.given.identity(0))}
        found = json.loads(note.read_text()) if note.is_file() else {}
        if differ := [name for name in mine if name in found and found[name] != mine[name]]:
            raise Refusal(
                f"{self.folder}: holds clips that were drawn otherwise ({', '.join(differ)}: "
                f"{found[differ[0]]}); give another --output"
            )
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            part = note.with_suffix(".part")
            part.write_text(json.dumps({**found, **mine}, indent=1))
            part.replace(note)

    def draw(self, pipeline: Pipeline, batch: int, tell: Callable[[int], object]) -> None:
        """Draw and keep what is missing. tell: is called with how many clips were drawn.

        Raises Refusal where the model gives what is no number.
        """
        numbers = self.missing()
        processes.meet("what is to be drawn")
        for start in range(0, len(numbers), batch):
            some = numbers[start : start + batch]
            samples = stack([self.given.sample(i) for i in some])
            drawn = pipeline.again(samples, some, seed=self.seed + self.run)
            self._keep(some, drawn, pipeline.task.video.fps)
            tell(len(some))

    def _keep(self, numbers: list[int], drawn: Float[np.ndarray, "n t h w 3"], fps: float) -> None:
        for number, frames in zip(numbers, drawn, strict=True):
            if not np.isfinite(frames).all():
                raise Refusal(
                    f"{self.title}: clip {number} has frames that are no numbers; the weights in "
                    f"{self.model} are bad, or its settings too strong"
                )
            if jax.process_index() == 0:
                picture = np.round(frames * 255).astype(np.uint8)
                video.write(self.path(number), picture, fps, codec=video.Lossless())


def newest(model: Path) -> str:
    """A name of the weights that a model or run directory draws with."""
    steps = sorted((model / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
    folder = steps[-1] if steps else model
    if not (folder / manifest.NAME).is_file():
        raise Refusal(f"{model}: has no weights")
    return hashlib.sha256((folder / manifest.NAME).read_bytes()).hexdigest()
