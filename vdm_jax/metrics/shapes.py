"""The oracle of the moving shapes: reads from a video what its caption should have said.

The ground is the median of the frame's border, the object is what differs from it, its place the
centroid of the covered area (below a pixel, since edges are mixed by coverage). No model judges.
Colour and direction are read without fault down to 16x16 pixels, shapes from 32x32 on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from vdm_jax.data.synthetic import COLOURS, DIRECTIONS, SHAPES, SPEEDS, Truth
from vdm_jax.metrics.frames import IDENTICAL_DB, psnr

NOTHING = -1  # the reading of a colour, shape or direction that is not there
FAINTEST = 80.0  # least RGB distance (of 441) between an object and its ground
SMALLEST, LARGEST = 0.006, 0.35  # area of an object as a part of the frame
WIDEST = 2.5  # second moment of an object over that of the disc of equal area (triangle 1.2)
STILLEST = 0.25  # least way of a moving object, in ways of the slowest speed


class Reading(NamedTuple):
    """What is to be seen in n videos; indices as in data.synthetic, NOTHING where not to be seen.

    positions: centroids (x, y) in pixels, NaN in frames without a single compact object.
    """

    colour: Int[np.ndarray, " n"]
    shape: Int[np.ndarray, " n"]
    direction: Int[np.ndarray, " n"]
    positions: Float[np.ndarray, "n t 2"]


@dataclass(frozen=True)
class ShapeScores:
    """Means over `videos`: right answers as parts of 1, PSNR in dB, error in frame widths."""

    direction: float
    colour: float
    shape: float
    first_frame_psnr: float
    last_position_error: float
    videos: int


def read(videos: UInt8[np.ndarray, "n t h w 3"]) -> Reading:
    """Find the one object of each video, its colour, shape and way."""
    frames = videos.astype(np.float32)
    cover = _cover(frames)
    positions = _centroids(cover)
    return Reading(
        _colour(frames, cover, positions),
        _shape(cover, positions),
        _direction(positions, videos.shape[3]),
        positions,
    )


def score(videos: UInt8[np.ndarray, "n t h w 3"], truths: Sequence[Truth]) -> ShapeScores:
    """Grade videos by the truths of the captions and first frames they were made from.

    A video without a visible object is wrong everywhere and a whole frame width out of place.
    Raises ValueError if counts or shapes differ, or if a truth has several objects.
    """
    true = np.stack([truth.video for truth in truths])
    if videos.shape != true.shape:
        raise ValueError(f"videos are {videos.shape}, their truths {true.shape}")
    if any(len(truth.colour) != 1 for truth in truths):
        raise ValueError("the oracle reads one object, these truths have several")
    reading = read(videos)
    target = np.stack([truth.positions[-1, 0] for truth in truths])
    error = np.linalg.norm(reading.positions[:, -1] - target, axis=-1) / videos.shape[3]

    def right(name: str) -> float:
        answers = np.array([int(getattr(truth, name)[0]) for truth in truths])
        return float(np.mean(getattr(reading, name) == answers))

    return ShapeScores(
        direction=right("direction"),
        colour=right("colour"),
        shape=right("shape"),
        first_frame_psnr=float(psnr(videos[:, 0], true[:, 0]).mean()),
        last_position_error=float(np.minimum(np.nan_to_num(error, nan=1.0), 1.0).mean()),
        videos=len(videos),
    )


def copy_first_frame(videos: UInt8[np.ndarray, "n t h w 3"]) -> UInt8[np.ndarray, "n t h w 3"]:
    """The baseline that every video model must beat: nothing moves."""
    return np.repeat(videos[:, :1], videos.shape[1], axis=1)


def table(rows: dict[str, ShapeScores], bars: ShapeScores | None = None) -> str:
    """The scores as aligned text, one row each; `bars` closes it as the row "bar" (NaN: none)."""
    head = ["", "direction", "colour", "shape", "first frame", "last position"]
    lines = [[name, *_cells(scores)] for name, scores in rows.items()]
    if bars is not None:
        signs = [">= ", ">= ", ">= ", ">= ", "<= "]
        cells = zip(signs, _cells(bars), strict=True)
        lines.append(["bar", *(sign + cell if cell else "" for sign, cell in cells)])
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in [head, *lines]
    ]
    rule = "-" * len(text[0])
    count = max(scores.videos for scores in rows.values())
    note = f"{count} captions with first frames; last position: error in frame widths"
    return "\n".join([text[0], rule, *text[1:], rule, note])


def _cells(scores: ShapeScores) -> list[str]:
    values = [scores.direction, scores.colour, scores.shape]
    cells = [f"{100 * value:.1f} %" for value in values]
    exact = scores.first_frame_psnr >= IDENTICAL_DB
    cells.append("exact" if exact else f"{scores.first_frame_psnr:.1f} dB")
    cells.append(f"{100 * scores.last_position_error:.1f} %")
    return ["" if "nan" in cell else cell for cell in cells]


def _blur(frames: Float[np.ndarray, "n t h w c"]) -> Float[np.ndarray, "n t h w c"]:
    """[1 2 1]/4 along both axes: noise falls to 3/8, the centroid stays."""
    for axis in (2, 3):
        pad = [(0, 0)] * 5
        pad[axis] = (1, 1)
        p = np.pad(frames, pad, mode="edge")
        first, last = np.arange(p.shape[axis] - 2), np.arange(2, p.shape[axis])
        frames = (p.take(first, axis) + p.take(last, axis)) / 4 + frames / 2
    return frames


def _cover(frames: Float[np.ndarray, "n t h w 3"]) -> Float[np.ndarray, "n t h w"]:
    """How much of each (blurred) pixel the object covers, 0 to 1; all 0 if nothing stands out."""
    border = [frames[:, :, 0], frames[:, :, -1], frames[:, :, :, 0], frames[:, :, :, -1]]
    ground = np.median(np.concatenate(border, axis=2), axis=2)[:, :, None, None]
    away = np.linalg.norm(_blur(frames) - ground, axis=-1)
    core = max(1, round(SMALLEST * away[0, 0].size))
    brightest = np.sort(away.reshape(*away.shape[:2], -1), axis=-1)[..., -core:]
    contrast = brightest.mean(-1)[..., None, None]
    cover = np.clip(away / np.maximum(contrast, 1e-6), 0, 1)
    return np.where((cover > 0.2) & (contrast > FAINTEST), cover, 0)


def _centroids(cover: Float[np.ndarray, "n t h w"]) -> Float[np.ndarray, "n t 2"]:
    """Centre of each frame's covered area, NaN unless it is one compact spot of sensible size."""
    height, width = cover.shape[2:]
    xs, ys = np.arange(width), np.arange(height)[:, None]
    area = cover.sum((2, 3))
    mass = np.maximum(area, 1e-6)
    x, y = (cover * xs).sum((2, 3)) / mass, (cover * ys).sum((2, 3)) / mass
    spread = (cover * ((xs - x[..., None, None]) ** 2 + (ys - y[..., None, None]) ** 2)).sum((2, 3))
    compact = spread / mass <= WIDEST * area / (2 * math.pi)
    sensible = (area >= SMALLEST * height * width) & (area <= LARGEST * height * width)
    return np.where((compact & sensible)[..., None], np.stack([x, y], -1), np.nan)


