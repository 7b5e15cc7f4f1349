"""What is to be curated: the files below a folder that are named like videos, or a list."""

import csv
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vdm_jax.core.refusal import Refusal

SUFFIXES = frozenset(
    (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".gif", ".webp")
)
TABLES = (".csv", ".jsonl", ".txt")


@dataclass(frozen=True, kw_only=True)
class File:
    """A file by its name relative to the input, its caption, and what tells that it changed.

    reason: why it is not looked at; "" where it is.
    """

    name: str
    caption: str
    bytes: int
    changed: int
    reason: str = ""


def listed(source: Path) -> tuple[Path, list[File]]:
    """(folder, its files in order of their names) of a folder, or of a table that lists files.

    A table is CSV or JSONL with `file` and perhaps `caption`, or text with a name a line; names are
    relative to its folder and may not lead out of it. Links are not followed.
    """
    if source.is_dir():
        names = {name: _beside(source / name) for name in _walked(source)}
    elif source.suffix in TABLES and source.is_file():
        names = _table(source)
        source = source.parent
    else:
        raise Refusal(
            f"--input {source}: give a folder of videos, or a .csv, .jsonl or .txt that lists them"
        )
    if not names:
        raise Refusal(f"--input {source}: holds no videos ({' '.join(sorted(SUFFIXES))})")
    return source, [_file(source, name, names[name]) for name in sorted(names)]


def _walked(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in files:
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield (Path(place) / name).relative_to(folder).as_posix()


def _beside(path: Path) -> str:
    """The caption in `a/b.txt` of `a/b.mp4`."""
    caption = path.with_suffix(".txt")
    if not caption.is_file() or caption.is_symlink():
        return ""
    try:
        return " ".join(caption.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{caption}: cannot be read as UTF-8: {error}") from error


def _table(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix == ".txt":
                rows = [{"file": line.strip()} for line in file if line.strip()]
            elif path.suffix == ".csv":
                rows = list(csv.DictReader(file))
            else:
                rows = [json.loads(line) for line in file if line.strip()]
        found = {str(row["file"]): str(row.get("caption") or "") for row in rows}
    except OSError as error:
        raise Refusal(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise Refusal(f"{path}: is no table with a column `file`: {error}") from error
    outside = [name for name in found if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise Refusal(f"{path}: {outside[0]!r} leads out of its folder")
    return found


def _file(folder: Path, name: str, caption: str) -> File:
    path = folder / name
    try:
        told = path.lstat()
    except OSError:
        return File(name=name, caption=caption, bytes=0, changed=0, reason="missing")
    kinds = {stat.S_IFREG: "", stat.S_IFLNK: "link"}
    reason = kinds.get(stat.S_IFMT(told.st_mode), "not_regular")
    if not reason and path.resolve() != (folder.resolve() / name):
        reason = "link"  # of a folder on the way
    return File(
        name=name, caption=caption, bytes=told.st_size, changed=told.st_mtime_ns, reason=reason
    )
