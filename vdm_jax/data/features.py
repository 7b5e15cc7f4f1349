"""What the records of a prepared TFDS folder hold, by its features.json, and how clips lie in them.

A feature has a path, "meta/caption", which is also its name in the record. features.json comes in
the two layouts that TFDS has written: with a field for the kind of each feature, and before 4.5
with "type" and "content".
"""

import hashlib
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from vdm_jax.core.container import Limits
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sniff import reason
from vdm_jax.data import encoded
from vdm_jax.data.encoded import Extent
from vdm_jax.data.example import Example

FEATURES = "features.json"
KINDS = {  # classes by which the older layout names what the newer one has fields for
    "FeaturesDict": "featuresDict",
    "Sequence": "sequence",
    "Dataset": "sequence",
    "Video": "video",
    "Image": "image",
    "LabeledImage": "image",
    "Text": "text",
    "ClassLabel": "classLabel",
    "Tensor": "tensor",
    "Scalar": "tensor",
}
DEEPEST = 32  # features within features
TEXT_TYPES = ("string", "object", "bytes", "str")
Video = UInt8[np.ndarray, "t h w 3"]


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A feature without others in it. kind: as in `KINDS`, or the class of another.

    shape: None for what differs from record to record. lists: sequences that it lies in.
    """

    path: str
    kind: str
    lists: int
    shape: tuple[int | None, ...] = ()
    dtype: str = ""
    encoding: str = "none"

    @property
    def is_text(self) -> bool:
        return self.kind == "text" or (self.kind == "tensor" and self._is_string and not self.shape)

    @property
    def is_number(self) -> bool:
        plain = self.kind == "tensor" and self.encoding == "none" and not self._is_string
        return (plain or self.kind == "classLabel") and not self.shape

    @property
    def _is_string(self) -> bool:
        return self.dtype in TEXT_TYPES


def load(directory: Path) -> dict[str, Feature]:
    """The features of a prepared folder by their paths. Raises Refusal."""
    path = directory / FEATURES
    try:
        found = list(_leaves(json.loads(path.read_text(encoding="utf-8")), "", 0, 0))
    except OSError as error:
        raise Refusal(f"{path}: cannot be read: {reason(error)}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Refusal(f"{path}: is damaged: {reason(error)}") from error
    return {feature.path: feature for feature in found}


def _leaves(node: Any, path: str, lists: int, depth: int) -> Iterator[Feature]:
    if depth > DEEPEST:
        raise ValueError("features lie too deep in each other")
    kind, content = _content(node)
    if kind == "featuresDict":
        for name, inner in content.get("features", content).items():
            yield from _leaves(inner, f"{path}/{name}" if path else name, lists, depth + 1)
    elif kind == "sequence":
        yield from _leaves(content["feature"], path, lists + 1, depth + 1)
    else:
        yield Feature(
            path=path,
            kind=kind,
            lists=lists,
            shape=_shape(content.get("shape")),
            dtype=str(content.get("dtype") or ""),
            encoding=str(content.get("encoding") or "none").lower(),
        )


def _content(node: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The kind of a feature and what is said of it."""
    for kind in (*KINDS.values(), "audio", "boundingBox", "translation"):
        if kind in node:
            return kind, node[kind]
    name = str(node.get("type") or node["pythonClassName"]).rpartition(".")[2]
    content = node.get("content") or {}
    if isinstance(content, str):  # a protocol buffer as JSON in JSON
        content = json.loads(content)
    return KINDS.get(name, name), content if name in KINDS else {}


def _shape(told: Any) -> tuple[int | None, ...]:
    sizes = told.get("dimensions", ()) if isinstance(told, Mapping) else told or ()
    return tuple(None if size is None or int(size) < 0 else int(size) for size in sizes)


def labels(directory: Path, feature: Feature) -> list[str] | None:
    """The names of a ClassLabel's classes as words; None where the folder has none."""
    path = labels_file(directory, feature)
    if not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise Refusal(f"{path}: cannot be read: {reason(error)}") from error
    return [_words(line.strip()) for line in lines if line.strip()]


def labels_file(directory: Path, feature: Feature) -> Path:
    """Where TFDS writes the names of a ClassLabel's classes."""
    return directory / f"{feature.path.replace('/', '-')}.labels.txt"


