"""TFRecord files with random access: where each record lies, and the record, checked.

A record is its length (8 bytes, little-endian), the masked CRC-32C of these, the data, and the
masked CRC-32C of the data. CRC-32C is that of RFC 3720, appendix B.4.
"""

import os
import struct
from pathlib import Path

import google_crc32c

from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sniff import reason

HEADER, FOOTER = struct.Struct("<QI"), struct.Struct("<I")
LONGEST = 2**31 - 1  # bytes of a protocol buffer


def frame(data: bytes) -> bytes:
    """A record as it lies in a file."""
    length = struct.pack("<Q", len(data))
    return length + FOOTER.pack(masked(length)) + data + FOOTER.pack(masked(data))


def offsets(path: Path) -> list[int]:
    """Where each record of a file begins, by one pass over the headers.

    Raises Refusal where a length fails its checksum or reaches beyond the end of the file.
    """
    found: list[int] = []
    try:
        with path.open("rb") as file:
            end, at = os.fstat(file.fileno()).st_size, 0
            while at < end:
                file.seek(at)
                length = _length(file.read(HEADER.size))
                if length is None:
                    raise Refusal(f"{path}: record {len(found)} is damaged: its length is wrong")
                found.append(at)
                at += HEADER.size + length + FOOTER.size
    except OSError as error:
        raise Refusal(f"{path}: cannot be read: {reason(error)}") from error
    if at != end:
        raise Refusal(f"{path}: is cut short: {end} of {at} bytes are there")
    return found


def read(path: Path, offset: int) -> bytes:
    """The record that begins at `offset`. Raises ValueError or OSError if it is damaged."""
    with path.open("rb") as file:
        file.seek(offset)
        length = _length(file.read(HEADER.size))
        if length is None or offset + length > os.fstat(file.fileno()).st_size:
            raise ValueError("its length is wrong")
        data, footer = file.read(length), file.read(FOOTER.size)
    if len(footer) != FOOTER.size or FOOTER.unpack(footer)[0] != masked(data):
        raise ValueError("fails its checksum")
    return data


def _length(header: bytes) -> int | None:
    if len(header) != HEADER.size:
        return None
    length, checksum = HEADER.unpack(header)
    return length if checksum == masked(header[:8]) and length <= LONGEST else None


def masked(data: bytes) -> int:
    """The CRC-32C as TFRecord files store it: rotated and shifted by a constant."""
    value = google_crc32c.value(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
