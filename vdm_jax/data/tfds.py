"""Prepared TensorFlow Datasets folders as clips, read without TensorFlow.

A prepared folder is what `tfds build` leaves: name/config/version/ with dataset_info.json,
features.json and shards in ArrayRecord, TFRecord or Parquet. tensorflow-datasets itself reads only
the first of these without TensorFlow, and no Video feature, which asks TensorFlow for its dtype.
Not read: Riegeli shards, slices of splits such as "train[:10%]", and clips of which a record holds
several.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vdm_jax.core.container import Limits
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sniff import reason
from vdm_jax.data import features, index, tfrecord
from vdm_jax.data.clips import ClipInfo, digest
from vdm_jax.data.example import Example
from vdm_jax.data.features import Feature
from vdm_jax.data.files import BadFiles, refuse_bad
from vdm_jax.data.record_files import Records, Shards

INFO = "dataset_info.json"
FORMATS = ("array_record", "tfrecord", "parquet")
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
MOST_SHARDS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class PreparedFolder:
    """The config part of `Prepared`."""

    directory: str
    split: str
    video: str = "video"
    caption: str | None = None
    fps: float | str | None = None
    told: tuple[str, ...] = ()

    def build(self) -> "Prepared":
        return Prepared(
            self.directory,
            self.split,
            video=self.video,
            caption=self.caption,
            fps=self.fps,
            told=self.told,
        )


class Prepared:
    """The clips of one split of a prepared TFDS folder (`clips.Clips`), one a record.

    video: the feature that holds the clip, such as "video" or "steps/observation/image": a Video,
    an Image (a clip of one frame), a Sequence of Images, the bytes of a video file, or a uint8
    tensor of t h w 3. caption: a text (of a sequence the first), or a ClassLabel, whose name is
    put in words; None leaves captions empty. fps: the rate of pictures, which do not tell it, or
    the feature that does; video files have their own. told: features of one number each.

    Opening reads every record once, in threads, for how many frames there are and how large; the
    index of it is kept as `data.index` says, below `cache` if that is given. Frames are decoded
    when they are read, and damage in them is refused then. The key of a clip is "split/record".
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        split: str,
        *,
        video: str = "video",
        caption: str | None = None,
        fps: float | int | str | None = None,
        told: Sequence[str] = (),
        cache: Path | None = None,
        bad_files: BadFiles = refuse_bad,
        limits: Limits | None = None,
    ):
        """Raises Refusal for a folder, a split or a feature that is not there or cannot be read,
        and as `bad_files` does for records."""
        self._root, self._split = Path(directory), split
        info = _info(self._root)
        shards = _shards(self._root, info, split)
        self._contents = _contents(self._root, video, caption, fps, told, limits or Limits())
        asked = ["tfds", split, shards.file_format, shards.lengths, asdict(self._contents)]
        found = index.remembered(shards.paths, asked, lambda: self._indexed(shards), cache)
        self._records = Records(shards, found["offsets"])
        good = [(n, kept) for n, kept in enumerate(found["clips"]) if "bad" not in kept]
        if len(good) < len(found["clips"]):
            bad = [Refusal(kept["bad"]) for kept in found["clips"] if "bad" in kept]
            bad_files(self._root, bad, len(found["clips"]))
        self._numbers = [number for number, _ in good]
        self.infos = [ClipInfo(**kept["info"]) for _, kept in good]
        self.fingerprint = digest([kept for _, kept in good])
        self.credit = _credit(info)

    def __str__(self) -> str:
        return f"{self._root} ({self._split})"

    def read(self, index: int, numbers: range) -> UInt8[np.ndarray, "t h w 3"]:
        return self._records.read(
            self._numbers[index], lambda record: self._contents.read(Example(record), numbers)
        )

    def _indexed(self, shards: Shards) -> Any:
        """As JSON: where TFRecord files have their records, and what each record holds."""
        offsets: list[list[int]] = [[] for _ in shards.paths]
        if shards.file_format == "tfrecord":
            offsets = index.each(tfrecord.offsets, shards.paths, len(offsets), "indexing shards")
        records = Records(shards, offsets)
        records.check_lengths()

        def described(number: int) -> dict[str, Any]:
            key = f"{self._split}/{number:06d}"
            try:
                return records.read(number, lambda record: self._contents.describe(record, key))
            except Refusal as refusal:
                return {"bad": str(refusal)}

        total = sum(shards.lengths)
        clips = index.each(described, range(total), total, "indexing records")
        return {"offsets": offsets, "clips": clips}