def _colour(
    frames: Float[np.ndarray, "n t h w 3"],
    cover: Float[np.ndarray, "n t h w"],
    positions: Float[np.ndarray, "n t 2"],
) -> Int[np.ndarray, " n"]:
    """The nearest named colour to the object's core, by a vote of the frames."""
    core = (cover > 0.85)[..., None]
    mean = (frames * core).sum((2, 3)) / np.maximum(core.sum((2, 3)), 1)
    palette = np.array(list(COLOURS.values()), np.float32)
    nearest = np.linalg.norm(mean[:, :, None] - palette, axis=-1).argmin(-1)
    seen = ~np.isnan(positions[..., 0])
    votes = ((nearest[..., None] == np.arange(len(palette))) & seen[..., None]).sum(1)
    return np.where(2 * seen.sum(1) >= seen.shape[1], votes.argmax(-1), NOTHING)


def _shape(
    cover: Float[np.ndarray, "n t h w"], positions: Float[np.ndarray, "n t 2"]
) -> Int[np.ndarray, " n"]:
    """The shape that, drawn at the same place and size, looks most like the covered area."""
    height, width = cover.shape[2:]
    seen = ~np.isnan(positions[..., 0])
    x, y = (np.nan_to_num(part)[..., None, None] for part in (positions[..., 0], positions[..., 1]))
    dx, dy = np.arange(width) - x, np.arange(height)[:, None] - y
    radius = np.sqrt(cover.sum((2, 3)) / math.pi)[..., None, None]
    errors = []
    for form in SHAPES.values():
        drawn = np.clip(0.5 - form.distance(dx, dy, radius), 0, 1)
        drawn = _blur(drawn[..., None])[..., 0]
        errors.append((((drawn - cover) ** 2).sum((2, 3)) * seen).sum(1))
    return np.where(2 * seen.sum(1) >= seen.shape[1], np.argmin(errors, axis=0), NOTHING)


def _direction(positions: Float[np.ndarray, "n t 2"], width: int) -> Int[np.ndarray, " n"]:
    """The nearest of all eight directions to the line fitted through the places seen."""
    frames = positions.shape[1]
    seen = ~np.isnan(positions[..., 0])
    count = np.maximum(seen.sum(1), 1)[:, None]
    time = np.where(seen, np.arange(frames), 0.0)
    time = np.where(seen, time - time.sum(1)[:, None] / count, 0.0)
    slope = (time[..., None] * np.nan_to_num(positions)).sum(1) / np.maximum(
        (time**2).sum(1)[:, None], 1e-6
    )
    way = slope * (frames - 1)
    nearest = (way @ np.array(list(DIRECTIONS.values())).T).argmax(-1)
    moves = np.linalg.norm(way, axis=-1) > STILLEST * min(SPEEDS.values()) * width
    return np.where(moves & (2 * seen.sum(1) >= frames), nearest, NOTHING)
