"""Tar files with random access: what lies where, and the bytes of one member.

Nothing is unpacked to disk. Only plain files count: links, devices and sparse files are named in
the log and passed over, and so are names that lead out of a folder. A file that is cut short or
damaged, has a name twice, or whose headers are larger than any name needs is refused.
"""

import itertools
import logging
import math
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sniff import reason

HEADER_BYTES = 8192  # most that a header beyond the first block may have: a long name, PAX fields
MOST_MEMBERS = 10_000_000
MOST_SHARDS = 1_000_000
NAMED = 5  # members passed over that are named one by one
LOG = logging.getLogger(__name__)
_FAULTS = (tarfile.TarError, OSError, ValueError, LookupError, OverflowError, RecursionError)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd"}


class Member(NamedTuple):
    """A plain file in a tar file: `size` bytes from `offset` on."""

    name: str
    offset: int
    size: int


def members(path: Path) -> list[Member]:
    """The plain files in a tar file, by its headers. Raises Refusal."""
    found: dict[str, Member] = {}
    passed: list[str] = []
    try:
        with path.open("rb") as file:
            for info in _headers(file):
                name = info.name.removeprefix("./")
                if name in found:
                    raise Refusal(f"{path}: has two files {name!r}")
                if fault := _fault(info):
                    passed.append(f"{name!r} ({fault})")
                elif info.isfile():
                    found[name] = Member(name, info.offset_data, info.size)
    except _FAULTS as error:
        raise Refusal(f"{path}: is no readable tar file: {reason(error)}") from error
    if passed:
        more = f" and {len(passed) - NAMED} more" if len(passed) > NAMED else ""
        LOG.warning("%s: passing over %s%s", path, ", ".join(passed[:NAMED]), more)
    return list(found.values())


def read(path: Path, offset: int, size: int) -> bytes:
    """The bytes of a member. Raises Refusal if they are not there."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise Refusal(f"{path}: cannot be read: {reason(error)}") from error
    if len(data) != size:
        raise Refusal(f"{path}: is cut short")
    return data


def paths(shards: str | os.PathLike | Sequence[str | os.PathLike]) -> list[Path]:
    """The tar files that a folder, a pattern, or several of either stand for, in order.

    Raises Refusal if one is not there, or two are of one name.
    """
    given = [shards] if isinstance(shards, str | os.PathLike) else shards
    found = [path for each in given for path in _expanded(os.fspath(each))]
    if not found:
        raise Refusal("no shards are given")
    names: dict[str, Path] = {}
    for path in found:
        if not path.is_file():
            raise Refusal(f"{path}: shard is missing")
        if names.setdefault(path.stem, path) is not path:
            raise Refusal(f"{path} and {names[path.stem]}: are of one name, clips could be of both")
    return found


def _expanded(pattern: str) -> list[Path]:
    if re.match(r"[a-z0-9+]{2,}:", pattern) or "::" in pattern:
        raise Refusal(f"{pattern}: only files on a disk are read")
    if Path(pattern).is_dir():
        found = sorted(Path(pattern).glob("*.tar"))
        if not found:
            raise Refusal(f"{pattern}: holds no .tar files")
        return found
    parts = [_choices(pattern, part) for part in re.split(r"(\{[^{}]*\})", pattern)]
    if math.prod(map(len, parts)) > MOST_SHARDS:
        raise Refusal(f"{pattern}: stands for more than {MOST_SHARDS} files")
    return [Path("".join(chosen)) for chosen in itertools.product(*parts)]


def _choices(pattern: str, part: str) -> Sequence[str]:
    """What a part of a pattern stands for: {000..009}, {a,b}, or itself."""
    if not part.startswith("{"):
        return [part]
    if ends := re.fullmatch(r"\{(\d{1,18})\.\.(\d{1,18})\}", part):
        first, last = int(ends[1]), int(ends[2])
        if not 0 <= last - first < MOST_SHARDS:
            raise Refusal(f"{pattern}: {part} stands for no range of at most {MOST_SHARDS} files")
        padded = any(end.startswith("0") for end in ends.groups())
        width = max(map(len, ends.groups())) if padded else 0
        return [f"{number:0{width}d}" for number in range(first, last + 1)]
    if "," in part:
        return part[1:-1].split(",")
    raise Refusal(f"{pattern}: {part} is neither a range {{000..009}} nor a list {{a,b}}")


def _fault(info: tarfile.TarInfo) -> str | None:
    """Why a member is passed over; folders are so without a word."""
    if info.isdir():
        return None
    if not info.isfile():
        return "a link" if info.issym() or info.islnk() else "no plain file"
    if info.issparse():
        return "sparse"
    if info.name.startswith("/") or ".." in info.name.split("/") or not info.name.isprintable():
        return "an unsafe name"
    return None


def _headers(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Every header up to the mark of the end. Raises ValueError or what `tarfile` does."""
    end, count = os.fstat(file.fileno()).st_size, 0
    head = file.read(2)
    file.seek(0)
    if head in _COMPRESSED:
        raise ValueError(f"is packed by {_COMPRESSED[head]}, which has no random access; unpack it")
    sparing: Any = _Sparing(file)
    with tarfile.open(fileobj=sparing, mode="r:") as opened:
        archive: Any = opened  # type hints know no `members`
        at = 0
        while (info := archive.next()) is not None:
            archive.members.clear()  # it would keep them all
            if info.size < 0 or archive.offset <= at or archive.offset > end:
                raise ValueError(f"{info.name!r} has {info.size} bytes, of {end} in the file")
            at, count = archive.offset, count + 1
            if count > MOST_MEMBERS:
                raise ValueError(f"has more than {MOST_MEMBERS} members")
            yield info
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile stops without a word
            raise ValueError(f"is cut short or damaged at byte {archive.offset} of {end}")


class _Sparing:
    """A file that gives no more than a header's worth of bytes at a time.

    tarfile reads headers of any length that they claim, a negative one to the end of the file.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= HEADER_BYTES:
            raise ValueError(f"a header of {size} bytes is not read; {HEADER_BYTES} are allowed")
        return self._file.read(size)
