"""Buckets: clips of many lengths, sizes and shapes, in batches that never mix them.

Every clip goes to the bucket that shows most of it: first the shape that crops least, then the
resolution that it need not be scaled up to, then as many frames as it has. The loader gives
batches of one bucket each (`order.Grouped`); which, follows from seed and position like the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import (
    Chosen,
    ClipInfo,
    Clips,
    OpensClips,
    Windowed,
    digest,
    length,
    opened,
)
from vdm_jax.data.source import Sample
from vdm_jax.data.transform import CentreCrop, Crop, Windows, check_fps

AS_GOOD = 0.02  # part of a picture; shapes that crop less than this more than the best are as good


@dataclass(frozen=True)
class Bucket:
    """Samples of one shape."""

    num_frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.num_frames, self.height, self.width) < 1:
            raise Refusal(f"a bucket needs frames, height and width of at least 1, got {self}")

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """The config part of a `Bucketed` source. every, step: as in `Windows`; the rest as in
    `clips.Samples`."""

    clips: OpensClips
    buckets: tuple[Bucket, ...]
    every: int = 1
    step: int | None = None
    fps: float | None = None
    rates: tuple[int, ...] = ()
    crop: Crop = CentreCrop()

    def __post_init__(self) -> None:
        check_fps(self.fps)

    def build(self) -> "Bucketed":
        return Bucketed(opened(self.clips), self)


class Bucketed:
    """Source over windows of clips, each clip in its bucket; the buckets follow each other.

    Clips that are too short for any are passed over. buckets: those that have samples. groups: how
    many each has.
    """

    def __init__(self, clips: Clips, config: Buckets):
        """Raises Refusal if no clip fits a bucket."""
        self.credit = clips.credit
        windows = [
            Windows(num_frames=bucket.num_frames, every=config.every, step=config.step)
            for bucket in config.buckets
        ]
        members: list[list[int]] = [[] for _ in config.buckets]
        for index, info in enumerate(clips.infos):
            bucket = best(info, config.buckets, windows, config.fps)
            if bucket is not None:
                members[bucket].append(index)
        taken = [i for i, indices in enumerate(members) if indices]
        if not taken:
            spans = min((w.span for w in windows), default=0)
            raise Refusal(f"{clips}: no clip fits a bucket; the shortest takes {spans} frames")
        self.buckets = [config.buckets[i] for i in taken]
        self._parts = [
            Windowed(
                Chosen(clips, members[i]),
                windows[i],
                config.buckets[i].size,
                fps=config.fps,
                rates=config.rates,
                crop=config.crop,
            )
            for i in taken
        ]
        self.groups = [len(part) for part in self._parts]
        self._ends = np.cumsum(self.groups)
        self.fingerprint = digest([part.fingerprint for part in self._parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Sample:
        part, inside = self._place(index)
        return part[inside]

    def draw(self, index: int, rng: np.random.Generator) -> Sample:
        part, inside = self._place(index)
        return part.draw(inside, rng)

    def key(self, index: int) -> str:
        part, inside = self._place(index)
        return part.key(inside)

    def _place(self, index: int) -> tuple[Windowed, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[which], index - (int(self._ends[which - 1]) if which else 0)


def best(
    info: ClipInfo, buckets: Sequence[Bucket], windows: Sequence[Windows], fps: float | None
) -> int | None:
    """Which bucket a clip goes to; None if it is too short for all."""
    frames = length(info, fps)
    fitting = [i for i, window in enumerate(windows) if window.count(frames)]
    if not fitting:
        return None
    most = max(kept(info, buckets[i]) for i in fitting)
    fitting = [i for i in fitting if kept(info, buckets[i]) > most - AS_GOOD]
    return max(fitting, key=lambda i: (*_sharpness(info, buckets[i]), buckets[i].num_frames))


def kept(info: ClipInfo, bucket: Bucket) -> float:
    """Which part of a clip's pictures a bucket shows."""
    ratio = info.width * bucket.height / (info.height * bucket.width)
    return min(ratio, 1 / ratio)


def _sharpness(info: ClipInfo, bucket: Bucket) -> tuple[bool, int]:
    """More is better: the largest bucket that needs no scaling up, else the smallest."""
    area = bucket.height * bucket.width
    enough = bucket.height <= info.height and bucket.width <= info.width
    return enough, area if enough else -area
