"""A safetensors file written tensor by tensor: the header first, so that nothing is held."""

import json
import os
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

PT = {"format": "pt"}  # without it transformers and diffusers refuse a file
CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


class Entry(NamedTuple):
    """A tensor to be written."""

    shape: tuple[int, ...]
    dtype: str


def size(entries: Mapping[str, Entry]) -> int:
    """Bytes of the whole file, with the metadata PT."""
    header = _header(entries, PT)
    return len(header) + sum(_nbytes(entry) for entry in entries.values())


def write(
    path: Path,
    entries: Mapping[str, Entry],
    arrays: Iterable[np.ndarray],
    metadata: Mapping[str, str] | None = PT,
) -> None:
    """Write the file and force it to the disk. arrays: in the order of `entries`, one by one."""
    header = _header(entries, metadata)
    with path.open("wb") as file:
        file.write(header)
        for (name, entry), array in zip(entries.items(), arrays, strict=True):
            found = (array.shape, array.dtype.name)
            assert found == entry, f"{name} is {found}, announced as {entry}"
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


def _nbytes(entry: Entry) -> int:
    return prod(entry.shape) * (4 if entry.dtype == "float32" else 2)


def _header(entries: Mapping[str, Entry], metadata: Mapping[str, str] | None) -> bytes:
    """The header with its length before it, padded so that tensors begin at a multiple of 8."""
    table: dict[str, object] = {} if metadata is None else {"__metadata__": metadata}
    at = 0
    for name, entry in entries.items():
        end = at + _nbytes(entry)
        table[name] = {
            "dtype": CODES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [at, end],
        }
        at = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