def _words(name: str) -> str:
    """ "ApplyEyeMakeup" and "apply_eye_makeup" in words of a caption."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ")


@runtime_checkable
class Stored(Protocol):
    """How the frames of a clip lie in an example; faults raise ValueError or Refusal."""

    def measure(self, example: Example, limits: Limits) -> Extent: ...

    def read(self, example: Example, numbers: range, limits: Limits) -> Video: ...


def stored(feature: Feature) -> Stored:
    """How clips lie in a feature. Raises Refusal for one that holds none, or several a record."""
    if feature.kind == "video" and feature.lists == 0:
        return Pictures(feature.path)
    if feature.kind == "image" and feature.lists <= 1 and feature.dtype in ("", "uint8", "uint16"):
        return Pictures(feature.path)
    if feature.is_text and feature.lists == 0:
        return File(feature.path)
    colours = feature.shape[-1] if len(feature.shape) + feature.lists == 4 else None
    known = feature.encoding in ("none", "bytes", "zlib") and colours in (1, 3)
    if feature.kind == "tensor" and feature.dtype == "uint8" and known:
        return Pixels(feature)
    raise Refusal(
        f"the feature {feature.path!r} ({_told(feature)}) holds no clip; a Video, an Image, a"
        " Sequence of Images, a video file as bytes and uint8 tensors of t h w 3 do"
    )


def _told(feature: Feature) -> str:
    told = " ".join([feature.kind, *filter(None, [feature.dtype])])
    return told + f" in {feature.lists} sequences" * bool(feature.lists)


@dataclass(frozen=True)
class Pictures:
    """One encoded picture a frame: Video, Sequence(Image), and Image as a clip of one frame."""

    path: str

    def measure(self, example: Example, limits: Limits) -> Extent:
        return encoded.measure_pictures(blobs(example, self.path), limits)

    def read(self, example: Example, numbers: range, limits: Limits) -> Video:
        pictures = blobs(example, self.path)
        return encoded.read_pictures([pictures[number] for number in numbers], limits)


@dataclass(frozen=True)
class File:
    """The bytes of a video file."""

    path: str

    def measure(self, example: Example, limits: Limits) -> Extent:
        return encoded.measure_file(blobs(example, self.path)[0], limits)

    def read(self, example: Example, numbers: range, limits: Limits) -> Video:
        return encoded.read_file(blobs(example, self.path)[0], numbers, limits)


@dataclass(frozen=True)
class Pixels:
    """Numbers 0 … 255 of every pixel, as they are or packed into bytes."""

    feature: Feature

    def measure(self, example: Example, limits: Limits) -> Extent:
        frames, height, width, _ = self._pixels(example, limits).shape
        return Extent(frames, height, width, None)

    def read(self, example: Example, numbers: range, limits: Limits) -> Video:
        pixels = self._pixels(example, limits)[numbers.start : numbers.stop : numbers.step]
        return np.repeat(pixels, 3 // pixels.shape[-1], axis=-1)

    def _pixels(self, example: Example, limits: Limits) -> UInt8[np.ndarray, "t h w c"]:
        path, shape = self.feature.path, (None,) * self.feature.lists + self.feature.shape
        told = f"{path}/shape"
        if self.feature.encoding == "none":
            values = example[path]
            if not isinstance(values, np.ndarray) or values.dtype != np.int64:
                raise ValueError(f"{path} holds no whole numbers")
            if values.size and not 0 <= values.min() <= values.max() <= 255:
                raise ValueError(f"{path} holds numbers outside 0 … 255")
            return _shaped(values.astype(np.uint8), shape)
        if told in example and self.feature.lists == 0:
            shape = tuple(int(size) for size in example[told])
            path = f"{path}/value"
        unpack = _inflated if self.feature.encoding == "zlib" else _plain
        data = b"".join(unpack(blob, limits.bytes) for blob in blobs(example, path))
        return _shaped(np.frombuffer(data, np.uint8), shape)


def _shaped(values: np.ndarray, shape: tuple[int | None, ...]) -> UInt8[np.ndarray, "t h w c"]:
    known = math.prod(size for size in shape if size is not None)
    open_sizes = shape.count(None)
    if len(shape) != 4 or min(known, values.size) < 1 or open_sizes > 1:
        raise ValueError(f"{values.size} numbers are no clip of shape {shape}")
    if (values.size % known) if open_sizes else (values.size != known):
        raise ValueError(f"{values.size} numbers are no clip of shape {shape}")
    return values.reshape([-1 if size is None else size for size in shape])


def _plain(blob: bytes, most: int) -> bytes:
    return blob


def _inflated(blob: bytes, most: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(blob, most)
    except zlib.error as error:
        raise ValueError(f"cannot be inflated: {error}") from error
    if not stream.eof:
        raise ValueError(f"inflates to more than {most / 1e6:.0f} MB, or is cut short")
    return data


def blobs(example: Example, path: str) -> list[bytes]:
    """The byte strings of a feature. Raises ValueError where the record has none."""
    values = example.get(path, [])
    if isinstance(values, np.ndarray) or not len(values):
        raise ValueError(f"{path} is empty or holds no bytes")
    return list(values)


def hashed(example: Example, path: str) -> str:
    """A hash of all that a feature holds in a record."""
    state = hashlib.blake2b(digest_size=16)
    for name in (path, f"{path}/shape", f"{path}/value"):
        values = example.get(name, [])
        for part in [values.tobytes()] if isinstance(values, np.ndarray) else values:
            state.update(len(part).to_bytes(8, "little") + part)
    return state.hexdigest()


def text(example: Example, path: str) -> str:
    """The text of a feature, the first of a sequence of texts; "" where there is none."""
    values = example.get(path, [])
    if isinstance(values, np.ndarray):
        raise ValueError(f"{path} holds no text")
    return values[0].decode("utf-8").strip() if len(values) else ""


def number(example: Example, path: str) -> float:
    """The single finite number of a feature. Raises ValueError where the record has none."""
    values = example.get(path, [])
    if not isinstance(values, np.ndarray) or len(values) != 1 or not np.isfinite(values[0]):
        raise ValueError(f"{path} holds no single number")
    return float(values[0])
