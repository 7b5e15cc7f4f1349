"""Captions: what is said of a clip, by several writers, each by its name.

Stable Video Diffusion (section 3.1) has three for each clip: of an image captioner that sees the
middle frame, of a video captioner, and a language model's summary of both. All captions go into the
shards; training has the first, or draws one of them by `data.captions.Share`: `SVD_SHARES` are the
paper's, of writers called "image", "video" and "summary". Captions that the user gave, beside a
video or in the list of videos, are called "sidecar" and stand first.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from vdm_jax.core.refusal import Refusal
from vdm_jax.curate.stage import SIDECAR, Clip, Resources
from vdm_jax.curate.weights import Need


@runtime_checkable
class Captioner(Protocol):
    """Says what a clip shows: of its middle frame, `clip.spread(3)[1]`, or of several."""

    def caption(self, clip: Clip) -> str:
        """One caption; "" where there is nothing to say."""
        ...


@runtime_checkable
class Merger(Protocol):
    """Makes one caption of several, as a language model does."""

    def merge(self, captions: Mapping[str, str]) -> str:
        """captions: by who wrote them, at least one."""
        ...


@runtime_checkable
class WriterConfig(Protocol):
    """A frozen dataclass that builds a captioner or a merger: `Template`, `Imported`."""

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> Sequence[Need]: ...

    def check(self, weights: Mapping[str, Path]) -> None:
        """Refuse what cannot be built; loads nothing."""
        ...

    def build(self, weights: Mapping[str, Path]) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class Captions:
    """writers: asked one after the other; each adds the caption of its name. merge: then makes one
    more of all that there are. gpus, gigabytes: that a worker takes for them.
    """

    writers: tuple[WriterConfig, ...] = ()
    merge: WriterConfig | None = None
    gpus: float = 0.0
    gigabytes: float = 1.0

    def __post_init__(self) -> None:
        names = [SIDECAR, *(writer.name for writer in self.all)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise Refusal(f"two captions are called {twice[0]!r}; every writer needs its own name")

    @property
    def all(self) -> tuple[WriterConfig, ...]:
        return (*self.writers, *(() if self.merge is None else (self.merge,)))

    @property
    def needs(self) -> tuple[Need, ...]:
        return tuple(need for writer in self.all for need in writer.needs)

    def build(self, weights: Mapping[str, Path]) -> "CaptionsStage":
        return CaptionsStage(self, weights)


class CaptionsStage:
    """Writers are made when the first clip comes: they may be large."""

    columns: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, config: Captions, weights: Mapping[str, Path]):
        self._config, self._weights = config, weights
        self.resources = Resources(gpus=config.gpus, gigabytes=config.gigabytes)

    def setup(self) -> None:
        for writer in self._config.all:
            writer.check(self._weights)

    def process(self, clip: Clip) -> Iterable[Clip]:
        for name, captioner in self._captioners.items():
            clip = _with(clip, name, captioner.caption(clip))
        if self._config.merge is not None and clip.captions:
            merged = self._merger.merge(dict(clip.captions))
            clip = _with(clip, self._config.merge.name, merged)
        return [clip]

    @cached_property
    def _captioners(self) -> dict[str, Captioner]:
        return {writer.name: writer.build(self._weights) for writer in self._config.writers}

    @cached_property
    def _merger(self) -> Merger:
        assert self._config.merge is not None
        return self._config.merge.build(self._weights)


def _with(clip: Clip, name: str, text: str) -> Clip:
    """The clip with one more caption, in one line; unless it is empty."""
    words = " ".join(text.split())
    return replace(clip, captions={**clip.captions, name: words}) if words else clip


# ---- What scores say -----------------------------------------------------------------------------

MOTION = ((2.0, "hardly any motion"), (10.0, "some motion"), (float("inf"), "much motion"))
"""Of `Motion`'s score: below which, and what is said then."""
MOVES = 1.0  # of `Camera`'s scores, from which the picture is said to move
DARK, BRIGHT = 20.0, 75.0  # of `Quality`'s brightness
TEXT = 1.0  # of `Text`'s score


@dataclass(frozen=True, kw_only=True)
class Template:
    """Sentences that earlier stages' scores bear out, and nothing else: "A video of 3 seconds with
    much motion. The view moves right and zooms in. Text is shown."

    Of what is to be seen it knows nothing. It says as much as there are stages before it: Motion,
    Camera, Quality, Text.
    """

    name: str = "template"

    @property
    def needs(self) -> tuple[Need, ...]:
        return ()

    def check(self, weights: Mapping[str, Path]) -> None:
        pass

    def build(self, weights: Mapping[str, Path]) -> "Sentences":
        return Sentences()


class Sentences:
    def caption(self, clip: Clip) -> str:
        scores = clip.scores
        count = max(1, round(len(clip.frames) / clip.fps))
        first = f"A video of {count} second{'s' * (count > 1)}"
        if "motion" in scores:
            words = next(words for most, words in MOTION if scores["motion"] < most)
            first += f" with {words}"
        said = [first, _view(scores)]
        said += ["It is dark"] * (scores.get("brightness", DARK) < DARK)
        said += ["It is bright"] * (scores.get("brightness", BRIGHT) > BRIGHT)
        said += ["Text is shown"] * (scores.get("text", 0.0) > TEXT)
        return " ".join(f"{sentence}." for sentence in said if sentence)


def _view(scores: Mapping[str, float]) -> str:
    """Where the view goes, by `Camera`; "" where it does not, or nobody knows."""
    pan, tilt, zoom = (scores.get(name, 0.0) for name in ("pan", "tilt", "zoom"))
    ways = ["right" if pan > 0 else "left"] * (abs(pan) >= MOVES)
    ways += ["up" if tilt > 0 else "down"] * (abs(tilt) >= MOVES)
    moves = [f"moves {' and '.join(ways)}"] if ways else []
    moves += ["zooms in" if zoom > 0 else "zooms out"] * (abs(zoom) >= MOVES)
    return f"The view {' and '.join(moves)}" if moves else ""
