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

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.files import VIDEO_SUFFIXES

TABLES = (".csv", ".jsonl", ".txt")
LONGEST = 2**16  # bytes of a caption


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

    A table is CSV or JSONL with `file` and perhaps `caption`, or text with a name a line; names are
    relative to its folder and may not lead out of it. Links are not followed.
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
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        for name in files + links:
            if Path(name).suffix.lower() in VIDEO_SUFFIXES and not name.startswith("."):
                yield (Path(place) / name).relative_to(folder).as_posix()


def _beside(path: Path) -> str | None:
    """The caption in `a/b.txt` of `a/b.mp4`; None if what is there is no text."""
    caption = path.with_suffix(".txt")
    try:
        if not stat.S_ISREG(caption.lstat().st_mode):
            return ""
        with caption.open("rb") as file:
            text = file.read(LONGEST + 1)
        return _line(text.decode("utf-8")) if len(text) <= LONGEST else None
    except UnicodeDecodeError:
        return None
    except OSError as error:
        return "" if error.errno in (errno.ENOENT, errno.ENAMETOOLONG) else None


def _line(text: str) -> str:
    """A text without line ends and control characters."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split())


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
