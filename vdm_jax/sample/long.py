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
from vdm_jax.tasks import long_video, space
from vdm_jax.tasks.completion import Completion
from vdm_jax.tasks.denoising import GIVEN, KNOWN
from vdm_jax.tasks.long_video import Window
from vdm_jax.tasks.reconstruction import completing
from vdm_jax.tasks.task import Denoising, Pretrained, Task, tuned

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
    """How a film is drawn by a model of short videos.

    Windows, overlaps and strides count frames of the space that the network works in, of which
    each may stand for several of the film (`tasks.space.span`).
    """

    def evaluations(self, made: Pretrained, film: Film) -> int:
        """How often the denoiser of `made` is called."""
        ...

    def __call__(self, opened: Open, made: Pretrained, film: Film, *, seed: int) -> Drawn:
        """made: the model, its task with the settings asked for."""
        ...


@dataclass(frozen=True)
class Autoregressive:
    """Each window knows the last `overlap` frames before it; None is a quarter of a window."""

    overlap: int | None = None

    def windows(self, made: Pretrained, film: Film) -> list[Window]:
        size = window_size(made)
        overlap = max(1, size // 4) if self.overlap is None else self.overlap
        return long_video.extension(_total(made, film), size, overlap, _given(made, film))

    def evaluations(self, made: Pretrained, film: Film) -> int:
        return len(self.windows(made, film)) * steps(made.task)

    def __call__(self, opened: Open, made: Pretrained, film: Film, *, seed: int) -> Drawn:
        return in_windows(opened(adapt=told), self.windows(made, film), film, seed)


@dataclass(frozen=True)
class Hierarchical:
    """Every `every`-th frame first, then those between; None is a third of a window."""

    every: int | None = None
    overlap: int | None = None

    def windows(self, made: Pretrained, film: Film) -> list[Window]:
        size = window_size(made)
        every = max(2, (size - 1) // 3) if self.every is None else self.every
        overlap = max(1, size // 4) if self.overlap is None else self.overlap
        return long_video.keyframes(_total(made, film), size, overlap, every, _given(made, film))

    def evaluations(self, made: Pretrained, film: Film) -> int:
        return len(self.windows(made, film)) * steps(made.task)

    def __call__(self, opened: Open, made: Pretrained, film: Film, *, seed: int) -> Drawn:
        return in_windows(opened(adapt=told), self.windows(made, film), film, seed)


@dataclass(frozen=True)
class Reuse:
    """All windows at every noise level; a frame is what the first window that has it says.

    overlap: frames that neighbours share; None is half a window. merge: whose say counts.
    """

    overlap: int | None = None
    merge: Merge = FIRST

    def evaluations(self, made: Pretrained, film: Film) -> int:
        self._starts(made, film)
        return steps(made.task)

    def _overlap(self, made: Pretrained) -> int:
        return window_size(made) // 2 if self.overlap is None else self.overlap

    def _starts(self, made: Pretrained, film: Film) -> tuple[int, ...]:
        return starts(_total(made, film), window_size(made), self._overlap(made))

    def __call__(self, opened: Open, made: Pretrained, film: Film, *, seed: int) -> Drawn:
        size, overlap = window_size(made), self._overlap(made)
        pipeline = opened(
            adapt=lambda made: told(_longer(made, film)),
            around=lambda denoise: windowed(denoise, size, overlap, self.merge, frames_of),
        )
        ends = [pipeline.span * (start + size) for start in self._starts(made, film)]
        begins = tuple(end for end in ends if end < film.total)
        return Drawn(at_once(pipeline, film, seed), begins)


@dataclass(frozen=True)
class FreeNoise:
    """The film as one video: noise rescheduled and attention over time in windows.

    Temporal convolutions and norms see the whole film. stride: frames from one window to the next;
    None is a quarter of one.
    """

    stride: int | None = None

    def _noise(self, made: Pretrained) -> Rescheduled:
        size = window_size(made)
        return Rescheduled(size, max(1, size // 4) if self.stride is None else self.stride)

    def evaluations(self, made: Pretrained, film: Film) -> int:
        del film
        self._noise(made)
        return steps(made.task)

    def __call__(self, opened: Open, made: Pretrained, film: Film, *, seed: int) -> Drawn:
        noise = self._noise(made)

        def adapted(made: Pretrained) -> Pretrained:
            longer = _longer(made, film)
            again = tuned(longer.task, {"noise": noise})
            assert longer.model.network is not None  # as the task demands
            network = longer.model.network.attending(Sliding(noise.window, noise.stride))
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
    span = pipeline.span
    last = max((max(window.frames) for window in windows), default=0)
    given = {**_first(film), **(given or {})}
    x0, there = _begun(pipeline, given, max(last + 1, -(-film.total // span)))
    begins = []
    for number, window in enumerate(windows):
        frames = list(window.frames)
        known = there[frames]
        told = {KNOWN: known[None], GIVEN: x0[None, frames]}
        pictures = _shown(pipeline, film, x0[frames[0]] if known[0] else None)
        prompt = film.prompt(span * min(window.drawn))
        drawn = pipeline.draw([prompt], pictures, given=told, seed=seed, part=number)[0]
        new = list(window.drawn)
        x0[new], there[new] = drawn[list(window.new)], True
        begins += [span * new[0]] if number and span * new[0] < film.total else []
    return Drawn(_shown_as(pipeline, film, x0, given), tuple(sorted(set(begins))))


def at_once(pipeline: Pipeline, film: Film, seed: int) -> Float[np.ndarray, "t h w 3"]:
    """A film that the model draws as one video."""
    first = _first(film)
    x0, there = _begun(pipeline, first, -(-film.total // pipeline.span))
    known = {KNOWN: there[None], GIVEN: x0[None]} if there.any() else {}
    prompt, said = _said(pipeline, film, len(x0))
    drawn = pipeline.draw([prompt], _shown(pipeline, film), given={**said, **known}, seed=seed)[0]
    return _shown_as(pipeline, film, drawn, first)


def _said(pipeline: Pipeline, film: Film, count: int) -> tuple[str, dict[str, np.ndarray]]:
    """The prompt, or in its place the embeddings of several, blended along the film."""
    if len(film.prompts) == 1:
        return film.prompts[0], {}
    words = pipeline.embed(film.prompts)
    shares = prompt_shares(len(film.prompts), count)
    return "", {name: np.einsum("tp,pld->tld", shares, each)[None] for name, each in words.items()}


def steps(task: Task) -> int:
    """Evaluations of the denoiser for one drawing."""
    sampling = task.sampling if isinstance(task, Denoising) else None
    return 0 if sampling is None else sampling.num_steps * sampling.sampler.evaluations


def check_between(directory: Path | str, made: Pretrained) -> None:
    """Refuse a model in whose space there is nothing between two frames of a video."""
    span = space.span(made.model, made.task.video)
    if span > 1:
        raise Refusal(
            f"{directory}: this model takes {span} frames at once, and draws none between single "
            "ones; it extends videos"
        )


def window_size(made: Pretrained) -> int:
    """Frames of a window in the space of the network."""
    return made.task.video.num_frames // space.span(made.model, made.task.video)


def _total(made: Pretrained, film: Film) -> int:
    """Those of the film there, the last one perhaps with frames beyond it."""
    return -(-film.total // space.span(made.model, made.task.video))


def _given(made: Pretrained, film: Film) -> range:
    return range(len(_first(film)) // space.span(made.model, made.task.video))


def _first(film: Film) -> dict[int, UInt8[np.ndarray, "h w 3"]]:
    return dict(enumerate(() if film.first is None else film.first))


def _begun(
    pipeline: Pipeline, given: Mapping[int, UInt8[np.ndarray, "H W 3"]], count: int
) -> tuple[Float[np.ndarray, "t h w c"], Bool[np.ndarray, " t"]]:
    """Room for the film in the space of the network, and which of it is there already."""
    x0, there = np.zeros((count, *pipeline.frame), np.float32), np.zeros(count, bool)
    if given:
        there[whole(list(given), pipeline.span)] = True
        x0[there] = pipeline.encode(np.stack([given[frame] for frame in sorted(given)])[None])[0]
    return x0, there


def whole(frames: Sequence[int], span: int) -> list[int]:
    """The frames of the network's space that stand for these, `span` in each.

    Raises Refusal where they are part of one, or where those of a video that is encoded as one
    are not the first.
    """
    if span > 1 and (sorted(frames) != list(range(len(frames))) or len(frames) % span):
        raise Refusal(
            f"this model takes {span} frames at once, from the first on: give a multiple of {span} "
            f"frames to begin with, got {len(frames)}"
        )
    return sorted({frame // span for frame in frames})


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


def _shown_as(
    pipeline: Pipeline,
    film: Film,
    x0: Float[np.ndarray, "T H W c"],
    given: Mapping[int, UInt8[np.ndarray, "h w 3"]],
) -> Float[np.ndarray, "t h w 3"]:
    """The film, with the frames that were given as they were."""
    video = pipeline.decode(x0[None, : -(-film.total // pipeline.span)])[0][: film.total]
    for frame, picture in given.items():
        video[frame] = picture.astype(np.float32) / 255
    return video


def _longer(made: Pretrained, film: Film) -> Pretrained:
    """The model, of videos as long as the film or a little longer."""
    frames = _total(made, film) * space.span(made.model, made.task.video)
    return replace(made, task=tuned(made.task, {"num_frames": frames}))


def opener(directory: Path | str, **options: Any) -> Open:
    """Pipelines of the model in `directory`; options as of `Pipeline`."""
    return lambda **more: Pipeline(directory, **options, **more)
