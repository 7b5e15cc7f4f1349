"""What is to be curated: the files below a folder that are named like videos, or a list."""

import csv
import errno
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.files import VIDEO_SUFFIXES

TABLES = (".csv", ".jsonl", ".txt")
LONGEST = 2**16  # bytes of a caption
UNREAD = {
    "link": "is a link, which is not followed",
    "not_regular": "is no regular file",
    "missing": "is not there",
    "name": "has a name that is no text",
    "caption": f"its caption is no text of at most {LONGEST} bytes",
}
"""Why files are not looked at, by their codes, in words."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A file by its name relative to the input, its caption, and what tells that it changed.

    held: bytes of it that lie on the disk; the rest are holes, which cost nothing to make and long
    to read. reason: why it is not looked at; "" where it is.
    """

    name: str
    caption: str
    bytes: int
    changed: int
    held: int = 0
    reason: str = ""


def listed(source: Path) -> tuple[Path, list[File]]:
    """(folder, its files in order of their names) of a folder, or of a table that lists files.

    A table is CSV or JSONL with `file` and perhaps `caption`, or text with a name a line, perhaps a
    tab and a caption; where it has none, that beside the video counts. Names are relative to its
    folder and may not lead out of it. Links are not followed.
    """
    if source.is_dir():
        names: Mapping[str, str | None] = {n: _beside(source / n) for n in _walked(source)}
    elif source.suffix in TABLES and source.is_file():
        names = _table(source)
        source = source.parent
    else:
        raise Refusal(
            f"--input {source}: give a folder of videos, or a .csv, .jsonl or .txt that lists them"
        )
    if not names:
        raise Refusal(f"--input {source}: holds no videos ({' '.join(sorted(VIDEO_SUFFIXES))})")
    return source, [_file(source, name, names[name]) for name in sorted(names)]


def _walked(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder, onerror=_unreadable):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in files + links:
            if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith("."):
                yield (Path(place) / name).relative_to(folder).as_posix()


def _unreadable(error: OSError) -> None:
    raise Refusal(f"--input: {error.filename} cannot be read: {error.strerror}") from error


def _beside(path: Path) -> str | None:
    """The caption in `a/b.txt` of `a/b.mp4`; None if what is there is no text."""
    caption = path.with_suffix(".txt")
    try:
        if not stat.S_ISREG(caption.lstat().st_mode):
            return ""
        with caption.open("rb") as file:
            text = file.read(LONGEST + 1)
        return _line(text.decode("utf-8-sig")) if len(text) <= LONGEST else None
    except UnicodeDecodeError:
        return None
    except OSError as error:
        return "" if error.errno in (errno.ENOENT, errno.ENAMETOOLONG) else None


def _line(text: str) -> str | None:
    """A caption without line ends and control characters; None if it is none."""
    if len(text) > LONGEST or text.encode("utf-8", "backslashreplace").decode() != text:
        return None
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split())


def _table(path: Path) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name, caption in _rows(path):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise Refusal(f"{path}: {name!r} leads out of its folder")
        if name in found:
            raise Refusal(f"{path}: lists {name!r} twice")
        found[name] = _beside(path.parent / name) if caption is None else _line(caption)
    return found


def _rows(path: Path) -> list[tuple[str, str | None]]:
    """(file, caption) of each row; None: the row says nothing of it."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".txt":
                lines = [line.strip("\r\n").partition("\t") for line in file if line.strip()]
                return [(name.strip(), text if tab else None) for name, tab, text in lines]
            if path.suffix == ".csv":
                rows: list[dict[Any, Any]] = list(csv.DictReader(file))
            else:
                rows = [json.loads(line) for line in file if line.strip()]
        return [_row(path, number, row) for number, row in enumerate(rows, 1)]
    except OSError as error:
        raise Refusal(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error, RecursionError) as error:
        raise Refusal(f"{path}: is no table with a column `file`: {error}") from error


def _row(path: Path, number: int, row: dict[Any, Any]) -> tuple[str, str | None]:
    if None in row:
        raise Refusal(
            f"{path}: row {number} has more values than there are columns; put captions with "
            "commas into quotes"
        )
    name, caption = row["file"], row.get("caption")
    if not isinstance(name, str) or not isinstance(caption, str | None):
        raise Refusal(f"{path}: row {number}: file and caption must be texts, got {row!s:.80}")
    return name, caption


def _file(folder: Path, name: str, caption: str | None) -> File:
    path, shown = folder / name, name.encode("utf-8", "backslashreplace").decode()
    if shown != name:
        return File(name=shown, caption="", bytes=0, changed=0, reason="name")
    try:
        told = path.lstat()
    except (OSError, ValueError):
        return File(name=name, caption="", bytes=0, changed=0, reason="missing")
    kinds = {stat.S_IFREG: "", stat.S_IFLNK: "link"}
    reason = kinds.get(stat.S_IFMT(told.st_mode), "not_regular")
    if not reason and path.resolve() != (folder.resolve() / name):
        reason = "link"  # of a folder on the way
    if not reason and caption is None:
        reason = "caption"
    held = 512 * told.st_blocks or told.st_size  # some file systems do not say
    return File(
        name=name, caption=caption or "", bytes=told.st_size, changed=told.st_mtime_ns,
        held=min(held, told.st_size), reason=reason,
    )  # fmt: skip
