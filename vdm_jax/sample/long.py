"""Videos longer than a model was trained on, by any model: plans of how windows make a film.

- `Autoregressive`: each window knows the frames before it (He et al. 2022, arXiv:2211.13221,
  section 3.3).
- `Hierarchical`: keyframes, then what lies between (the same; Blattmann et al. 2023,
  arXiv:2304.08818, section 3.2).
- `Reuse`: all windows at every noise level (`diffusion.windows`).
- `FreeNoise`: all frames at once, their noise and their attention in windows (Qiu et al. 2024,
  arXiv:2310.15169).

The first two need a model that can be told frames: one trained so (`tasks.completion`), or any
other by reconstruction guidance (`tasks.reconstruction`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, UInt8

from vdm_jax.conditioning.prompts import prompt_shares
from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.noise import Rescheduled
from vdm_jax.diffusion.windows import FIRST, Merge, starts, windowed
from vdm_jax.models.cond import frames_of
from vdm_jax.nn.patterns import Sliding
from vdm_jax.sample.pipeline import Pipeline
from vdm_jax.tasks import long_video
from vdm_jax.tasks.completion import Completion
from vdm_jax.tasks.denoising import GIVEN, KNOWN
from vdm_jax.tasks.long_video import Window
from vdm_jax.tasks.reconstruction import completing
from vdm_jax.tasks.task import Denoising, Pretrained, tuned

Open = Callable[..., Pipeline]
"""A `Pipeline` of one model, with further keywords of its constructor."""


class Film(NamedTuple):
    """What is to be drawn: one video of many frames.

    total: its frames. prompts: what happens, one after another; plans that draw a film at once
    blend from one to the next (`conditioning.prompts`). first: frames that it begins with, or None.
    picture: what it begins with, for models that take one.
    """

    total: int
    prompts: Sequence[str] = ("",)
    first: UInt8[np.ndarray, "_ h w 3"] | None = None
    picture: UInt8[np.ndarray, "_ _ 3"] | None = None

    def prompt(self, frame: int) -> str:
        """The one of that frame: each has as many."""
        return self.prompts[min(frame * len(self.prompts) // self.total, len(self.prompts) - 1)]


class Drawn(NamedTuple):
    """video: "t h w 3" in 0..1. begins: the frames where its pieces begin, but for the first."""

    video: Float[np.ndarray, "t h w 3"]
    begins: tuple[int, ...]


@runtime_checkable
class Plan(Protocol):
    """How a film is drawn by a model of short videos."""

    def evaluations(self, task: Denoising, film: Film) -> int:
        """How often the denoiser of `task` is called."""
        ...

    def __call__(self, opened: Open, task: Denoising, film: Film, *, seed: int) -> Drawn:
        """task: that of the model, with the settings asked for."""
        ...


@dataclass(frozen=True)
class Autoregressive:
    """Each window knows the last `overlap` frames before it; None is a quarter of a window."""

    overlap: int | None = None

    def windows(self, task: Denoising, film: Film) -> list[Window]:
        size = task.video.num_frames
        overlap = max(1, size // 4) if self.overlap is None else self.overlap
        return long_video.extension(film.total, size, overlap, _given(film))

    def evaluations(self, task: Denoising, film: Film) -> int:
        return len(self.windows(task, film)) * steps(task)

    def __call__(self, opened: Open, task: Denoising, film: Film, *, seed: int) -> Drawn:
        return in_windows(opened(adapt=told), self.windows(task, film), film, seed)


@dataclass(frozen=True)
class Hierarchical:
    """Every `every`-th frame first, then those between; None is a third of a window."""

    every: int | None = None
    overlap: int | None = None

    def windows(self, task: Denoising, film: Film) -> list[Window]:
        size = task.video.num_frames
        every = max(2, (size - 1) // 3) if self.every is None else self.every
        overlap = max(1, size // 4) if self.overlap is None else self.overlap
        return long_video.keyframes(film.total, size, overlap, every, _given(film))

    def evaluations(self, task: Denoising, film: Film) -> int:
        return len(self.windows(task, film)) * steps(task)

    def __call__(self, opened: Open, task: Denoising, film: Film, *, seed: int) -> Drawn:
        return in_windows(opened(adapt=told), self.windows(task, film), film, seed)


@dataclass(frozen=True)
class Reuse:
    """All windows at every noise level; a frame is what the first window that has it says.

    overlap: frames that neighbours share; None is half a window. merge: whose say counts.
    """

    overlap: int | None = None
    merge: Merge = FIRST

    def _overlap(self, task: Denoising) -> int:
        size = task.video.num_frames
        return size // 2 if self.overlap is None else self.overlap

    def evaluations(self, task: Denoising, film: Film) -> int:
        return steps(task)

    def _starts(self, task: Denoising, film: Film) -> tuple[int, ...]:
        return starts(film.total, task.video.num_frames, self._overlap(task))

    def __call__(self, opened: Open, task: Denoising, film: Film, *, seed: int) -> Drawn:
        size, overlap = task.video.num_frames, self._overlap(task)
        pipeline = opened(
            adapt=lambda made: told(_longer(made, film.total)),
            around=lambda denoise: windowed(denoise, size, overlap, self.merge, frames_of),
        )
        begins = tuple(s + overlap for s in self._starts(task, film)[1:])
        return Drawn(at_once(pipeline, film, seed), begins)


@dataclass(frozen=True)
class FreeNoise:
    """The film as one video: noise rescheduled and attention over time in windows.

    Temporal convolutions and norms see the whole film. stride: frames from one window to the next.
    """

    stride: int = 4

    def evaluations(self, task: Denoising, film: Film) -> int:
        del film
        return steps(task)

    def __call__(self, opened: Open, task: Denoising, film: Film, *, seed: int) -> Drawn:
        size = task.video.num_frames

        def adapted(made: Pretrained) -> Pretrained:
            longer = _longer(made, film.total)
            again = tuned(longer.task, {"noise": Rescheduled(size, self.stride)})
            assert longer.model.network is not None  # as the task demands
            network = longer.model.network.attending(Sliding(size, self.stride))
            return told(Pretrained(replace(longer.model, network=network), again))

        return Drawn(at_once(opened(adapt=adapted), film, seed), ())


def told(made: Pretrained) -> Pretrained:
    """A model that can be told frames, by training or by guidance."""
    if not isinstance(made.task, Denoising):
        raise Refusal(f"{type(made.task).__name__} draws no videos from noise")
    return replace(made, task=completing(made.task))


def in_windows(
    pipeline: Pipeline,
    windows: list[Window],
    film: Film,
    seed: int,
    given: Mapping[int, UInt8[np.ndarray, "h w 3"]] | None = None,
) -> Drawn:
    """The windows one after another, in the space of the network; decoded as one video.

    given: frames that are known, by number, and come out as they went in.
    """
    last = max((max(window.frames) for window in windows), default=0)
    given = {**dict(enumerate(() if film.first is None else film.first)), **(given or {})}
    x0, there = _begun(pipeline, given, max(last + 1, film.total))
    begins = []
    for number, window in enumerate(windows):
        frames = list(window.frames)
        known = there[frames]
        told = {KNOWN: known[None], GIVEN: x0[None, frames]}
        pictures = _shown(pipeline, film, x0[frames[0]] if known[0] else None)
        prompt = film.prompt(min(window.drawn))
        drawn = pipeline.draw([prompt], pictures, given=told, seed=seed, part=number)[0]
        new = list(window.drawn)
        x0[new], there[new] = drawn[list(window.new)], True
        begins += [new[0]] if number and new[0] < film.total else []
    video = pipeline.decode(x0[None, : film.total])[0]
    return Drawn(_with(video, given), tuple(sorted(set(begins))))


def at_once(pipeline: Pipeline, film: Film, seed: int) -> Float[np.ndarray, "t h w 3"]:
    """A film that the model draws as one video."""
    first = dict(enumerate(() if film.first is None else film.first))
    x0, there = _begun(pipeline, first, film.total)
    known = {KNOWN: there[None], GIVEN: x0[None]} if there.any() else {}
    prompt, said = _said(pipeline, film)
    drawn = pipeline.draw([prompt], _shown(pipeline, film), given={**said, **known}, seed=seed)
    return _with(pipeline.decode(drawn)[0], first)


def _said(pipeline: Pipeline, film: Film) -> tuple[str, dict[str, np.ndarray]]:
    """The prompt, or in its place the embeddings of several, blended along the film."""
    if len(film.prompts) == 1:
        return film.prompts[0], {}
    words = pipeline.embed(film.prompts)
    shares = prompt_shares(len(film.prompts), film.total)
    return "", {name: np.einsum("tp,pld->tld", shares, each)[None] for name, each in words.items()}


def steps(task: Denoising) -> int:
    """Evaluations of the denoiser for one drawing."""
    return task.sampling.num_steps * task.sampling.sampler.evaluations


def _given(film: Film) -> range:
    return range(0 if film.first is None else len(film.first))


def _begun(
    pipeline: Pipeline, given: Mapping[int, UInt8[np.ndarray, "h w 3"]], count: int
) -> tuple[Float[np.ndarray, "t h w c"], Bool[np.ndarray, " t"]]:
    """Room for the film in the space of the network, and which of it is there already."""
    x0, there = np.zeros((count, *pipeline.frame), np.float32), np.zeros(count, bool)
    if given:
        frames = list(given)
        x0[frames] = pipeline.encode(np.stack(list(given.values()))[None])[0]
        there[frames] = True
    return x0, there


def _shown(
    pipeline: Pipeline, film: Film, known: Float[np.ndarray, "h w c"] | None = None
) -> list[np.ndarray] | None:
    """What a model that takes a picture is shown: the first frame of its window, where `known`."""
    if isinstance(pipeline.task, Completion) or not pipeline.task.pictures:
        return None
    if known is not None:
        return [np.round(255 * pipeline.decode(known[None, None])[0, 0]).astype(np.uint8)]
    if film.picture is not None:
        return [film.picture]
    return None if film.first is None else [film.first[0]]


def _with(
    video: Float[np.ndarray, "t h w 3"], given: Mapping[int, UInt8[np.ndarray, "h w 3"]]
) -> Float[np.ndarray, "t h w 3"]:
    """The video with the frames that were given, as they were."""
    for frame, picture in given.items():
        video[frame] = picture.astype(np.float32) / 255
    return video


def _longer(made: Pretrained, total: int) -> Pretrained:
    return replace(made, task=tuned(made.task, {"num_frames": total}))


def opener(directory: Path | str, **options: Any) -> Open:
    """Pipelines of the model in `directory`; options as of `Pipeline`."""
    return lambda **more: Pipeline(directory, **options, **more)
