"""MANIFEST.json: the proof that a folder of files is what was once written, and on the disk.

Orbax keeps no checksum of its arrays: a flipped bit restores as a wrong weight without a word. So
every checkpoint carries the size and SHA-256 of each of its files, in a manifest that holds its own
SHA-256 too, and a folder counts only if all of them agree.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NAME = "MANIFEST.json"


class Damaged(Exception):  # noqa: N818 - it says what the folder is
    """A folder that is not what its manifest says; the text names the first file that differs."""


def write(folder: Path, body: Mapping[str, Any]) -> None:
    """Add the manifest to `folder`: `body` (JSON) and every file; all of it forced to the disk."""
    files = {str(f.relative_to(folder)): _fingerprint(f) for f in _files(folder)}
    content = {**body, "files": files}
    text = json.dumps({"sha256": _sha256(content), "content": content}, indent=1)
    (folder / NAME).write_text(text, encoding="utf-8")
    for path in [*folder.rglob("*"), folder]:
        force(path)
    force(folder.parent)


def verify(folder: Path) -> dict[str, Any]:
    """The body that `write` was given, once every file has been read and agrees.

    Raises Damaged naming the first file that is missing, unreadable, or has other bytes.
    """
    content = _content(folder)
    for name, expected in content["files"].items():
        _check(folder / name, name, expected)
    return _body(content)


def read(folder: Path) -> dict[str, Any]:
    """The body that `write` was given; trusts the files, checks the manifest itself."""
    return _body(_content(folder))


def force(path: Path) -> None:
    """fsync of a file or of a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check(path: Path, name: str, expected: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise Damaged(f"{name} is missing")
    size = path.stat().st_size
    if size != expected["size"]:
        raise Damaged(f"{name} has {size} bytes, not {expected['size']}")
    try:
        same = _fingerprint(path) == expected
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise Damaged(f"{name} cannot be read from the disk") from error
    if not same:
        raise Damaged(f"{name} has other bytes than were written")


def _body(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name != "files"}


def _content(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / NAME).read_text(encoding="utf-8"))
        content, expected = manifest["content"], manifest["sha256"]
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise Damaged(f"{NAME} is missing") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Damaged(f"{NAME} is not readable") from None
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise Damaged(f"{NAME} cannot be read from the disk") from error
    if _sha256(content) != expected:
        raise Damaged(f"{NAME} has other bytes than were written")
    return content


def _files(folder: Path) -> Iterator[Path]:
    return (f for f in sorted(folder.rglob("*")) if f.is_file() and f != folder / NAME)


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": os.fstat(file.fileno()).st_size, "sha256": digest}


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
