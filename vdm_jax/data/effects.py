"""Faults and edits of the moving-shapes clips, each with its ground truth.

An effect may retime a clip (cut, freeze) or paint on its frames (text, scratches, flicker). They
compose as a tuple: `MovingShapes(effects=(Cut(at=4), Flicker()))`; all retime first, then all
paint, in order.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from vdm_jax.core.refusal import Refusal


class Timeline(NamedTuple):
    """What each output frame shows: which shot, which moment of it, and how light its ground."""

    shot: Int[np.ndarray, " t"]
    time: Int[np.ndarray, " t"]
    shade: Float32[np.ndarray, " t"]


class Painted(NamedTuple):
    """Frames after an effect, and what it did to them by name (masks, gains)."""

    frames: UInt8[np.ndarray, "t h w c"]
    truth: dict[str, np.ndarray]


@dataclass(frozen=True)
class Effect:
    """Leaves the clip as it is; effects override one of the two."""

    def retime(self, timeline: Timeline) -> Timeline:
        return timeline

    def paint(self, frames: UInt8[np.ndarray, "t h w c"], rng: np.random.Generator) -> Painted:
        return Painted(frames, {})


def _within(what: str, frame: int, timeline: Timeline) -> None:
    if not 0 < frame < len(timeline.shot):
        raise Refusal(f"{what} frame {frame}: choose 1 to {len(timeline.shot) - 1}")


@dataclass(frozen=True)
class Cut(Effect):
    """From frame `at` on, another scene, on a ground lighter by `shade` (0 to 255)."""

    at: int
    shade: float = 64.0

    def retime(self, timeline: Timeline) -> Timeline:
        _within("Cut at", self.at, timeline)
        after = np.arange(len(timeline.shot)) >= self.at
        shade = timeline.shade + np.float32(self.shade) * after
        return timeline._replace(shot=timeline.shot + after, shade=shade)


@dataclass(frozen=True)
class Freeze(Effect):
    """Frame `at` stands still for `length` further frames; then the clip goes on where it is."""

    at: int
    length: int

    def retime(self, timeline: Timeline) -> Timeline:
        _within("Freeze up to", self.at + self.length, timeline)
        held = slice(self.at, self.at + self.length + 1)

        def hold(values: np.ndarray) -> np.ndarray:
            values = values.copy()
            values[held] = values[self.at]
            return values

        return Timeline(*(hold(values) for values in timeline))


@lru_cache(maxsize=64)
def _letters(text: str, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """The text as a mask, as large as fits the width, at the top left corner."""
    size = max(6, min(height // 3, 2 * width // len(text)))
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).text((1, 0), text, fill=255, font=ImageFont.load_default(size))
    return np.asarray(image) > 127


@dataclass(frozen=True)
class OverlaidText(Effect):
    """A still white word near the bottom or the top. Truth: `text`, its mask "t h w"."""

    words: tuple[str, ...] = ("NEWS", "LIVE", "SALE", "DEMO")

    def paint(self, frames: UInt8[np.ndarray, "t h w c"], rng: np.random.Generator) -> Painted:
        t, h, w, _ = frames.shape
        letters = _letters(self.words[int(rng.random() * len(self.words))], h, w)
        rows = int(np.flatnonzero(letters.any(1))[-1]) + 1
        letters = np.roll(letters, int(rng.random() < 0.5) * (h - rows - 1), axis=0)
        mask = np.broadcast_to(letters, (t, h, w))
        return Painted(np.where(mask[..., None], np.uint8(255), frames), {"text": mask})


@dataclass(frozen=True)
class Scratches(Effect):
    """Bright vertical lines of one pixel, at new columns in every frame, as on worn film.

    Truth: `scratches`, their mask "t h w".
    """

    count: int = 2

    def paint(self, frames: UInt8[np.ndarray, "t h w c"], rng: np.random.Generator) -> Painted:
        t, h, w, _ = frames.shape
        columns = (rng.random((t, self.count)) * w).astype(int)
        ends = np.sort(rng.random((t, self.count, 2)) * (h + 1), axis=2)[..., None, :]
        rows = np.arange(h)[:, None] + 0.5
        along = (ends[..., 0] <= rows[:, 0]) & (rows[:, 0] < ends[..., 1])  # t count h
        across = columns[..., None] == np.arange(w)  # t count w
        mask = (along[..., None] & across[..., None, :]).any(1)
        return Painted(np.where(mask[..., None], np.uint8(230), frames), {"scratches": mask})


@dataclass(frozen=True)
class Flicker(Effect):
    """Every frame times its own gain in 1 ± `amplitude`. Truth: `gain` "t"."""

    amplitude: float = 0.3

    def paint(self, frames: UInt8[np.ndarray, "t h w c"], rng: np.random.Generator) -> Painted:
        gain = (1 + self.amplitude * (2 * rng.random(len(frames)) - 1)).astype(np.float32)
        bright = np.clip(frames * gain[:, None, None, None] + 0.5, 0, 255).astype(np.uint8)
        return Painted(bright, {"gain": gain})
