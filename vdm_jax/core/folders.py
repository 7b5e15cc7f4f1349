"""The folder that a run's checkpoints lie in: its lock, its steps, what is swept out of it."""

import errno
import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import Any

from vdm_jax.core import manifest
from vdm_jax.core.refusal import Refusal, Unavailable


def steps(directory: Path) -> list[int]:
    """Numbers that name folders in it, ascending."""
    if not directory.is_dir():
        return []
    return sorted(int(f.name) for f in directory.iterdir() if f.name.isdecimal())


def verified(folder: Path) -> dict[str, Any]:
    """What the manifest of a step says; Damaged where the folder is not that step as written."""
    body = manifest.verify(folder)
    if str(body.get("step")) != folder.name:
        raise manifest.Damaged(f"it is step {body.get('step')} under another name")
    return body


def locked(directory: Path) -> Any:
    """Make the folder and take its lock, which ends with the process, however that ends."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / ".lock").open("w")
    except OSError as error:
        kind = Unavailable if error.errno in (errno.EROFS, errno.ENOSPC, errno.EIO) else Refusal
        raise kind(f"{directory} cannot be written: {error.strerror}") from error
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise Unavailable(f"another process is saving in {directory}; stop it first") from error
    return lock


def removed(*folders: Path) -> None:
    """Delete them; where a save failed, its other threads may still write for a moment."""
    for folder in folders:
        for _ in range(50):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists() or not os.access(folder.parent, os.W_OK):
                break
            time.sleep(0.1)


def free_name(path: Path) -> Path:
    """`path`, or the first of path-1, path-2, … that is free."""
    candidate, count = path, 0
    while candidate.exists():
        count += 1
        candidate = path.with_name(f"{path.name}-{count}")
    return candidate
