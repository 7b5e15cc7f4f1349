"""What a reader of weights offers: named tensors, each with a shape and a dtype, read singly."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import ml_dtypes
import numpy as np

from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sniff import reason

DTYPES = {
    name: np.dtype(getattr(ml_dtypes, name, name))
    for name in ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
                 "float8_e4m3fn", "float8_e5m2", "float16", "bfloat16", "float32", "float64")
}  # fmt: skip

_EXPONENTS = {DTYPES["float16"]: np.uint16(0x7C00), DTYPES["bfloat16"]: np.uint16(0x7F80)}
_CHUNK = 1 << 22  # elements looked at in one go


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest files that are opened. All of it is checked before memory is taken.

    header: bytes of a safetensors header, of the pickle inside a torch file, of an index.
    tensors: in one file. name: characters of a tensor's name. rank: its dimensions.
    tensor_bytes: of one tensor. shards: files that an index may name.
    memory, cpu_seconds, wall_seconds: bytes and time that the process which reads a pickle gets.
    """

    header: int = 10_000_000
    tensors: int = 20_000
    name: int = 512
    rank: int = 8
    tensor_bytes: int = 2**34
    shards: int = 128
    memory: int = 160 * 2**20
    cpu_seconds: int = 2
    wall_seconds: float | int = 9


class TensorInfo(NamedTuple):
    """A tensor as its file declares it. dtype: a key of DTYPES. file: the one that holds it."""

    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    file: Path


@runtime_checkable
class Source(Protocol):
    """Named tensors in one or several open files. Use as a context manager, or call close().

    All that the files declare has been checked when one is made; what only reading can find (a
    checksum that fails, a disk error) is raised by `read`, as Refusal.
    """

    def tensors(self) -> Mapping[str, TensorInfo]:
        """All tensors by name, in the order of the file."""
        ...

    def read(self, name: str) -> np.ndarray:
        """One tensor as a C-contiguous array of its own memory, dtype as declared."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> "Source": ...

    def __exit__(self, *exception: object) -> None: ...


def described(
    file: Path, name: object, dtype: object, shape: object, limits: Limits
) -> tuple[str, TensorInfo]:
    """A tensor's name and what is said of it, once all of it is plausible. Raises Refusal."""
    name = checked_name(file, name, limits)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise Refusal(f"{file}: tensor {name!r} has dtype {clipped(dtype)}, which is not read here")
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise Refusal(f"{file}: tensor {name!r} has shape {clipped(shape)}, not a list of integers")
    if len(shape) > limits.rank:
        raise Refusal(f"{file}: tensor {name!r} has {len(shape)} dimensions, over {limits.rank}")
    if any(size < 1 for size in shape):
        raise Refusal(f"{file}: tensor {name!r} has shape {clipped(shape)}; sizes are at least 1")
    nbytes = math.prod(shape) * DTYPES[dtype].itemsize
    if nbytes > limits.tensor_bytes:
        raise Refusal(
            f"{file}: tensor {name!r} of shape {clipped(shape)} is over the limit of"
            f" {limits.tensor_bytes} bytes"
        )
    return name, TensorInfo(tuple(shape), dtype, nbytes, file)


def checked_name(file: Path, name: object, limits: Limits) -> str:
    if not isinstance(name, str) or not name or not name.isprintable() or ".." in name:
        raise Refusal(f"{file}: a tensor is named {clipped(name)}, which no weight is")
    if len(name) > limits.name:
        raise Refusal(f"{file}: a tensor's name has {len(name)} characters, over {limits.name}")
    return name


def clipped(value: object) -> str:
    """What a file holds, printable and short enough for one line."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; lists in lists in lists
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= 80 else text[:77] + "..."


def found(tensors: Mapping[str, TensorInfo], file: Path, name: str) -> TensorInfo:
    info = tensors.get(name)
    if info is None:
        raise Refusal(f"{file}: has no tensor {name!r}")
    return info


def empty(info: TensorInfo) -> np.ndarray:
    """Room for the tensor. Raises Refusal where there is none."""
    try:
        return np.empty(info.shape, DTYPES[info.dtype])
    except (MemoryError, ValueError) as error:
        raise Refusal(
            f"{info.file}: a tensor of {info.nbytes} bytes does not fit: {reason(error)}"
        ) from error


def raw(array: np.ndarray) -> memoryview:
    """The bytes of a contiguous array, to be filled."""
    return array.reshape(-1).view(np.uint8).data


def checked_values(info: TensorInfo, name: str, array: np.ndarray) -> np.ndarray:
    """`array`, unless it holds bytes that its dtype cannot be made of."""
    if info.dtype == "bool" and bool((array.view(np.uint8) > 1).any()):
        raise Refusal(f"{info.file}: tensor {name!r} of dtype bool holds bytes other than 0 and 1")
    return array


def count_nonfinite(array: np.ndarray) -> int:
    """How many elements are NaN or infinite; integers never are. A few MB of memory are taken.

    In 16 bits they are those whose exponent is all ones, which is counted three times as fast.
    """
    if array.dtype.kind in "biu":
        return 0
    exponent = _EXPONENTS.get(array.dtype)
    flat, wrong = array.reshape(-1), 0
    for begin in range(0, flat.size, _CHUNK):
        chunk = flat[begin : begin + _CHUNK]
        if exponent is None:
            wrong += chunk.size - np.count_nonzero(np.isfinite(chunk))
        else:
            wrong += np.count_nonzero((chunk.view(np.uint16) & exponent) == exponent)
    return int(wrong)
