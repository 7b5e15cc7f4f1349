"""The records of a shard: consecutive frames of a clip, or what was computed of them.

A record is, little-endian:

    4 bytes  magic "VDMC"
    2        format version
    4        CRC-32 of everything after this field
    4        length of the header
    …        header, JSON: clip, start, sizes (bytes of each part), and what more the parts need
    …        the parts, one after the other: pictures, JPEG; or what `data.latents` tells

Why JPEG at quality 96 without colour subsampling: 16 frames of 96x170 film decode in about 6 ms on
one core at 40.8-42.9 dB and 12 kB a frame. H.264 4:2:0 is 4 to 8 times smaller but stops near
34-39 dB whatever its rate, and takes 15-25 ms; lossless WebP takes 10 ms and 23 kB.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vdm_jax.core.refusal import Unavailable
from vdm_jax.core.sniff import reason

FORMAT_VERSION = 1
MAGIC = b"VDMC"
RECORD_FRAMES = 32
_PREFIX = struct.Struct("<4sHI")
_LENGTH = struct.Struct("<I")
_JPEG = {"quality": 96, "subsampling": 0}


def pack(key: str, start: int, frames: UInt8[np.ndarray, "t h w 3"]) -> bytes:
    """One record: consecutive frames of clip `key`, the first being number `start`."""
    pictures = []
    for frame in frames:
        buffer = BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", **_JPEG)
        pictures.append(buffer.getvalue())
    return sealed({"clip": key, "start": start}, pictures)


def sealed(header: Mapping[str, Any], parts: Sequence[bytes]) -> bytes:
    """A record of these parts; see the module."""
    told = json.dumps({**header, "sizes": [len(part) for part in parts]}).encode()
    body = _LENGTH.pack(len(told)) + told + b"".join(parts)
    return _PREFIX.pack(MAGIC, FORMAT_VERSION, zlib.crc32(body)) + body


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Around what an ArrayRecord writer does: it says by RuntimeError that a disk takes no more."""
    try:
        yield
    except RuntimeError as error:
        raise Unavailable(f"{path}: cannot be written: {reason(error)}") from error


def unpack(
    record: bytes, key: str, start: int, numbers: Iterable[int]
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The frames `numbers` (counted within the record) of a record of clip `key` at `start`.

    Raises ValueError if the record is damaged or is another one.
    """
    _, parts = unsealed(record, key, start)
    return pictures(parts, numbers)


def pictures(
    parts: Sequence[memoryview], numbers: Iterable[int]
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The pictures `numbers` of those in a record."""
    return [np.asarray(Image.open(BytesIO(parts[n]), formats=("JPEG",))) for n in numbers]


def unsealed(record: bytes, key: str, start: int) -> tuple[Mapping[str, Any], list[memoryview]]:
    """The header and the parts of a record of clip `key` at `start`.

    Raises ValueError if the record is damaged or is another one.
    """
    if _checksum(record) != zlib.crc32(memoryview(record)[_PREFIX.size :]):
        raise ValueError("fails its checksum")
    return apart(record, key, start)


def apart(record: bytes, key: str, start: int) -> tuple[Mapping[str, Any], list[memoryview]]:
    """`unsealed` of a record that comes out of an ArrayRecord file, which keeps a hash of its own:
    to check the bytes twice would be most of the cost of a read."""
    _checksum(record)
    begin = _PREFIX.size + _LENGTH.size
    (length,) = _LENGTH.unpack_from(record, _PREFIX.size)
    header: Mapping[str, Any] = json.loads(record[begin : begin + length])
    if (header["clip"], header["start"]) != (key, start):
        raise ValueError(f"belongs to {header['clip']} at {header['start']}")
    ends = accumulate(header["sizes"], initial=begin + length)
    view = memoryview(record)
    return header, [view[a:b] for a, b in pairwise(ends)]


def _checksum(record: bytes) -> int:
    """The one that a record states. Raises ValueError if it is no record of this format."""
    magic, version, checksum = _PREFIX.unpack_from(record)
    if magic != MAGIC or version != FORMAT_VERSION:
        raise ValueError(f"is no clip record of format {FORMAT_VERSION}")
    return checksum
