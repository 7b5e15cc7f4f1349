"""Small clips for the tests of data: frames whose number can be read off them, in shards."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vdm_jax.data.shard import Manifest, Provenance, Writer

PROVENANCE = Provenance(title="Test", source="made here", licence="CC0", credit="nobody © 2026")


def numbered(t: int, h: int, w: int, first: int = 0) -> np.ndarray:
    """Flat grey frames of 10, 13, 16, …; `number_of` reads the number back."""
    levels = (10 + 3 * (first + np.arange(t))).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (t, h, w, 3)).copy()


def number_of(frame: np.ndarray) -> int:
    return round((float(frame.mean()) - 10) / 3)


def shards(folder: Path, sizes: Sequence[tuple[int, int, int]], shard_bytes: int = 4000) -> Path:
    """A dataset whose split "train" has clips "c0", "c1", … of these (frames, height, width)."""
    writer = Writer(folder, "train", shard_bytes)
    for n, (t, h, w) in enumerate(sizes):
        writer.add(f"c{n}", numbered(t, h, w), 24, caption=f"clip {n}")
    Manifest(provenance=PROVENANCE, splits={"train": writer.close()}).save(folder)
    return folder
