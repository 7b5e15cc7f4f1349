"""The directory of a zip file whose members are stored as they are: where each begins and ends.

A torch file is such a zip. Anything that lets two readers see two files in one (compression,
encryption, members that overlap, two of one name, a second directory) is refused. Sources: PKWARE
APPNOTE 6.3.9, sections 4.3 and 4.4.

Only the program of a TorchScript archive, NAME/code/…, may be compressed: nobody reads it here.
"""

import struct
import zlib
from typing import NamedTuple

from vdm_jax.convert.read.plain_file import PlainFile
from vdm_jax.convert.read.tensors import Limits, clipped
from vdm_jax.core.refusal import Refusal

_END = struct.Struct("<4s4H2IH")
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_FULL, _FULL16 = 0xFFFFFFFF, 0xFFFF
_ALLOWED_FLAGS = 1 << 3 | 1 << 11  # sizes follow the data; names are UTF-8
_MAX_NAME = 1024
_CHUNK = 1 << 22


class Member(NamedTuple):
    """A stored file: its bytes are file[begin : begin + size], their CRC-32 is crc."""

    name: str
    begin: int
    size: int
    crc: int


class _End(NamedTuple):
    offset: int
    size: int
    count: int


class _Listed(NamedTuple):
    """size: bytes in the file. method: 0 as they are, 8 compressed."""

    name: str
    header: int
    size: int
    crc: int
    method: int


def members(file: PlainFile, limits: Limits) -> dict[str, Member]:
    """All stored members by name. Raises Refusal for a file that is not a plain, whole zip."""
    end = _end(file)
    if end.count > limits.tensors + 64:
        raise Refusal(f"{file.path}: has {end.count} members, over {limits.tensors + 64}")
    if end.size > end.count * (_CENTRAL.size + _MAX_NAME + 64):
        raise Refusal(
            f"{file.path}: its zip directory of {end.size} bytes is larger than it can be"
        )
    listed = sorted(_listed(file, end), key=lambda one: one.header)
    table: dict[str, Member] = {}
    seen: set[str] = set()
    free = 0
    for one in listed:
        member = _located(file, one)
        if one.header < free:
            raise Refusal(f"{file.path}: member {one.name!r} overlaps the one before it")
        if one.name in seen:
            raise Refusal(f"{file.path}: holds two members named {one.name!r}")
        seen.add(one.name)
        free = member.begin + member.size
        if one.method == 0:
            table[one.name] = member
    if free > end.offset or listed[0].header != 0:
        raise Refusal(f"{file.path}: its members do not fill it from its begin to its directory")
    return table


def check_crc(file: PlainFile, member: Member) -> None:
    """Read the member once through. Raises Refusal unless its bytes have its checksum."""
    crc, buffer = 0, memoryview(bytearray(min(_CHUNK, member.size)))
    for begin in range(0, member.size, _CHUNK):
        part = buffer[: min(_CHUNK, member.size - begin)]
        file.fill(member.begin + begin, part)
        crc = zlib.crc32(part, crc)
    compare(file, member, crc)


def compare(file: PlainFile, member: Member, crc: int) -> None:
    """Raises Refusal unless `crc`, taken of all of the bytes of the member, is its checksum."""
    if crc != member.crc:
        raise Refusal(
            f"{file.path}: is damaged: member {member.name!r} has the CRC-32 {crc:08x}, the"
            f" directory says {member.crc:08x}"
        )


def _end(file: PlainFile) -> _End:
    """What the end record says, in its 64-bit form where it has one."""
    if file.size < _END.size:
        raise Refusal(f"{file.path}: is cut short: {file.size} bytes are no zip file")
    at = file.size - _END.size
    magic, disk, first, here, count, size, offset, comment = _END.unpack(file.read(at, _END.size))
    if magic != b"PK\x05\x06" or comment:
        raise Refusal(f"{file.path}: is cut short or has something appended: no zip ends like it")
    if offset + size != at:  # the record of large files stands between; torch always writes it
        small = (disk, first, here, count, size, offset)
        at, large = _end64(file, at)
        if any(s not in (v, _FULL, _FULL16) for s, v in zip(small, large, strict=True)):
            raise Refusal(f"{file.path}: the two end records of the zip disagree")
        disk, first, here, count, size, offset = large
    if disk or first or here != count or not count:
        raise Refusal(f"{file.path}: is a zip file without members or in several parts")
    if offset + size != at:
        raise Refusal(f"{file.path}: its zip directory is not where its end record says")
    return _End(offset, size, count)


