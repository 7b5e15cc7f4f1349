"""Clips in any storage."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True, kw_only=True)
class ClipInfo:
    """What is known of a clip without reading it; height and width are those of its frames.

    told: further numbers that samples of it carry, such as motion_bucket_id; every clip of a
    storage has the same ones.
    """

    key: str
    caption: str
    fps: float
    frames: int
    height: int
    width: int
    told: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Clips(Protocol):
    """Clips in some storage, by index; `str` says where they lie.

    fingerprint: a stable hash of what they are. credit: whom to name beside them. `read` gives
    the frames `numbers` of a clip; it raises Refusal naming what is damaged.
    """

    @property
    def infos(self) -> Sequence[ClipInfo]: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def credit(self) -> str: ...

    def read(self, index: int, numbers: range, /) -> UInt8[np.ndarray, "t h w 3"]: ...


def digest(identity: Any) -> str:
    """A fingerprint of what JSON can say."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
