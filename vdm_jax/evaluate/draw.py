"""Clips that a model draws for an evaluation: a folder of videos, which a kill does not lose.

Each clip is a lossless MP4, named after the real clip that it was drawn from, so that what is
measured is what was drawn, and any other program can measure it too. What is on disk is not drawn
again, and which other clips are drawn changes nothing of it.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from vdm_jax import __version__
from vdm_jax.core import page, processes, video
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import About
from vdm_jax.data.source import stack
from vdm_jax.data.transform import cover
from vdm_jax.evaluate.sets import Taken, name_of
from vdm_jax.sample.load import weights_of
from vdm_jax.sample.pipeline import Dtype, Pipeline
from vdm_jax.tasks.task import Task

NOTE = "drawn.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """What a model makes of the samples `given`: of their captions, their first frames, ….

    task: of the model, as it draws. folder: of the videos. run: counts repetitions. size,
    resampling: how clips are brought to the size that is compared.
    """

    title: str
    model: Path
    task: Task
    dtype: Dtype
    folder: Path
    given: Taken
    size: tuple[int, int]
    resampling: Image.Resampling
    settings: Mapping[str, Any]
    seed: int
    run: int = 0
    _hashes: dict[int, str] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, number: int) -> UInt8[np.ndarray, "t h w 3"]:
        path = self.path(number)
        try:
            frames = video.read(path).frames
        except Refusal as refusal:
            raise Refusal(f"{refusal}; delete it, and the same command draws it again") from None
        return cover(frames, self.size, resampling=self.resampling)

    def about(self, number: int) -> About:
        told = self.given.about(number)
        return About(told.key, told.caption, float(self.task.video.fps))

    def identity(self, number: int) -> str:
        """Of the file as it lies there, whoever wrote it."""
        if number not in self._hashes:
            with self.path(number).open("rb") as file:
                self._hashes[number] = hashlib.file_digest(file, "sha256").hexdigest()
        return f"{self._hashes[number]} at {self.size} {self.resampling.name}"

    def path(self, number: int) -> Path:
        return self.folder / f"{name_of(self.given.about(number))}.mp4"

    def missing(self) -> list[int]:
        return [number for number in range(len(self)) if not self.path(number).is_file()]

    def begin(self) -> None:
        """Say in the folder how its clips are drawn. Refuses one of clips drawn otherwise."""
        note, mine = self.folder / NOTE, self._drawn_with()
        found = _noted(note)
        if found is None and any(self.folder.glob("*.mp4")):
            raise Refusal(f"{self.folder}: holds videos and no {NOTE}; give another --output")
        if differ := [name for name in mine if found is not None and found.get(name) != mine[name]]:
            raise Refusal(
                f"{self.folder}: holds clips that were drawn with other {', '.join(differ)}; give "
                "another --output"
            )
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(".*.mp4.*"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            page.replace(note, json.dumps(mine, indent=1).encode())

    def _drawn_with(self) -> dict[str, Any]:
        """All that the pixels depend on, apart from the sample."""
        return {
            "weights": weights_of(self.model),
            "settings": {name: repr(value) for name, value in sorted(self.settings.items())},
            "dtype": self.dtype,
            "seed": self.seed,
            "run": self.run,
            "samples": self.given.source.fingerprint,
            "version": __version__,
        }

    def draw(self, pipeline: Pipeline, batch: int, tell: Callable[[int], object]) -> None:
        """Draw and keep what is missing. tell: is called with how many clips were drawn.

        Raises Refusal where the model gives what is no number.
        """
        numbers = self.missing()
        processes.meet("what is to be drawn")
        for start in range(0, len(numbers), batch):
            some = numbers[start : start + batch]
            samples = stack([self.given.sample(i) for i in some])
            drawn = pipeline.again(samples, [self._row(i) for i in some], seed=self._seed)
            self._keep(some, drawn)
            tell(len(some))

    @property
    def _seed(self) -> int:
        """Of this run; no run of another seed has it."""
        return int(np.random.SeedSequence([self.seed, self.run]).generate_state(1)[0])

    def _row(self, number: int) -> int:
        """What the noise of a clip follows from, with the seed: which clip it is, not its place."""
        sha256 = hashlib.sha256(self.given.identity(number).encode()).digest()
        return int.from_bytes(sha256[:4]) >> 1

    def _keep(self, numbers: list[int], drawn: Float[np.ndarray, "n t h w 3"]) -> None:
        for number, frames in zip(numbers, drawn, strict=True):
            about = self.about(number)
            if not np.isfinite(frames).all():
                raise Refusal(
                    f"{self.title}: the clip of {about.key} has frames that are no numbers; the "
                    f"weights in {self.model} are bad, or its settings too strong"
                )
            if jax.process_index() == 0:
                path, pictures = self.path(number), np.round(frames * 255).astype(np.uint8)
                if about.caption:
                    page.replace(path.with_suffix(".txt"), about.caption.encode())
                video.write(path, pictures, about.fps, codec=video.Lossless())


def _noted(note: Path) -> dict[str, Any] | None:
    try:
        return json.loads(note.read_text(encoding="utf-8")) if note.exists() else None
    except (OSError, ValueError):
        raise Refusal(f"{note}: is damaged; give another --output") from None
