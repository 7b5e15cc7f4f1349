"""Files of torch.save, read without torch: the zip form and the one before version 1.6.

What the tensors are is said by a pickle, which `sandbox.py` has read elsewhere; the numbers are
read here, from where the file's own directory puts them. Each storage of the zip form is checked
against its CRC-32 before its numbers are handed out; the older form has no checksum.
"""

import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from vdm_jax.convert.read import sandbox, tensors, zip_directory
from vdm_jax.convert.read.plain_file import PlainFile
from vdm_jax.convert.read.sandbox import Row
from vdm_jax.convert.read.tensors import DTYPES, Limits, TensorInfo
from vdm_jax.convert.read.zip_directory import Member
from vdm_jax.core.refusal import Refusal

LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e80024de903")


class _View(NamedTuple):
    """Elements offset + sum(index * stride) of a storage."""

    storage: str
    offset: int
    stride: tuple[int, ...]


class _Storage(NamedTuple):
    """`count` numbers of one dtype in the file. checked: whether the file has a CRC-32 of them."""

    dtype: str
    count: int
    member: Member
    checked: bool


class TorchFile:
    """A `tensors.Source` of one torch file, which it closes. Raises Refusal.

    Nested contents: the tensors are those at the top, or of "state_dict", or of the only entry
    that holds any. Entries beside them that are no tensors (an epoch, a config) are passed over.
    """

    def __init__(
        self, file: PlainFile, storages: dict[str, _Storage], rows: list[Row], limits: Limits
    ):
        self._file = file
        self._storages = storages
        self._sound = {key for key, storage in storages.items() if not storage.checked}
        self._tensors: dict[str, TensorInfo] = {}
        self._views: dict[str, _View] = {}
        if not rows or len(rows) > limits.tensors:
            raise Refusal(f"{file.path}: holds {len(rows)} tensors; 1 to {limits.tensors} are read")
        for row in rows:
            name, info = tensors.described(file.path, row.name, row.dtype, row.shape, limits)
            self._tensors[name] = info
            self._views[name] = _checked_view(info, name, row, storages)

    def tensors(self) -> Mapping[str, TensorInfo]:
        return MappingProxyType(self._tensors)

    def read(self, name: str) -> np.ndarray:
        info = tensors.found(self._tensors, self._file.path, name)
        view = self._views[name]
        storage = self._storages[view.storage]
        if _is_packed(info.shape, view.stride):
            array = self._packed(info, view, storage)
        else:
            array = self._strided(info, view, storage)
        return tensors.checked_values(info, name, array)

    def _packed(self, info: TensorInfo, view: _View, storage: _Storage) -> np.ndarray:
        """A tensor that lies in one piece. If it is all of its storage, it is read only once."""
        array = tensors.empty(info)
        whole = info.nbytes == storage.member.size
        if not whole:
            self._prove(view.storage)
        begin = storage.member.begin + view.offset * DTYPES[info.dtype].itemsize
        self._file.fill(begin, tensors.raw(array))
        if whole and storage.checked:
            zip_directory.compare(self._file, storage.member, zlib.crc32(tensors.raw(array)))
        return array

    def _strided(self, info: TensorInfo, view: _View, storage: _Storage) -> np.ndarray:
        """A tensor whose elements lie apart: the span from its first to its last is read."""
        self._prove(view.storage)
        size = DTYPES[info.dtype].itemsize
        span = tensors.empty(info._replace(shape=(_last(info.shape, view.stride) + 1,)))
        self._file.fill(storage.member.begin + view.offset * size, tensors.raw(span))
        strides = tuple(size * step for step in view.stride)
        return np.lib.stride_tricks.as_strided(span, info.shape, strides).copy("C")

    def _prove(self, key: str) -> None:
        """Check the storage's CRC, once."""
        if key not in self._sound:
            zip_directory.check_crc(self._file, self._storages[key].member)
            self._sound.add(key)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "TorchFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_zip(file: PlainFile, limits: Limits) -> TorchFile:
    """The form of torch 1.6 and later: NAME/data.pkl and NAME/data/NUMBER, stored in a zip.

    A TorchScript archive is one too: its tensors by the path of their modules, its program unread.
    """
    members = zip_directory.members(file, limits)
    roots = [name.removesuffix("data.pkl") for name in members if _is_pickle(name)]
    if len(roots) != 1:
        raise Refusal(
            f"{file.path}: is a zip file with {len(roots)} data.pkl; torch.save writes one"
        )
    root = roots[0]
    form = "script" if f"{root}constants.pkl" in members else "zip"
    order = members.get(f"{root}byteorder")
    if order is not None and _content(file, order, 16) != b"little":
        raise Refusal(f"{file.path}: was written on a big-endian machine")
    table = sandbox.inspect(
        file.path, _content(file, members[f"{root}data.pkl"], limits.header), form, limits
    )
    storages = {}
    for key, dtype, count in table.storages:
        member = members.get(f"{root}data/{key}")
        if member is None or member.size != count * DTYPES[dtype].itemsize:
            raise Refusal(
                f"{file.path}: storage {key} should have {count} numbers of {dtype}; in the zip it"
                f" {'is missing' if member is None else f'has {member.size} bytes'}"
            )
        storages[key] = _Storage(dtype, count, member, checked=True)
    return TorchFile(file, storages, table.rows, limits)