@dataclass(frozen=True, kw_only=True)
class _Contents:
    """What is taken of a record. labels: the names of a ClassLabel that is the caption."""

    video: Feature
    caption: str | None
    labels: Sequence[str] | None
    fps: float | str | None
    told: tuple[str, ...]
    limits: Limits

    def describe(self, record: bytes, key: str) -> dict[str, Any]:
        """The ClipInfo as JSON, and a hash of the clip. Raises ValueError or Refusal."""
        example = Example(record)
        extent = features.stored(self.video).measure(example, self.limits)
        fps = extent.fps or self.fps
        rate = features.number(example, fps) if isinstance(fps, str) else float(fps or 1)
        if not 0 < rate <= self.limits.fps:
            raise ValueError(f"has {rate:g} frames a second; at most {self.limits.fps:g} are read")
        info = ClipInfo(
            key=key,
            caption=self._words(example),
            fps=rate,
            frames=extent.frames,
            height=extent.height,
            width=extent.width,
            told={name: features.number(example, name) for name in self.told},
        )
        return {"info": asdict(info), "hash": features.hashed(example, self.video.path)}

    def read(self, example: Example, numbers: range) -> UInt8[np.ndarray, "t h w 3"]:
        return features.stored(self.video).read(example, numbers, self.limits)

    def _words(self, example: Example) -> str:
        if self.caption is None:
            return ""
        if self.labels is None:
            return features.text(example, self.caption)
        label = int(features.number(example, self.caption))
        if label == -1:  # as TFDS marks what is not labelled
            return ""
        if not 0 <= label < len(self.labels):
            raise ValueError(f"{self.caption} is {label}, of {len(self.labels)} names")
        return self.labels[label]


def _contents(
    root: Path,
    video: str,
    caption: str | None,
    fps: float | int | str | None,
    told: Sequence[str],
    limits: Limits,
) -> _Contents:
    known = features.load(root)
    clip = _named(root, known, video)
    try:
        features.stored(clip)
    except Refusal as refusal:
        raise Refusal(f"{root}: {refusal}") from None
    for name in (*told, *([fps] if isinstance(fps, str) else [])):
        feature = _named(root, known, name)
        if not feature.is_number or feature.lists:
            raise Refusal(f"{root}: the feature {name!r} is no single number")
    moving = clip.lists or (clip.kind in ("video", "tensor") and not clip.is_text)
    if fps is None and moving:
        raise Refusal(f"{root}: the pictures of {video!r} do not tell their rate; give fps")
    if not isinstance(fps, str | None) and not 0 < fps <= limits.fps:
        raise Refusal(f"fps must be above 0 and at most {limits.fps:g}, got {fps}")
    return _Contents(
        video=clip,
        caption=caption,
        labels=None if caption is None else _labels(root, _named(root, known, caption)),
        fps=float(fps) if isinstance(fps, int) else fps,
        told=tuple(told),
        limits=limits,
    )


def _labels(root: Path, feature: Feature) -> list[str] | None:
    """The names of a caption that is a ClassLabel; None for one that is a text."""
    if feature.is_text and feature.lists <= 1:
        return None
    if feature.kind != "classLabel" or feature.lists:
        raise Refusal(f"{root}: the feature {feature.path!r} is neither a text nor a ClassLabel")
    names = features.labels(root, feature)
    if names is None:
        path = features.labels_file(root, feature)
        raise Refusal(f"{path}: no such file; the classes of {feature.path!r} have no names")
    return names


