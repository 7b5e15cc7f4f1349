"""Pictures of videos for people: labelled grids, comparisons, contact sheets.

Everything is uint8, text is Pillow's own font, sides come out even (H.264 wants that).
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT = (24, 24, 27), (236, 236, 240), (160, 160, 170)
TEXT, LINE, GAP = 14, 18, 10  # letter height, line height, space between things: pixels
TILE = 128  # small videos are enlarged to about this many pixels of width


class _Tile(NamedTuple):
    """Where a video goes: its number and its top left corner."""

    video: int
    x: int
    y: int


class _Words(NamedTuple):
    """Lines of text from (x, y) on, in one colour."""

    lines: list[str]
    x: int
    y: int
    colour: tuple[int, int, int]


def grid(
    videos: UInt8[np.ndarray, "n t h w c"],
    labels: Sequence[str] = (),
    columns: int | None = None,
    scale: int | None = None,
) -> UInt8[np.ndarray, "t H W 3"]:
    """All videos side by side, each with its label below; one label each, or none at all.

    columns: a little wider than high if absent. scale: whole factor of enlargement; if absent,
    tiles of about TILE pixels.
    Raises ValueError when labels and videos differ in number.
    """
    _one_each("labels", labels, videos)
    scale = scale or _scale(videos)
    height, width = scale * videos.shape[2], scale * videos.shape[3]
    columns = min(columns or _squarish(len(videos), height / width), len(videos))
    lines = [_wrap(label, width) for label in labels or [""] * len(videos)]
    tiles, words, y = [], [], GAP
    for first in range(0, len(videos), columns):
        row = range(first, min(first + columns, len(videos)))
        for column, i in enumerate(row):
            x = GAP + column * (width + GAP)
            tiles.append(_Tile(i, x, y))
            words.append(_Words(lines[i], x, y + height + 3, INK))
        deepest = max(len(lines[i]) for i in row)
        y += height + GAP + (deepest * LINE + 3 if deepest else 0)
    return _render(videos, scale, tiles, words, (y, GAP + columns * (width + GAP)))


def compare(
    columns: Mapping[str, UInt8[np.ndarray, "n t h w c"]],
    labels: Sequence[str] = (),
    scale: int | None = None,
) -> UInt8[np.ndarray, "t H W 3"]:
    """One row a sample, one titled column a maker: `{"given": …, "model": …, "truth": …}`.

    The row's label stands at its left. Raises ValueError when the numbers or shapes differ.
    """
    stacks = list(columns.values())
    if len({stack.shape for stack in stacks}) != 1:
        shapes = {name: stack.shape for name, stack in columns.items()}
        raise ValueError(f"columns differ in shape: {shapes}")
    _one_each("labels", labels, stacks[0])
    rows, scale = len(stacks[0]), scale or _scale(stacks[0])
    height, width = scale * stacks[0].shape[2], scale * stacks[0].shape[3]
    margin = GAP + (max(TILE, width // 2) + GAP if any(labels) else 0)
    titles = [_wrap(title, width) for title in columns]
    top = GAP + LINE * max(map(len, titles)) + 4
    tiles, words = [], []
    for column, title in enumerate(titles):
        x = margin + column * (width + GAP)
        words.append(_Words(title, x, GAP, FAINT))
        tiles += [_Tile(column * rows + i, x, top + i * (height + GAP)) for i in range(rows)]
    for i, label in enumerate(labels):
        lines = _wrap(label, margin - 2 * GAP)[: max(1, height // LINE)]
        words.append(_Words(lines, GAP, top + i * (height + GAP), INK))
    size = (top + rows * (height + GAP), margin + len(stacks) * (width + GAP))
    return _render(np.concatenate(stacks), scale, tiles, words, size)


def contact_sheet(
    video: UInt8[np.ndarray, "t h w c"], columns: int | None = None, scale: int | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """All frames of one video as a single picture, numbered from 0."""
    numbers = [str(i) for i in range(len(video))]
    return grid(video[:, None], numbers, columns or min(len(video), 8), scale)[0]


def _one_each(what: str, texts: Sequence[str], videos: UInt8[np.ndarray, "n t h w c"]) -> None:
    if len(texts) not in (0, len(videos)):
        raise ValueError(f"{len(texts)} {what} for {len(videos)} videos: one each, or none")


def _scale(videos: UInt8[np.ndarray, "n t h w c"]) -> int:
    return max(1, round(TILE / videos.shape[3]))


def _squarish(count: int, aspect: float) -> int:
    """Columns that make the grid somewhat wider than high; aspect is a tile's height / width."""
    return math.ceil((1.3 * count * aspect) ** 0.5)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(TEXT)


def _wrap(text: str, width: int) -> list[str]:
    """Lines at most `width` pixels wide; a longer word is cut and ends in an ellipsis."""
    font, lines = _font(), []
    for word in text.split():
        while font.getlength(word) > width and len(word) > 1:
            word = word.removesuffix("…")[:-1] + "…"
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _render(
    videos: UInt8[np.ndarray, "n t h w c"],
    scale: int,
    tiles: list[_Tile],
    words: list[_Words],
    size: tuple[int, int],
) -> UInt8[np.ndarray, "t H W 3"]:
    height, width = (side + side % 2 for side in size)
    page = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(page), _font()
    for text in words:
        for number, line in enumerate(text.lines):
            draw.text((text.x, text.y + number * LINE), line, fill=text.colour, font=font)
    out = np.repeat(np.asarray(page)[None], videos.shape[1], axis=0)
    for tile in tiles:
        large = videos[tile.video].repeat(scale, axis=1).repeat(scale, axis=2)
        rows, columns = slice(tile.y, tile.y + large.shape[1]), large.shape[2]
        out[:, rows, tile.x : tile.x + columns] = large  # grey broadcasts to three channels
    return out
