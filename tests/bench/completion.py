"""What a model of `configs/completion.py` can do, beside simple answers, on clips it never saw.

    python -m vdm_jax.train --config configs/completion.py
    python tests/bench/completion.py runs/completion [--clips 48] [--films 6] [--output DIR]

prints a line for each bar with its figure: what captions change, frames predicted and frames in
between beside copies and blends, the seam of reconstruction guidance beside that of replacement,
films of four times the frames by every plan, and what longer films cost. With --output it writes
pictures of what it drew. Films take the longest.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vdm_jax.core import gallery
from vdm_jax.data.synthetic import COLOURS, SHAPES
from vdm_jax.metrics import shapes
from vdm_jax.metrics.frames import psnr
from vdm_jax.metrics.seams import drift, jumps, seams
from vdm_jax.models.cond import Cond
from vdm_jax.sample import load, long
from vdm_jax.sample.long import Autoregressive, Film, FreeNoise, Hierarchical, Reuse
from vdm_jax.sample.pipeline import Pipeline
from vdm_jax.tasks.denoising import GIVEN, KNOWN
from vdm_jax.tasks.reconstruction import Reconstruction

PLANS = {
    "ar": Autoregressive(), "hierarchical": Hierarchical(), "reuse": Reuse(),
    "freenoise": FreeNoise(),
}  # fmt: skip


class Line(NamedTuple):
    """bar: what `value` is to be, in words; held: whether it is. None: there is no bar."""

    what: str
    value: float
    bar: str = ""
    held: bool | None = None

    def __str__(self) -> str:
        verdict = {None: "", True: f"{self.bar}: held", False: f"{self.bar}: MISSED"}[self.held]
        return f"{self.what:<58}{self.value:>9.3f}  {verdict}".rstrip()


def least(what, value, bar, words=""):
    return Line(what, value, words or f"at least {bar:g}", bool(value >= bar))


def most(what, value, bar):
    return Line(what, value, f"at most {bar:g}", bool(value <= bar))


def clips(directory: Path, count: int) -> list[dict]:
    source = load.describe(directory).held_out.build()
    return [source[i] for i in range(count)]


def captions(directory, count, output) -> Iterator[Line]:
    """Two captions for each seed, unlike in colour and in shape; the noise is the same."""
    words = [clip["caption"] for clip in clips(directory, 4 * count)]
    pairs: list[tuple[str, str]] = []
    for a, b in zip(words[::2], words[1::2], strict=True):
        unlike = not set(a.split()[1:3]) & set(b.split()[1:3])
        pairs += [(a, b)] if unlike and len(pairs) < count else []
    pipeline = Pipeline(directory, batch_size=16)
    rows = {"row": np.arange(len(pairs), dtype=np.int32)}
    right, drawn = [], []
    for side in zip(*pairs, strict=True):
        made = as_bytes(pipeline(None, list(side), given=rows))
        read, names = shapes.read(made), [caption.split() for caption in side]
        colour = np.array([list(COLOURS).index(word[1]) for word in names]) == read.colour
        shape = np.array([list(SHAPES).index(word[2]) for word in names]) == read.shape
        right.append((colour, shape, colour & shape))
        drawn.append(made)
    colour, shape, both = (100 * np.mean(part) for part in zip(*right, strict=True))
    yield Line(f"captions never seen, {2 * len(pairs)}: colour right, %", float(colour))
    yield Line("  shape right, %", float(shape))
    yield least("  both right, %", float(both), 90)
    swapped = 100 * np.mean(right[0][2] & right[1][2])
    yield Line("  both right under both captions of a seed, %", float(swapped))
    sheet(output, "captions", {
        f"{n} {''.join(pair[s][2:].split(' bounces'))}": drawn[s][n]
        for n, pair in enumerate(pairs[:3]) for s in range(2)
    })  # fmt: skip


def told(directory, count, output) -> Iterator[Line]:
    """PSNR of frames that are not given, in dB."""
    there = clips(directory, count)
    true = np.stack([clip["video"] for clip in there])
    pipeline = Pipeline(directory, batch_size=16)
    size = true.shape[1]
    every = {name: np.arange(0, size, step) for name, step in (("third", 3), ("fifth", 5))}
    for what, frames in {"first four": np.arange(4), **every}.items():
        made = completed(pipeline, there, frames)
        new = np.setdiff1d(np.arange(size), frames)
        simple = {"copied": held(true, frames)}
        if what != "first four":
            simple["blended"] = blended(true, frames)
        value = float(psnr(made[:, new], true[:, new]).mean())
        yield Line(f"frames but the {what}{' of each' * (what in every)}, dB", value)
        for name, other in simple.items():
            gain = value - float(psnr(other[:, new], true[:, new]).mean())
            yield least(f"  above {name} ones, dB", gain, 3)
        sheet(output, what.replace(" ", "_"), {
            f"{i} {name}": each[i]
            for i in range(3) for name, each in (("true", true), ("drawn", made))
        })  # fmt: skip


def completed(pipeline, there, frames, *, seed=0):
    videos = np.stack([clip["video"] for clip in there])
    known = np.zeros(videos.shape[:2], bool)
    known[:, frames] = True
    given = {KNOWN: known, GIVEN: pipeline.encode(videos)}
    x0 = pipeline.draw([clip["caption"] for clip in there], given=given, seed=seed)
    return as_bytes(pipeline.decode(x0))


def held(true, frames):
    last = [max(f for f in frames if f <= i) for i in range(true.shape[1])]
    return true[:, last]


def blended(true, frames):
    made, size = true.astype(np.float64), true.shape[1]
    for i in np.setdiff1d(np.arange(size), frames):
        a, b = max(f for f in frames if f < i), min(f for f in frames if f > i)
        made[:, i] = true[:, a] + (i - a) / (b - a) * (true[:, b].astype(np.float64) - true[:, a])
    return np.round(made).astype(np.uint8)


def guided(directory, count, output) -> Iterator[Line]:
    """The jump from the eighth to the ninth frame, of a network that is told of none."""
    there = clips(directory, count)
    made = {}
    for name, weight in (("replacement", 0.0), ("guidance", 2.0)):
        pipeline = Pipeline(
            directory,
            batch_size=16,
            adapt=lambda made, w=weight: replace(
                made, task=Reconstruction(task=made.task, frames_weight=w)
            ),
            around=blind,
        )
        made[name] = completed(pipeline, there, np.arange(8))
    true = np.stack([clip["video"] for clip in there])
    jump = {
        name: float(np.mean([jumps(clip)[7] for clip in each]))
        for name, each in {**made, "true": true}.items()
    }
    for name, value in jump.items():
        yield Line(f"jump at the seam, {name}, grey values", value)
    yield most("  guidance / replacement", jump["guidance"] / jump["replacement"], 0.7)
    rows = {"true": true, **made}
    sheet(output, "guidance", {f"{i} {k}": v[i] for i in range(2) for k, v in rows.items()})


def blind(denoise):
    """A denoiser that does not see what stands beside the noisy frames: that of whole videos."""

    def answer(z, level, cond: Cond):
        assert cond.concat is not None
        return denoise(z, level, replace(cond, concat=0 * cond.concat))

    return answer


def films(directory, count, output) -> Iterator[Line]:
    """Four times the frames, by every plan."""
    made_by = load.describe(directory)
    size = made_by.task.video.num_frames
    words = [clip["caption"] for clip in clips(directory, count)]
    for name, plan in PLANS.items():
        ratios, far, seen = [], [], []
        for seed, caption in enumerate(words):
            drawn = plan(long.opener(directory), made_by, Film(4 * size, (caption,)), seed=seed)
            found = seams(drawn.video, drawn.begins)
            ratios.append((found.across, found.inside))
            far.append(drift(drawn.video, size))
            made = as_bytes(drawn.video)
            parts = made.reshape(-1, size, *made.shape[1:])
            seen.append((right(parts, caption), drawn, made))
        across, inside = np.mean(ratios, axis=0)
        if np.isnan(across):
            yield Line(f"{name}: one piece; jump inside, grey values", float(inside))
        else:
            ratio = float(across / inside)
            yield Line(f"{name}: seam / inside", ratio, "0.9 to 1.1", bool(abs(ratio - 1) <= 0.1))
        yield Line("  drift, grey values", float(np.mean(far)))
        yield Line("  quarters of the films as the caption says, %", 100 * float(np.mean(
            [part for part, *_ in seen])))  # fmt: skip
        sheet(output, f"film_{name}", {
            caption: made[::4] for caption, (_, _, made) in list(zip(words, seen, strict=True))[:4]
        })  # fmt: skip


def right(parts, caption):
    read, (_, colour, shape, *_) = shapes.read(parts), caption.split()
    return (read.colour == list(COLOURS).index(colour)) & (read.shape == list(SHAPES).index(shape))


def costs(directory) -> Iterator[Line]:
    """The second drawing of one pipeline: compiling is not counted."""
    seconds = {}
    for times in (2, 4, 8):
        made = load.describe(directory)
        total = times * made.task.video.num_frames
        opened = []

        def opener(opened=opened, **more):
            opened.append(Pipeline(directory, **more) if not opened else opened[0])
            return opened[0]

        film = Film(total, ("a red circle bounces",))
        taken = []
        for seed in range(4):
            begin = time.monotonic()
            FreeNoise()(opener, made, film, seed=seed)
            taken.append(time.monotonic() - begin)
        seconds[total] = min(taken[1:])
        yield Line(f"freenoise, {total} frames, seconds", seconds[total])
    (a, first), *_, (b, last) = seconds.items()
    yield most("  of linear", (last / first) / (b / a), 1.2)


def as_bytes(videos):
    return np.round(255 * np.asarray(videos)).astype(np.uint8)


def sheet(output, name, rows):
    """One video a row, its frames from left to right; what it is stands below its first."""
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        frames = np.concatenate(list(rows.values()))[:, None]
        columns = len(frames) // len(rows)
        labels = [""] * len(frames)
        labels[::columns] = rows
        Image.fromarray(gallery.grid(frames, labels, columns, scale=2)[0]).save(
            output / f"{name}.png"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--films", type=int, default=6)
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--only", nargs="*", default=["captions", "told", "guided", "films", "costs"]
    )
    args = parser.parse_args()
    parts = {
        "captions": lambda: captions(args.directory, args.clips, args.output),
        "told": lambda: told(args.directory, args.clips, args.output),
        "guided": lambda: guided(args.directory, args.clips, args.output),
        "films": lambda: films(args.directory, args.films, args.output),
        "costs": lambda: costs(args.directory),
    }
    missed = 0
    for name in args.only or parts:
        for line in parts[name]():
            print(line, flush=True)
            missed += line.held is False
    print(f"{missed} bars missed")


if __name__ == "__main__":
    main()