def _named(root: Path, known: Mapping[str, Feature], name: str) -> Feature:
    if name not in known:
        raise Refusal(f"{root}: has no feature {name!r}, only {', '.join(sorted(known))}")
    return known[name]


def _info(root: Path) -> Mapping[str, Any]:
    path = root / INFO
    if not path.is_file():
        below = (found for depth in (1, 2, 3) for found in root.glob("*/" * depth + INFO))
        inside = [str(found.parent) for found in islice(below, 10)]
        hint = f"; there are {', '.join(inside)}" if inside else ""
        raise Refusal(f"{root}: is no prepared TFDS folder ({INFO} is missing){hint}")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(told, str) for told in (info["name"], *_splits(info))):
            raise ValueError("its names are no text")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise Refusal(f"{path}: is damaged: {reason(error)}") from error
    return info


def _splits(info: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {split["name"]: split for split in info["splits"]}


def _shards(root: Path, info: Mapping[str, Any], split: str) -> Shards:
    """The files of a split that hold records, in the first format of which all are there."""
    told = _splits(info)
    if split not in told:
        slices = "; slices are not read, take a whole split" if re.search(r"[\[+]", split) else ""
        raise Refusal(f"{root}: has no split {split!r}, only {sorted(told)}{slices}")
    formats = [info.get("fileFormat") or "tfrecord", *info.get("alternativeFileFormats", ())]
    readable = [name for name in formats if name in FORMATS]
    if not readable:
        raise Refusal(
            f"{root}: its shards are {formats[0]}; {', '.join(FORMATS)} are read: convert them with"
            " `tfds convert_format --out_file_format=array_record`"
        )
    try:
        found = [_files(root, info["name"], told[split], name) for name in readable]
    except (ValueError, TypeError) as error:
        raise Refusal(f"{root / INFO}: cannot be used: {reason(error)}") from error
    for shards in found:
        if all(path.is_file() for path in shards.paths):
            return shards
    missing = next(path for path in found[0].paths if not path.is_file())
    raise Refusal(f"{missing}: shard is missing")


def _files(root: Path, name: str, split: Mapping[str, Any], file_format: str) -> Shards:
    """The shards of a split that are not empty. Raises ValueError where they are not told."""
    lengths = [int(length) for length in split.get("shardLengths", ())]
    if not any(lengths) or min(lengths) < 0 or len(lengths) > MOST_SHARDS:
        raise ValueError(f"{split['name']!r} has no shardLengths; TFDS 3 or later writes them")
    template = split.get("filepathTemplate") or TEMPLATE
    names = _names(template, name, split["name"], file_format, len(lengths))
    full = [(root / name, length) for name, length in zip(names, lengths, strict=True) if length]
    return Shards(file_format, [path for path, _ in full], [length for _, length in full])


def _names(template: str, name: str, split: str, file_format: str, count: int) -> list[str]:
    """The names of all shards. Raises ValueError for a template that leads out of the folder."""
    digits = max(5, len(str(count)))
    fixed = {"DATASET": name, "SPLIT": split, "FILEFORMAT": file_format}
    names = []
    for number in range(count):
        shard, of = f"{number:0{digits}d}", f"{count:0{digits}d}"
        known = fixed | {"SHARD_INDEX": shard, "NUM_SHARDS": of, "SHARD_X_OF_Y": f"{shard}-of-{of}"}
        filled = re.sub(r"\{(\w+)\}", lambda m, known=known: known.get(m[1], m[0]), template)
        if "{" in filled or PurePosixPath(filled).is_absolute() or ".." in filled.split("/"):
            raise ValueError(f"its shards are named {template!r}")
        names.append(filled)
    return names


def _credit(info: Mapping[str, Any]) -> str:
    """Name, licence and citation, as far as they are told."""
    rights = info.get("redistributionInfo")
    licence = rights.get("license", "") if isinstance(rights, dict) else ""
    told = [f"{info['name']} {info.get('version', '')}", licence, info.get("citation", "")]
    return "; ".join(" ".join(part.split()) for part in map(str, told) if part.strip())
