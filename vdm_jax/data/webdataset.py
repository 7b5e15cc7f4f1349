"""WebDataset tar shards as clips, and clips written as such.

A sample is what lies in a tar file side by side under one name up to the first dot of its last
part: 000017.mp4 with 000017.txt and 000017.json. Its clip is a video (.mp4 .m4v .mov .webm .mkv
.avi), one picture (.jpg .jpeg .png .webp), or a sequence of numbered pictures (000017.0001.jpg …).
Shards lie on a disk, not packed by gzip, so that any sample can be read at once.
"""

import hashlib
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vdm_jax.core import video
from vdm_jax.core.container import Limits
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sniff import reason
from vdm_jax.data import encoded, index, tar
from vdm_jax.data.clips import ClipInfo, Clips, digest
from vdm_jax.data.files import BadFiles, refuse_bad
from vdm_jax.data.tar import Member

VIDEOS = ("mp4", "m4v", "mov", "webm", "mkv", "avi")
PICTURES = ("jpg", "jpeg", "png", "webp")
TEXT_BYTES = 2**20  # of a caption or of a .json
VIDEO, STILLS = "video", "pictures"  # kinds of clips
_NUMBERED = re.compile(rf"[a-z_-]*(\d{{1,18}})\.(?:{'|'.join(PICTURES)})")
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)")
CODEC = video.H264(keyframe_interval=12, threads=1)  # threads: bytes that hang on no machine

Sample = Mapping[str, Member]
"""Members of one sample by their suffixes, in lower case."""


@dataclass(frozen=True, kw_only=True)
class TarShards:
    """The config part of `Tars`."""

    shards: str | tuple[str, ...]
    video: str | None = None
    caption: str | None = None
    fps: float | None = None
    told: tuple[str, ...] = ()
    credit: str = ""

    def build(self) -> "Tars":
        return Tars(
            self.shards,
            video=self.video,
            caption=self.caption,
            fps=self.fps,
            told=self.told,
            credit=self.credit,
        )


