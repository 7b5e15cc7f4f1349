"""Models one after another: a picture from a caption, a video from it, more frames, larger ones.

A cascade is a list of stages, each a function of what the stage before made (Ho et al. 2022,
Imagen Video, arXiv:2210.02303). `Model` is a stage by the model of a directory, which does with a
clip what it was trained for, and holds its weights only while it runs:

    Cascade((Model("runs/t2v", "a cat"), Model("runs/i2v"), Model("runs/large")))(seed=0)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from vdm_jax.core.refusal import Refusal
from vdm_jax.core.video import Clip
from vdm_jax.data.transform import cover
from vdm_jax.sample import load, long, upscale
from vdm_jax.sample.long import Film
from vdm_jax.sample.pipeline import Pipeline
from vdm_jax.sample.upscale import Enlarging
from vdm_jax.tasks.completion import Completion
from vdm_jax.tasks.long_video import extension, interpolation
from vdm_jax.tasks.super_resolution import SuperResolution
from vdm_jax.tasks.task import Denoising, Pretrained, tuned

TIMES = 2  # the frames a second, by a model that is told frames


@runtime_checkable
class Stage(Protocol):
    """What follows on a clip, or begins from none."""

    def __call__(self, clip: Clip | None, *, seed: int) -> Clip: ...


@dataclass(frozen=True)
class Cascade:
    """Stages, each applied to what the one before made; itself a stage."""

    stages: tuple[Stage, ...]

    def __call__(
        self,
        clip: Clip | None = None,
        *,
        seed: int = 0,
        on_stage: Callable[[int, Clip], object] = lambda number, clip: None,
    ) -> Clip:
        """on_stage: called after each stage, with its number, from 0, and what it made.

        The first stage has the seed, each other one of its own that follows from it.
        """
        for number, stage in enumerate(self.stages):
            clip = stage(clip, seed=own_seed(seed, number))
            on_stage(number, clip)
        if clip is None:
            raise Refusal("a cascade without a stage makes nothing")
        return clip


@dataclass(frozen=True)
class Model:
    """A stage by the model in `directory`.

    It makes a clip larger, if it was trained to. Told frames, it puts as many again between those
    of a clip. From a picture, the first of the clip, it makes a video. From no clip it draws one.

    settings: of the model's task, by name. options: of `Pipeline` (dtype, mesh, on_step).
    begin: called with the number of steps before they are taken.
    """

    directory: str
    prompt: str = ""
    enlarging: Enlarging = Enlarging()
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    begin: Callable[[int], object] = lambda steps: None

    def check(self) -> None:
        """Refuse a model that can follow on no clip, before anything is drawn."""
        task = self._task()
        if isinstance(task, SuperResolution):
            upscale.check(self._described(), self.enlarging)
        elif isinstance(task, Completion):
            long.check_between(self.directory, self._described())
        elif task.pictures != 1:
            raise Refusal(f"{self.directory}: {type(task).__name__} does nothing to a clip")

    def __call__(self, clip: Clip | None, *, seed: int) -> Clip:
        if clip is None:
            return self._pictured(None, seed)
        self.check()
        match self._task():
            case SuperResolution():
                return self._larger(clip, seed)
            case Completion():
                return self._filmed(clip, seed)
            case _:
                return self._pictured(clip, seed)

    def _larger(self, clip: Clip, seed: int) -> Clip:
        self.begin(long.steps(self._task()))
        made, how = self._described(), self.enlarging
        return upscale.enlarged(self._opened, made, clip, how, prompt=self.prompt, seed=seed)

    def _filmed(self, clip: Clip, seed: int) -> Clip:
        """A video that begins with the only picture, or the frames between several."""
        task = self._task()
        frames, size = cover(clip.frames, task.video.sizes[1:3]), task.video.num_frames
        if len(frames) == 1:
            total, windows, fps = size, extension(size, size, 1, (0,)), task.video.fps
        else:
            total, fps = TIMES * (len(frames) - 1) + 1, TIMES * clip.fps
            windows = interpolation(len(frames), size, TIMES)
        there = {TIMES * i: frame for i, frame in enumerate(frames)}
        self.begin(len(windows) * long.steps(task))
        film = Film(total, (self.prompt,))
        return _clip(long.in_windows(self._opened(), windows, film, seed, there).video, fps)

    def _pictured(self, clip: Clip | None, seed: int) -> Clip:
        """A video from the caption and, where there is one, the first picture of the clip."""
        task = self._task()
        self.begin(long.steps(task))
        pictures = None if clip is None else [clip.frames[0]]
        return _clip(self._opened()(pictures, [self.prompt], seed=seed)[0], task.video.fps)

    def _opened(self, **more: Any) -> Pipeline:
        return Pipeline(self.directory, **self.options, **self.settings, **more)

    def _described(self) -> Pretrained:
        config = load.describe(Path(self.directory))
        return Pretrained(config.model, tuned(config.task, self.settings))

    def _task(self) -> Denoising:
        """Raises Refusal for a model that does not draw."""
        task = self._described().task
        if not isinstance(task, Denoising):
            raise Refusal(f"{self.directory}: {type(task).__name__} draws no videos from noise")
        return task


def own_seed(seed: int, number: int) -> int:
    """That of a stage: the first has the seed as it is."""
    return seed if number == 0 else int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def _clip(video: Float[np.ndarray, "t h w 3"], fps: float | int) -> Clip:
    return Clip(np.round(255 * video).astype(np.uint8), fps)
