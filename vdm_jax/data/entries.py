"""What the manifest of a dataset says of its shards, and of the clips in them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vdm_jax.data.clips import FIELDS

LARGEST = float(np.finfo(np.float32).max)  # samples carry their numbers as float32


@dataclass(frozen=True, kw_only=True)
class ClipEntry:
    """One clip as the manifest lists it."""

    key: str
    caption: str
    fps: float
    frames: int
    height: int
    width: int
    first_record: int
    captions: dict[str, str] = field(default_factory=dict)
    told: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One ArrayRecord file as the manifest lists it; `file` is relative to the manifest."""

    file: str
    sha256: str
    bytes: int
    clips: tuple[ClipEntry, ...]


def shard_entry(data: dict[str, Any]) -> ShardEntry:
    """An entry of its `asdict`, as JSON has it. ValueError for a clip that is not well told."""
    return ShardEntry(**data | {"clips": tuple(_clip_entry(clip) for clip in data["clips"])})


def _clip_entry(data: dict[str, Any]) -> ClipEntry:
    captions, told = data.get("captions", {}), data.get("told", {})
    if not isinstance(captions, dict) or not all(isinstance(t, str) for t in captions.values()):
        raise ValueError(f"captions must be texts by who wrote them, got {str(captions)[:80]}")
    if not isinstance(told, dict) or not all(map(_is_number, told.values())):
        raise ValueError(f"told must be finite numbers by their names, got {str(told)[:80]}")
    if taken := sorted(told.keys() & FIELDS):
        raise ValueError(f"told has {taken[0]!r}, which samples have of their own")
    return ClipEntry(**data | {"told": {name: float(value) for name, value in told.items()}})


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST
