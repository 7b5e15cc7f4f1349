"""Shards: clips in ArrayRecord files, for random access to any window of any clip.

A dataset is a folder with `manifest.json` and one subfolder of `NNNNN.array_record` files for each
split. A clip is stored as records of up to 32 consecutive frames (`data.record`).

The manifest holds the format version, provenance, licence and credit, and for each shard its
SHA-256, size and the clips in it: key, caption, fps, frames, height, width, first record; captions,
all that there are by who wrote them, of which `caption` is the first; told, further numbers that
samples of the clip carry. The last two may be absent.
"""

import hashlib
import json
import os
import struct
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import UInt8

from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sniff import reason
from vdm_jax.data import captions as choice
from vdm_jax.data.captions import Captioned, Share
from vdm_jax.data.clips import Windowed, digest
from vdm_jax.data.entries import ClipEntry, ShardEntry, shard_entry
from vdm_jax.data.record import FORMAT_VERSION, RECORD_FRAMES, apart, pack, pictures, storing
from vdm_jax.data.transform import Windows, check_size

Unpacked = TypeVar("Unpacked")

MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where clips come from and under which terms; kept with them and shown beside them."""

    title: str
    source: str
    licence: str
    credit: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything known about a sharded dataset without opening its shards.

    encoded: what made its latents of what (`data.latents`); None: it holds pictures.
    """

    provenance: Provenance
    splits: dict[str, tuple[ShardEntry, ...]]
    encoded: dict[str, Any] | None = None

    def save(self, directory: Path) -> None:
        """Write manifest.json whole or not at all: a dataset without it is unfinished."""
        text = json.dumps({"format": FORMAT_VERSION} | asdict(self), indent=1, ensure_ascii=False)
        part = directory / f".{MANIFEST}.part"
        part.write_text(text, encoding="utf-8")
        os.replace(part, directory / MANIFEST)

    def split(self, directory: Path, name: str) -> tuple[ShardEntry, ...]:
        """The shards of one split; refuses one that `directory` has not."""
        if name not in self.splits:
            raise Refusal(f"{directory}: has no split {name!r}, only {sorted(self.splits)}")
        return self.splits[name]

    @classmethod
    def load(cls, directory: Path) -> "Manifest":
        """Raises Refusal if the folder holds no dataset, or one of another format version."""
        path = directory / MANIFEST
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            version = data["format"]
        except FileNotFoundError:
            raise Refusal(f"{directory}: no dataset here ({MANIFEST} is missing)") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise Refusal(f"{path}: cannot be read: {reason(error)}") from error
        if version != FORMAT_VERSION:
            raise Refusal(
                f"{path}: has shard format {version}; this version reads {FORMAT_VERSION}"
            )
        try:
            return cls(
                provenance=Provenance(**data["provenance"]),
                splits={name: tuple(map(shard_entry, s)) for name, s in data["splits"].items()},
                encoded=data.get("encoded"),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise Refusal(f"{path}: is damaged: {reason(error)}") from error


class Writer:
    """Writes the clips of one split into shards of about `shard_bytes` each.

    Files carry a temporary name until they are complete; call `close` for the list of shards.
    """

    def __init__(
        self, directory: Path, split: str, shard_bytes: int = 64 * 2**20, *, first: int = 0
    ):
        """first: the number of the first shard."""
        self._root, self._split, self._shard_bytes = directory, split, shard_bytes
        self._first = first
        self._done: list[ShardEntry] = []
        self._clips: list[ClipEntry] = []
        self._file: Any = None
        self._written = self._records = 0

    def add(
        self,
        key: str,
        frames: UInt8[np.ndarray, "t h w 3"],
        fps: float | int,
        caption: str,
        *,
        captions: Mapping[str, str] | None = None,
        told: Mapping[str, float] | None = None,
    ) -> None:
        """Append one clip. captions, told: see the module."""
        starts = range(0, len(frames), RECORD_FRAMES)
        records = (pack(key, start, frames[start : start + RECORD_FRAMES]) for start in starts)
        self.append(key, records, frames.shape, fps, caption, captions=captions, told=told)

    def append(
        self,
        key: str,
        records: Iterable[bytes],
        sizes: Sequence[int],
        fps: float | int,
        caption: str,
        *,
        captions: Mapping[str, str] | None = None,
        told: Mapping[str, float] | None = None,
    ) -> None:
        """Append one clip of (frames, height, width, colours) that is packed already."""
        if self._file is None:
            self._part.parent.mkdir(parents=True, exist_ok=True)
            with storing(self._part):
                self._file = ArrayRecordWriter(str(self._part), "group_size:1,uncompressed")
        count, height, width, _ = sizes
        entry = ClipEntry(
            key=key,
            caption=caption,
            fps=float(fps),
            frames=count,
            height=height,
            width=width,
            first_record=self._records,
            captions=dict(captions or {}),
            told=dict(told or {}),
        )
        self._clips.append(entry)
        for record in records:
            with storing(self._part):
                self._file.write(record)
            self._written += len(record)
            self._records += 1
        if self._written >= self._shard_bytes:
            self._finish()

    def close(self) -> tuple[ShardEntry, ...]:
        """Complete the last shard; the entries of all of them."""
        if self._file is not None:
            self._finish()
        return tuple(self._done)

    @property
    def _name(self) -> str:
        return f"{self._split}/{self._first + len(self._done):05d}.array_record"

    @property
    def _part(self) -> Path:
        return self._root / f"{self._name}.part"

    def _finish(self) -> None:
        with storing(self._part):
            self._file.close()
        path = self._root / self._name
        digest = _sha256(self._part)
        os.replace(self._part, path)
        self._done.append(
            ShardEntry(
                file=self._name, sha256=digest, bytes=path.stat().st_size, clips=tuple(self._clips)
            )
        )
        self._file, self._clips, self._written, self._records = None, [], 0, 0


@dataclass(frozen=True, kw_only=True)
class ShardedClips:
    """Clips of one split of the shards that `vdm_jax.curate` wrote.

    captions: the shares of their writers, as `Shards` has them.
    """

    directory: str
    split: str
    windows: Windows
    height: int
    width: int
    captions: tuple[Share, ...] = ()

    def __post_init__(self) -> None:
        check_size(self.height, self.width)

    def build(self) -> Windowed:
        clips = Shards(self.directory, self.split, self.captions)
        return Windowed(clips, self.windows, (self.height, self.width))


@dataclass(frozen=True, kw_only=True)
class ShardFolder:
    """The config part of `Shards`, for `clips.Samples` and `buckets.Buckets`."""

    directory: str
    split: str
    captions: tuple[Share, ...] = ()

    def build(self) -> "Shards":
        return Shards(self.directory, self.split, self.captions)


class Shards:
    """The clips of one split of a sharded dataset (`clips.Clips`).

    captions: whose captions samples have, and how often; a clip that lacks some has the others in
    their proportion, one that lacks all its `caption`. (): every clip has its `caption`.
    """

    def __init__(self, directory: str | os.PathLike, split: str, captions: Sequence[Share] = ()):
        """Reads the manifest only. Raises Refusal if a part is missing, if clips are told different
        things, or for a share of a writer that no clip has."""
        self._root, self._split = Path(directory), split
        manifest = Manifest.load(self._root)
        if manifest.encoded is not None:
            raise Refusal(f"{self._root}: holds latents; LatentClips reads them")
        shards = manifest.split(self._root, split)
        self._clips = [(number, clip) for number, s in enumerate(shards) for clip in s.clips]
        choice.check(captions, [clip.captions for _, clip in self._clips], str(self))
        self._check_told()
        self.infos = [_info(clip, captions) for _, clip in self._clips]
        self.credit = manifest.provenance.credit
        self.fingerprint = digest(self._identity(shards, captions))
        self._records = Records(self._root, shards)

    def __str__(self) -> str:
        return f"{self._root}, {self._split}"

    def _check_told(self) -> None:
        names = [(clip.key, sorted(clip.told)) for _, clip in self._clips]
        if odd := next((each for each in names if each[1] != names[0][1]), None):
            raise Refusal(
                f"{self}: every clip must be told the same numbers: {names[0][0]!r} has "
                f"{str(names[0][1])[:80]}, {odd[0]!r} has {str(odd[1])[:80]}"
            )

    def _identity(self, shards: Sequence[ShardEntry], shares: Sequence[Share]) -> dict[str, Any]:
        """What only the manifest says of samples counts too, where there is some."""
        identity: dict[str, Any] = {"format": FORMAT_VERSION, "shards": [s.sha256 for s in shards]}
        if shares:
            identity["shares"] = [asdict(each) for each in shares]
            identity["captions"] = [dict(info.captions) for info in self.infos]
        if any(told := [dict(info.told) for info in self.infos]):
            identity["told"] = told
        return identity

    def read(self, index: int, numbers: range) -> UInt8[np.ndarray, "t h w 3"]:
        shard, clip = self._clips[index]
        pictures: list[np.ndarray] = []
        for block in range(numbers[0] // RECORD_FRAMES, numbers[-1] // RECORD_FRAMES + 1):
            start = block * RECORD_FRAMES
            inside = [n - start for n in numbers if start <= n < start + RECORD_FRAMES]
            if inside:
                pictures += self._read(shard, clip, block, inside)
        return np.stack(pictures)

    def _read(self, shard: int, clip: ClipEntry, block: int, inside: list[int]) -> list[np.ndarray]:
        start = block * RECORD_FRAMES
        return self._records.read(
            shard,
            clip,
            clip.first_record + block,
            lambda record: pictures(apart(record, clip.key, start)[1], inside),
        )


def _info(clip: ClipEntry, shares: Sequence[Share]) -> Captioned:
    return Captioned(
        key=clip.key,
        caption=clip.caption,
        fps=clip.fps,
        frames=clip.frames,
        height=clip.height,
        width=clip.width,
        told=clip.told,
        captions=choice.shared(clip.captions, shares),
    )


class Records:
    """Reads single records of shards, from any thread and any process."""

    def __init__(self, directory: Path, shards: Sequence[ShardEntry]):
        """Raises Refusal if a shard is missing or not as long as the manifest says."""
        check_sizes(directory, shards)
        self._root, self._shards = directory, shards
        self._readers: dict[int, ArrayRecordReader] = {}
        self._opening = threading.Lock()

    def read(
        self, shard: int, clip: ClipEntry, number: int, unpacked: Callable[[bytes], Unpacked]
    ) -> Unpacked:
        """Record `number` of a shard, unpacked; Refusal names one that is damaged."""
        try:
            return unpacked(self._reader(shard).read([number])[0])
        except (ValueError, OSError, LookupError, RuntimeError, struct.error) as error:
            path = self._root / self._shards[shard].file
            raise Refusal(f"{path}: record {number} ({clip.key}): {reason(error)}") from error

    def _reader(self, shard: int) -> ArrayRecordReader:
        with self._opening:
            if shard not in self._readers:
                self._readers[shard] = ArrayRecordReader(
                    str(self._root / self._shards[shard].file),
                    "readahead_buffer_size:0,max_parallelism:0",
                    file_reader_buffer_size=2**16,
                )
            return self._readers[shard]

    def __getstate__(self) -> dict[str, Any]:
        """A worker process opens its own readers."""
        return self.__dict__ | {"_readers": {}, "_opening": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_opening": threading.Lock()})


def check_sizes(directory: Path, shards: Iterable[ShardEntry]) -> None:
    """Refuse shards that are missing or not as long as the manifest says."""
    for shard in shards:
        path = directory / shard.file
        if not path.is_file():
            raise Refusal(f"{path}: shard is missing")
        if path.stat().st_size != shard.bytes:
            raise Refusal(f"{path}: has {path.stat().st_size} bytes instead of {shard.bytes}")


def verify(directory: Path) -> Manifest:
    """Check every shard against its SHA-256. Raises Refusal naming the first that differs."""
    manifest = Manifest.load(directory)
    for shards in manifest.splits.values():
        check_sizes(directory, shards)
        for shard in shards:
            if _sha256(directory / shard.file) != shard.sha256:
                path = directory / shard.file
                raise Refusal(f"{path}: does not match its SHA-256; delete it and make it again")
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