def open_legacy(file: PlainFile, limits: Limits) -> TorchFile:
    """The form before torch 1.6: pickles, then each storage as its length and its numbers."""
    head = file.read(0, min(file.size, limits.header))
    table = sandbox.inspect(file.path, head, "legacy", limits)
    storages, at = {}, table.end
    for key, dtype, count in table.storages:
        if int.from_bytes(file.read(at, 8), "little") != count:
            raise Refusal(f"{file.path}: storage {key} does not have the {count} numbers it should")
        size = count * DTYPES[dtype].itemsize
        storages[key] = _Storage(dtype, count, Member(key, at + 8, size, 0), checked=False)
        at += 8 + size
    if at != file.size:
        fault = "is cut short" if at > file.size else "has something appended"
        raise Refusal(f"{file.path}: {fault}: its storages end at {at}, the file at {file.size}")
    return TorchFile(file, storages, table.rows, limits)


def _is_pickle(name: str) -> bool:
    return name.count("/") == 1 and name.endswith("/data.pkl")


def _content(file: PlainFile, member: Member, most: int) -> bytes:
    if member.size > most:
        raise Refusal(f"{file.path}: member {member.name!r} has {member.size} bytes, over {most}")
    data = file.read(member.begin, member.size)
    zip_directory.compare(file, member, zlib.crc32(data))
    return data


def _checked_view(info: TensorInfo, name: str, row: Row, storages: Mapping[str, _Storage]) -> _View:
    """The view, once it is known to lie within its storage and to repeat nothing."""
    storage = storages.get(str(row.storage))
    if storage is None or storage.dtype != info.dtype:
        raise Refusal(f"{info.file}: tensor {name!r} is not a view of any storage")
    stride = tuple(row.stride) if isinstance(row.stride, list) else ()
    if not all(type(n) is int and n >= 0 for n in (row.offset, *stride)):
        raise Refusal(f"{info.file}: tensor {name!r} has a negative stride or offset")
    if len(stride) != len(info.shape):
        raise Refusal(f"{info.file}: tensor {name!r} has {len(stride)} strides, not one a size")
    if row.offset + _last(info.shape, stride) >= storage.count:
        raise Refusal(
            f"{info.file}: tensor {name!r} reaches out of its storage of {storage.count} numbers"
        )
    if info.nbytes > storage.member.size:
        raise Refusal(f"{info.file}: tensor {name!r} repeats the numbers of a smaller storage")
    return _View(row.storage, row.offset, stride)


def _last(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """How far the last element of a view lies behind the first."""
    return sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def _is_packed(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the elements lie one after the other, in C order; sizes of 1 may have any stride."""
    step = 1
    for size, given in zip(reversed(shape), reversed(stride), strict=True):
        if size > 1 and given != step:
            return False
        step *= size
    return True