class Tars:
    """The clips in tar files (`clips.Clips`), one a sample; samples without one are passed over.

    shards: a folder of .tar files, a pattern such as "train-{000000..000009}.tar", or several of
    either. video: the suffix of the clip, where samples hold several. caption: a field of the
    .json; None is the .txt, or else "caption" of the .json, or else "". fps: the rate of pictures
    whose .json has no "fps"; videos have their own. told: fields of the .json, one number each.

    Opening reads every sample once, in threads, for how many frames there are and how large; the
    index of it is kept as `data.index` says, below `cache` if that is given. Damage that shows only
    in decoding is refused when frames are read. The key of a clip is "shard/sample".
    """

    def __init__(
        self,
        shards: str | os.PathLike | Sequence[str | os.PathLike],
        *,
        video: str | None = None,
        caption: str | None = None,
        fps: float | int | None = None,
        told: Sequence[str] = (),
        credit: str = "",
        cache: Path | None = None,
        bad_files: BadFiles = refuse_bad,
        limits: Limits | None = None,
    ):
        """Raises Refusal if shards are missing or damaged, and as `bad_files` does for samples."""
        self._paths, self._limits, self.credit = tar.paths(shards), limits or Limits(), credit
        self._suffix, self._caption = video, caption
        self._fps, self._told = fps, tuple(told)
        if fps is not None and not 0 < fps <= self._limits.fps:
            raise Refusal(f"fps must be above 0 and at most {self._limits.fps:g}, got {fps}")
        asked = ["webdataset", video, caption, fps, list(told), asdict(self._limits)]
        found = index.remembered(self._paths, asked, self._indexed, cache)
        good = [kept for kept in found if "bad" not in kept]
        if len(good) < len(found):
            bad = [Refusal(kept["bad"]) for kept in found if "bad" in kept]
            bad_files(self._paths[0].parent, bad, len(found))
        if not good:
            raise Refusal(f"{self}: holds no clip ({' '.join(VIDEOS + PICTURES)})")
        self._places = [(kept["shard"], kept["kind"], kept["parts"]) for kept in good]
        self.infos = [ClipInfo(**kept["info"]) for kept in good]
        self.fingerprint = digest([[kept["info"], kept["hash"]] for kept in good])

    def __str__(self) -> str:
        more = f" and {len(self._paths) - 1} more" if len(self._paths) > 1 else ""
        return f"{self._paths[0]}{more}"

    def read(self, index: int, numbers: range) -> UInt8[np.ndarray, "t h w 3"]:
        shard, kind, parts = self._places[index]
        path = self._paths[shard]
        try:
            if kind == VIDEO:
                return encoded.read_file(tar.read(path, *parts[0]), numbers, self._limits)
            pictures = [tar.read(path, *parts[number]) for number in numbers]
            return encoded.read_pictures(pictures, self._limits)
        except Refusal as refusal:
            raise Refusal(f"{path}: {self.infos[index].key}: {refusal}") from refusal

    def _indexed(self) -> Any:
        """As JSON: each clip, where it lies, and a hash of it; or what is wrong with it."""
        listed = index.each(tar.members, self._paths, len(self._paths), "indexing shards")
        samples = [
            (shard, name, sample)
            for shard, members in enumerate(listed)
            for name, sample in grouped(self._paths[shard], members)
        ]
        found = index.each(self._described, samples, len(samples), "indexing samples")
        return [kept for kept in found if kept is not None]

    def _described(self, place: tuple[int, str, Sample]) -> dict[str, Any] | None:
        shard, name, sample = place
        path = self._paths[shard]
        try:
            kind, clip = _clip(sample, self._suffix)
            if not clip:
                return None
            parts = [(member.offset, member.size) for member in clip]
            data = [tar.read(path, *_bounded(member, self._limits.bytes)) for member in clip]
            info = self._info(f"{path.stem}/{name}", path, sample, kind, data)
        except Refusal as refusal:
            return {"bad": f"{path}: {name}: {refusal}"}
        hashed = hashlib.blake2b(digest_size=16)
        for part in data:
            hashed.update(len(part).to_bytes(8, "little") + part)
        kept = {"shard": shard, "kind": kind, "parts": parts}
        return kept | {"info": asdict(info), "hash": hashed.hexdigest()}

    def _info(
        self, key: str, path: Path, sample: Sample, kind: str, data: Sequence[bytes]
    ) -> ClipInfo:
        if kind == VIDEO:
            extent = encoded.measure_file(data[0], self._limits)
        else:
            extent = encoded.measure_pictures(data, self._limits)
        fields = _fields(path, sample)
        told = {name: _number(fields, name) for name in self._told}
        return ClipInfo(
            key=key,
            caption=self._words(path, sample, fields),
            fps=extent.fps or self._rate(fields, extent.frames),
            frames=extent.frames,
            height=extent.height,
            width=extent.width,
            told=told,
        )

    def _rate(self, fields: Mapping[str, Any], frames: int) -> float:
        """Of pictures; of a single one it is nobody's business."""
        if "fps" not in fields and self._fps is None and frames > 1:
            raise Refusal("its pictures do not tell their rate; give fps")
        rate = _number(fields, "fps") if "fps" in fields else float(self._fps or 1)
        if not 0 < rate <= self._limits.fps:
            raise Refusal(f"has {rate:g} frames a second; at most {self._limits.fps:g} are read")
        return rate

    def _words(self, path: Path, sample: Sample, fields: Mapping[str, Any]) -> str:
        if self._caption is not None and self._caption not in fields:
            raise Refusal(f"its .json has no field {self._caption!r}")
        if self._caption is None and "txt" in sample:
            return _text(path, sample["txt"])
        words = fields.get(self._caption or "caption")
        if not isinstance(words, str | None):
            raise Refusal(f"its caption is no text: {str(words)[:60]!r}")
        return (words or "").strip()


def grouped(path: Path, members: Sequence[Member]) -> Iterator[tuple[str, Sample]]:
    """The samples of a tar file: neighbours of one name. Refuses a name that comes again."""
    seen: set[str] = set()
    named = [(match, m) for m in members if (match := _NAME.fullmatch(m.name)) and _wanted(m)]
    for name, group in itertools.groupby(named, lambda pair: pair[0][1]):
        sample: dict[str, Member] = {}
        if name in seen:
            raise Refusal(f"{path}: the sample {name!r} comes twice")
        for match, member in group:
            if sample.setdefault(match[2].lower(), member) is not member:
                raise Refusal(f"{path}: the sample {name!r} has two files .{match[2].lower()}")
        seen.add(name)
        yield name, sample


def _wanted(member: Member) -> bool:
    """Not what WebDataset keeps notes of its own in: __names__."""
    return not re.match(r"__[^/]*__($|/)", member.name)


def _clip(sample: Sample, suffix: str | None) -> tuple[str, list[Member]]:
    """VIDEO or STILLS, and the members that a clip lies in; none where there is no clip."""
    if suffix is not None:
        wanted = suffix.lower().removeprefix(".")
        kind = STILLS if wanted.rpartition(".")[2] in PICTURES else VIDEO
        return kind, [sample[wanted]] if wanted in sample else []
    videos = [name for name in sample if name.rpartition(".")[2] in VIDEOS]
    single = [name for name in sample if name in PICTURES]
    numbered = {name: int(m[1]) for name in sample if (m := _NUMBERED.fullmatch(name))}
    several = videos or single + list(numbered)[:1]
    if len(several) > 1 or len(set(numbered.values())) < len(numbered):
        told = ", ".join(f".{name}" for name in (videos or single + list(numbered))[:4])
        raise Refusal(f"holds several clips ({told}); say which as video")
    if videos:
        return VIDEO, [sample[videos[0]]]
    return STILLS, [sample[name] for name in single or sorted(numbered, key=lambda n: numbered[n])]