def _end64(file: PlainFile, end: int) -> tuple[int, tuple[int, ...]]:
    """Where the 64-bit end record stands, and its (disk, first disk, here, count, size, offset)."""
    at = end - _END64_LOCATOR.size
    if at >= _END64.size:
        magic, disk, where, disks = _END64_LOCATOR.unpack(file.read(at, _END64_LOCATOR.size))
        if magic == b"PK\x06\x07" and disk == 0 and disks == 1 and where == at - _END64.size:
            magic, length, _, _, *fields = _END64.unpack(file.read(where, _END64.size))
            if magic == b"PK\x06\x06" and length == _END64.size - 12:
                return where, tuple(fields)
    raise Refusal(f"{file.path}: its zip directory is not where its end record says")


def _listed(file: PlainFile, end: _End) -> list[_Listed]:
    """The entries of the directory, which fill it exactly."""
    directory = file.read(end.offset, end.size)
    entries, at = [], 0
    for _ in range(end.count):
        if at + _CENTRAL.size > end.size:
            raise Refusal(f"{file.path}: its zip directory breaks off")
        fields = _CENTRAL.unpack_from(directory, at)
        name_end = at + _CENTRAL.size + fields[10]
        extra_end = name_end + fields[11]
        name = directory[at + _CENTRAL.size : name_end]
        entries.append(_checked(file, fields, name, directory[name_end:extra_end]))
        at = extra_end + fields[12]
    if at != end.size:
        raise Refusal(f"{file.path}: its zip directory has {end.size} bytes, not {at}")
    return entries


def _checked(file: PlainFile, fields: tuple, raw_name: bytes, extra: bytes) -> _Listed:
    magic, made, _, flags, method, _, _, crc, packed, size, *_, attributes, header = fields
    if magic != b"PK\x01\x02":
        raise Refusal(f"{file.path}: its zip directory is damaged")
    name = _checked_name(file, raw_name)
    if flags & ~_ALLOWED_FLAGS:
        raise Refusal(f"{file.path}: member {name!r} is encrypted or of an odd kind ({flags:#x})")
    program = name.split("/")[1:2] == ["code"]
    if method != 0 and not (method == 8 and program):
        raise Refusal(f"{file.path}: member {name!r} is compressed; torch stores as it is")
    if made >> 8 == 3 and attributes >> 28 not in (0, 8):
        raise Refusal(f"{file.path}: member {name!r} is a link or a folder, not a file")
    size, packed, header = _wide(file, name, (size, packed, header), extra)
    if packed != size and method == 0:
        raise Refusal(f"{file.path}: member {name!r} states two sizes, {packed} and {size}")
    return _Listed(name, header, packed, crc, method)


def _checked_name(file: PlainFile, raw_name: bytes) -> str:
    try:
        name = raw_name.decode("utf-8")
    except UnicodeDecodeError:
        name = ""
    parts = name.split("/")
    odd = "\\" in name or ":" in name or not name.isprintable() or len(name) > _MAX_NAME
    if odd or any(part in ("", ".", "..") for part in parts):
        raise Refusal(f"{file.path}: has a member with the odd name {clipped(raw_name)}")
    return name


def _wide(
    file: PlainFile, name: str, values: tuple[int, int, int], extra: bytes
) -> tuple[int, ...]:
    """Fields that do not fit 32 bits stand in the 64-bit extra field, in this order."""
    missing = values.count(_FULL)
    if not missing:
        return values
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1 and length >= 8 * missing and at + 4 + length <= len(extra):
            wide = iter(struct.unpack_from(f"<{missing}Q", extra, at + 4))
            return tuple(next(wide) if value == _FULL else value for value in values)
        at += 4 + length
    raise Refusal(f"{file.path}: member {name!r} lacks its 64-bit sizes")


def _located(file: PlainFile, one: _Listed) -> Member:
    """Where the bytes of a member begin, by the header that stands before them."""
    local = file.read(one.header, _LOCAL.size)
    magic, _, flags, method, _, _, _, _, _, name_length, extra_length = _LOCAL.unpack(local)
    begin = one.header + _LOCAL.size + name_length + extra_length
    name = file.read(one.header + _LOCAL.size, min(name_length, 2 * _MAX_NAME))
    same = name == one.name.encode() and method == one.method and not flags & ~_ALLOWED_FLAGS
    if magic != b"PK\x03\x04" or not same:
        raise Refusal(f"{file.path}: member {one.name!r} is not where the directory says")
    if begin + one.size > file.size:
        raise Refusal(f"{file.path}: is cut short: member {one.name!r} is not all there")
    return Member(one.name, begin, one.size, one.crc)
