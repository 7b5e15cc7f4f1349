"""Frames predicted, frames in between, and clips made longer, of shots of a film never trained on.

    python -m vdm_jax.data.film --output data/film
    python -m vdm_jax.train --config configs/real_video.py:cpu
    python tests/bench/film_family.py runs/real_video-cpu --output family

prints PSNR of the frames that were not given beside copies and blends, and writes pictures and
folders of videos, the real ones too, to be evaluated:

    python -m vdm_jax.evaluate --real family/real --fake family/predict family/interpolate
    python -m vdm_jax.evaluate --real family/real_long --fake family/extend

Any model will do whose frames, or latents of single frames, are drawn: one that was not trained to
be told frames is made to agree with them by guidance (`vdm_jax.tasks.reconstruction`). Needs the
film where its run read it.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from vdm_jax.core import gallery, video
from vdm_jax.data.transform import Windows
from vdm_jax.metrics.frames import psnr
from vdm_jax.sample import load, long
from vdm_jax.sample.long import Autoregressive, Film
from vdm_jax.tasks.long_video import extension, interpolation
from vdm_jax.tasks.task import Pretrained, tuned

GIVEN, FACTOR = 4, 3


def clips(directory: Path, count: int, data: str | None):
    """(names, real videos of twice the frames of a window), spread over what was held out."""
    held_out = load.describe(directory).held_out
    size = load.describe(directory).task.video.num_frames
    windows = Windows(num_frames=2 * size, every=held_out.windows.every)
    place = {} if data is None else {"directory": data}
    source = replace(held_out, windows=windows, **place).build()
    rows = np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int)
    return [f"{row:04d}" for row in rows], [source[int(row)]["video"] for row in rows]


class Case(NamedTuple):
    """Of one clip: what was drawn, the real frames, which of them were new, simple answers."""

    drawn: np.ndarray
    real: np.ndarray
    new: np.ndarray
    simple: dict[str, np.ndarray]

    def psnr(self) -> dict[str, float]:
        rows = {"model": self.drawn, **self.simple}
        real = self.real[self.new]
        return {name: float(psnr(row[self.new], real).mean()) for name, row in rows.items()}


class Family:
    """The three things that are drawn of a clip of twice a window's frames."""

    def __init__(self, directory: Path, num_steps: int):
        found = load.describe(directory)
        self.made = Pretrained(found.model, tuned(found.task, {"num_steps": num_steps}))
        self._opened = long.opener(directory, num_steps=num_steps)(adapt=long.told)
        self._size = self.made.task.video.num_frames

    def cases(self, clip: np.ndarray, seed: int) -> dict[str, Case]:
        short = clip[: self._size]
        return {
            "predict": self._predicted(short, seed),
            "interpolate": self._between(short, seed),
            "extend": self._extended(clip, seed),
        }

    def _predicted(self, real, seed):
        film = Film(self._size, first=real[:GIVEN])
        windows = extension(self._size, self._size, GIVEN, range(GIVEN))
        drawn = long.in_windows(self._opened, windows, film, seed).video
        new = np.arange(GIVEN, self._size)
        return Case(as_bytes(drawn), real, new, {"copy": real[[GIVEN - 1] * self._size]})

    def _between(self, real, seed):
        known = np.arange(0, self._size, FACTOR)
        total = int(known[-1]) + 1
        windows = interpolation(len(known), self._size, FACTOR)
        there = {int(i): real[i] for i in known}
        drawn = long.in_windows(self._opened, windows, Film(total), seed, there).video
        simple = {"copy": real[np.arange(total) // FACTOR * FACTOR], "blend": blended(real[:total])}
        whole = np.concatenate([as_bytes(drawn), real[total:]])
        return Case(whole, real, np.setdiff1d(np.arange(total), known), simple)

    def _extended(self, real, seed):
        plan, film = Autoregressive(GIVEN), Film(2 * self._size, first=real[: self._size])
        drawn = plan(lambda **_: self._opened, self.made, film, seed=seed).video
        copy = real[[self._size - 1] * len(real)]
        return Case(as_bytes(drawn), real, np.arange(self._size, len(real)), {"copy": copy})


def as_bytes(drawn):
    return np.round(255 * drawn).astype(np.uint8)


def blended(real):
    made = real.astype(np.float64)
    for i in range(len(real)):
        a, part = i // FACTOR * FACTOR, i % FACTOR / FACTOR
        made[i] = (1 - part) * real[a] + (part * real[a + FACTOR] if part else 0)
    return np.round(made).astype(np.uint8)


def sheet(path, rows):
    frames = np.concatenate([row[:: len(row) // 8][:8] for row in rows.values()])[:, None]
    labels = [""] * len(frames)
    labels[::8] = rows
    Image.fromarray(gallery.grid(frames, labels, 8, scale=1)[0]).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--output", type=Path, default=Path("family"))
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--num-steps", type=int, default=20)
    parser.add_argument("--data", help="where the film lies now")
    args = parser.parse_args()
    family = Family(args.directory, args.num_steps)
    fps, scores, shown = family.made.task.video.fps, {}, {}
    names, real = clips(args.directory, args.clips, args.data)
    for number, (name, clip) in enumerate(zip(names, real, strict=True)):
        cases = family.cases(clip, number)
        films = {"real": cases["predict"].real, "real_long": clip}
        for kind, case in cases.items():
            films[kind] = case.drawn
            for what, value in case.psnr().items():
                scores.setdefault(f"{kind}, {what}", []).append(value)
            if number % max(1, len(names) // 3) == 0:
                rows = {f"{name} real": case.real, f"{name} drawn": case.drawn}
                shown.setdefault(kind, {}).update(rows)
        for folder, film in films.items():
            (args.output / folder).mkdir(parents=True, exist_ok=True)
            video.write(args.output / folder / f"{name}.mp4", film, fps, codec=video.Lossless())
        print(f"clip {number + 1} of {len(names)}", flush=True)
    for kind, rows in shown.items():
        sheet(args.output / f"{kind}.png", rows)
    print(f"PSNR of new frames, dB, {len(names)} clips")
    for what, values in scores.items():
        error = 1.96 * np.std(values, ddof=1) / len(values) ** 0.5
        print(f"{what:<24}{np.mean(values):6.2f} ± {error:.2f}")


if __name__ == "__main__":
    main()