def _bounded(member: Member, most: int) -> tuple[int, int]:
    if member.size > most:
        raise Refusal(f"{member.name}: has {member.size} bytes; at most {most} are read")
    return member.offset, member.size


def _text(path: Path, member: Member) -> str:
    try:
        return tar.read(path, *_bounded(member, TEXT_BYTES)).decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise Refusal(f"{member.name}: is not UTF-8 ({reason(error)})") from error


def _fields(path: Path, sample: Sample) -> Mapping[str, Any]:
    """What the .json of a sample says; nothing where there is none."""
    if "json" not in sample:
        return {}
    try:
        fields = json.loads(_text(path, sample["json"]))
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{sample['json'].name}: is no JSON: {reason(error)}") from error
    if not isinstance(fields, dict):
        raise Refusal(f"{sample['json'].name}: holds no fields")
    return fields


def _number(fields: Mapping[str, Any], name: str) -> float:
    value = fields.get(name)
    if not isinstance(value, int | float) or not abs(value) < 1e300:
        raise Refusal(f"the field {name!r} of its .json is no number")
    return float(value)


class Writer:
    """Writes clips into tar files of about `shard_bytes` each, named "split-000000.tar" and so on.

    A sample is an H.264 .mp4, its caption in a .txt, and a .json. The same clips give the same
    bytes. Odd heights and widths grow by a row or column, as `core.video` says. Files carry a
    temporary name until they are complete; call `close` for the list of them.
    """

    def __init__(
        self,
        directory: Path,
        split: str,
        shard_bytes: int = 256 * 2**20,
        *,
        first: int = 0,
        codec: video.H264 = CODEC,
    ):
        """first: the number of the first shard."""
        self._root, self._split, self._shard_bytes = directory, split, shard_bytes
        self._first, self._codec = first, codec
        self._done: list[Path] = []
        self._keys: set[str] = set()
        self._file: tarfile.TarFile | None = None

    def add(
        self,
        key: str,
        frames: UInt8[np.ndarray, "t h w 3"],
        fps: float | int,
        caption: str,
        told: Mapping[str, Any] | None = None,
    ) -> None:
        """Append one clip. told: more fields of its .json. Refuses a key that names no sample."""
        if not _names_sample(key) or key in self._keys:
            raise Refusal(f"{key!r} names no sample, or comes twice: it must be without dots")
        count, height, width, _ = frames.shape
        known = {"key": key, "caption": caption, "fps": float(fps)}
        known |= {"frames": count, "height": height, "width": width}
        fields = json.dumps({**known, **(told or {})}, sort_keys=True, ensure_ascii=False)
        try:
            file = self._opened()
            _put(file, f"{key}.json", fields.encode())
            _put(file, f"{key}.mp4", video.encode(frames, fps, self._codec))
            _put(file, f"{key}.txt", caption.encode())
            self._keys.add(key)
            if file.offset >= self._shard_bytes:
                self._finish(file)
        except OSError as error:
            raise Refusal(f"{self._path}: cannot be written: {reason(error)}") from error

    def close(self) -> tuple[Path, ...]:
        """Complete the last shard; the paths of all of them."""
        if self._file is not None:
            self._finish(self._file)
        return tuple(self._done)

    @property
    def _path(self) -> Path:
        return self._root / f"{self._split}-{self._first + len(self._done):06d}.tar"

    @property
    def _part(self) -> Path:
        return self._path.with_suffix(".tar.part")

    def _opened(self) -> tarfile.TarFile:
        if self._file is None:
            if self._path.exists():
                raise Refusal(f"{self._path}: is there already; choose another folder")
            self._root.mkdir(parents=True, exist_ok=True)
            self._file = tarfile.open(self._part, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        return self._file

    def _finish(self, file: tarfile.TarFile) -> None:
        file.close()
        os.replace(self._part, self._path)
        self._done.append(self._path)
        self._file = None


def _names_sample(key: str) -> bool:
    named = _NAME.fullmatch(f"{key}.mp4")
    plain = key.isprintable() and not key.startswith("/") and not key.startswith("__")
    return plain and named is not None and named[1] == key and ".." not in key.split("/")


def _put(file: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # of no owner, at second 0
    info.size = len(data)
    file.addfile(info, BytesIO(data))


def export(
    clips: Clips,
    directory: Path,
    split: str,
    shard_bytes: int = 256 * 2**20,
    *,
    codec: video.H264 = CODEC,
) -> tuple[Path, ...]:
    """Write every clip whole, under its number; its own key goes into the .json."""
    writer = Writer(directory, split, shard_bytes, codec=codec)
    for number, info in enumerate(clips.infos):
        frames = clips.read(number, range(info.frames))
        told = {**info.told, "key": info.key}
        writer.add(f"{number:08d}", frames, info.fps, info.caption, told)
    return writer.close()
