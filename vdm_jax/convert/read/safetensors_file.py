"""The safetensors format: eight bytes of length, a JSON header, then the tensors end to end.

Read by hand because limits must come first: the format's own library takes a header of a million
entries and the memory it wants. Nothing here carries a checksum: a flipped bit in the data is
seen only with a hash of the file (`plain_file.check_sha256`).
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from vdm_jax.convert.read import tensors
from vdm_jax.convert.read.plain_file import PlainFile
from vdm_jax.convert.read.tensors import Limits, TensorInfo
from vdm_jax.core.refusal import Refusal

METADATA = "__metadata__"
_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F16": "float16", "BF16": "bfloat16", "F32": "float32",
    "F64": "float64",
}  # fmt: skip


class SafetensorsFile:
    """A `tensors.Source` of one safetensors file, which it closes. Raises Refusal."""

    def __init__(self, file: PlainFile, limits: Limits):
        self._file = file
        length = _header_length(file, limits)
        header, self.metadata = _header(file, file.read(8, length), limits)
        self._begins: dict[str, int] = {}
        self._tensors: dict[str, TensorInfo] = {}
        spans = []
        for name, entry in header.items():
            info, begin, end = _entry(file, name, entry, limits)
            self._begins[name], self._tensors[name] = 8 + length + begin, info
            spans.append((begin, end, name))
        _check_tiling(file, spans, file.size - 8 - length)

    def tensors(self) -> Mapping[str, TensorInfo]:
        return MappingProxyType(self._tensors)

    def read(self, name: str) -> np.ndarray:
        info = tensors.found(self._tensors, self._file.path, name)
        array = tensors.empty(info)
        self._file.fill(self._begins[name], tensors.raw(array))
        return tensors.checked_values(info, name, array)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "SafetensorsFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _header_length(file: PlainFile, limits: Limits) -> int:
    length = int.from_bytes(file.read(0, 8), "little")
    if length > limits.header:
        raise Refusal(
            f"{file.path}: is no safetensors file, or a hostile one: its header would have {length}"
            f" bytes; at most {limits.header} are read"
        )
    if 8 + length > file.size:
        raise Refusal(
            f"{file.path}: is cut short: the header has {length} bytes, the file {file.size}"
        )
    return length


def _header(
    file: PlainFile, text: bytes, limits: Limits
) -> tuple[dict[str, Any], Mapping[str, str]]:
    """The entries of the header, and the metadata."""
    header = parsed(file, text, "header", limits)
    metadata = header.pop(METADATA, {})
    if type(metadata) is not dict or not all(type(v) is str for v in metadata.values()):
        raise Refusal(f"{file.path}: {METADATA} in the header is not a table of texts")
    if not header:
        raise Refusal(f"{file.path}: holds no tensors")
    return header, MappingProxyType(metadata)


def parsed(file: PlainFile, text: bytes, what: str, limits: Limits | None = None) -> dict[str, Any]:
    """A JSON object without duplicate keys, of no more parts than tensors need. Raises Refusal."""
    limits = limits or Limits()
    if text.count(b"{") > limits.tensors + 2 or text.count(b"[") > 2 * limits.tensors:
        raise Refusal(f"{file.path}: its {what} declares more than {limits.tensors} tensors")
    try:
        if not text.startswith(b"{"):
            raise ValueError("it does not begin with {")
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no)
    except (ValueError, RecursionError, MemoryError) as error:
        words = tensors.clipped(str(error) or type(error).__name__)
        raise Refusal(f"{file.path}: its {what} is not what it should be: {words}") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise ValueError(f"the key {twice[:40]!r} stands there twice")
    return table


def _no(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _entry(file: PlainFile, name: str, entry: Any, limits: Limits) -> tuple[TensorInfo, int, int]:
    """(what the header says of one tensor, begin and end of its bytes after the header)."""
    name = tensors.checked_name(file.path, name, limits)
    if type(entry) is not dict or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise Refusal(
            f"{file.path}: tensor {name!r} is not described by dtype, shape and data_offsets alone"
        )
    code = entry["dtype"]
    if type(code) is not str or code not in _DTYPES:
        raise Refusal(
            f"{file.path}: tensor {name!r} has dtype {tensors.clipped(code)}; read are"
            f" {', '.join(_DTYPES)}"
        )
    _, info = tensors.described(file.path, name, _DTYPES[code], entry["shape"], limits)
    offsets = entry["data_offsets"]
    if type(offsets) is not list or [type(o) for o in offsets] != [int, int]:
        raise Refusal(f"{file.path}: tensor {name!r} has offsets {tensors.clipped(offsets)}")
    begin, end = offsets
    if end - begin != info.nbytes:
        raise Refusal(
            f"{file.path}: tensor {name!r} of {info.dtype} {info.shape} needs {info.nbytes} bytes,"
            f" its offsets are {tensors.clipped(offsets)}"
        )
    return info, begin, end


def _check_tiling(file: PlainFile, spans: list[tuple[int, int, str]], total: int) -> None:
    """Every byte after the header belongs to one tensor."""
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            fault = "overlaps another" if begin < at else "leaves a hole before it"
            raise Refusal(f"{file.path}: tensor {name!r} {fault}: it begins at {begin}, not {at}")
        at = end
    if at != total:
        fault = "is cut short" if at > total else "has bytes of no tensor at its end"
        raise Refusal(f"{file.path}: {fault}: tensors take {at} bytes, {total} are there")
