"""Latents that were computed once, as a source: training then encodes no videos.

A dataset of shards like any other (`data.shard`), made by `python -m vdm_jax.train.latents`. Each
clip is one record with two parts: the latents that the task would compute, float16, and the first
frame, PNG without loss, for what is known of a picture must be encoded anew at every step (its
noise is added to pixels). A third part, for models whose text tower is not trained, is what that
tower makes of the caption, float16: training then encodes no captions either. The manifest says
what they were encoded by and from.

Nothing else is stored of a frame's distribution: the tasks train on its most likely latents.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, UInt8
from PIL import Image

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.record import sealed, unsealed
from vdm_jax.data.shard import Manifest, Records
from vdm_jax.data.source import Sample

LATENTS_VERSION = 1  # goes up when the same samples and weights give other latents
DTYPE = "<f2"


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What latents were made of.

    vae: name of the encoder's weights (`core.digest`). transform: what was done with what it said.
    source: fingerprint of the samples. video: (frames, height, width, colours) of each.
    text: name of the tower that embedded the captions; None where captions are text alone.
    """

    vae: str
    transform: str
    source: str
    video: tuple[int, ...]
    text: str | None = None
    version: int = LATENTS_VERSION

    def stored(self) -> dict[str, Any]:
        """As the manifest has it."""
        return asdict(self) | {"video": list(self.video)}

    @classmethod
    def of(cls, directory: Path, stored: Mapping[str, Any] | None) -> "Encoded":
        """Raises Refusal for a dataset that holds none, or those of another version."""
        if stored is None:
            raise Refusal(f"{directory}: holds pictures, no latents; ShardedClips reads them")
        if stored.get("version") != LATENTS_VERSION:
            raise Refusal(
                f"{directory}: holds latents of version {stored.get('version')}; this version "
                f"reads {LATENTS_VERSION}"
            )
        made: dict[str, Any] = {**stored, "video": tuple(stored["video"])}
        return cls(**made)


@dataclass(frozen=True, kw_only=True)
class LatentClips:
    """The config part of a `Latents` source."""

    directory: str
    split: str = "train"

    def build(self) -> "Latents":
        return Latents(self.directory, self.split)


class Latents:
    """Source over precomputed latents: "latents" float16 "t h w c", "picture" uint8 "H W 3", with
    captions that were embedded "text_embedding" float16 "l d", and what the samples that they were
    made of knew of themselves."""

    def __init__(self, directory: str, split: str = "train"):
        """Reads the manifest only. Raises Refusal if a part is missing."""
        self._root = Path(directory)
        manifest = Manifest.load(self._root)
        self.encoded = Encoded.of(self._root, manifest.encoded)
        self.credit = manifest.provenance.credit
        shards = manifest.split(self._root, split)
        self._clips = [(number, clip) for number, s in enumerate(shards) for clip in s.clips]
        self._hashes = [shard.sha256 for shard in shards]
        self._records = Records(self._root, shards)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self._hashes).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard, clip = self._clips[index]
        kept = self._records.read(
            shard, clip, clip.first_record, lambda record: unpack(record, clip.key)
        )
        return {"caption": clip.caption, "fps": np.float32(clip.fps), "key": clip.key, **kept}


def pack(
    key: str,
    latents: Float16[np.ndarray, "t h w c"],
    picture: UInt8[np.ndarray, "H W 3"],
    told: Mapping[str, float],
    text_embedding: Float16[np.ndarray, "l d"] | None = None,
) -> bytes:
    """One record. told: further numbers of the sample, such as motion_bucket_id."""
    png = BytesIO()
    Image.fromarray(picture).save(png, "PNG", compress_level=3)
    header = {"clip": key, "start": 0, "shape": list(latents.shape), "told": dict(told)}
    parts = [latents.astype(DTYPE).tobytes(), png.getvalue()]
    if text_embedding is not None:
        header["text_shape"] = list(text_embedding.shape)
        parts.append(text_embedding.astype(DTYPE).tobytes())
    return sealed(header, parts)


def unpack(record: bytes, key: str) -> Sample:
    """What `pack` was given, as fields of a sample. ValueError for a damaged record."""
    header, (raw, png, *text) = unsealed(record, key, 0)
    kept: Sample = {
        "latents": _array(raw, header["shape"]),
        "picture": np.asarray(Image.open(BytesIO(png), formats=("PNG",))),
        **{name: np.float32(number) for name, number in header["told"].items()},
    }
    if text:
        kept["text_embedding"] = _array(text[0], header["text_shape"])
    return kept


def _array(raw: memoryview, shape: Sequence[int]) -> Float16[np.ndarray, "..."]:
    if len(raw) != 2 * math.prod(shape):
        raise ValueError(f"holds {len(raw)} bytes for float16 numbers of {tuple(shape)}")
    return np.frombuffer(raw, DTYPE).astype(np.float16).reshape(shape)
