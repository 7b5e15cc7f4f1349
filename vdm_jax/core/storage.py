"""What goes wrong on a disk, in one line: too little room, and errors wrapped by libraries."""

import contextlib
import logging
import math
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree

from vdm_jax.core.refusal import Refusal, Unavailable

WORDS = ("RESOURCE_EXHAUSTED", "No space left", "Read-only file", "Permission denied", "quota",
         "not permitted", "File too large", "Input/output error", "No such file")  # fmt: skip


def lacking(directory: Path, state: PyTree) -> str | None:
    """None if the arrays of `state` can be written into `directory`, else what is in the way.

    The count is of raw bytes; on disk trained weights take about 0.93 of it.
    """
    if not os.access(directory, os.W_OK):
        return f"{directory} cannot be written to"
    needed = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))
    free = shutil.disk_usage(directory).free
    if needed <= free:
        return None
    return f"a checkpoint needs {needed / 1e6:.1f} MB in {directory}, {free / 1e6:.1f} MB are free"


@contextlib.contextmanager
def one_line(what: str) -> Iterator[None]:
    """Errors of the storage within become Unavailable; those of the program stay what they are."""
    try:
        yield
    except Refusal:
        raise
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise Unavailable(f"{what}: {reason}; what was saved before is intact") from error


def _reason(error: BaseException) -> str | None:
    """What the disk said, also where it comes as text inside an error of the array library."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return next((words for words in WORDS if words in str(error)), None)


def hush() -> None:
    """Keep Orbax from printing tracebacks of errors that it raises anyway."""
    logging.getLogger("absl").addFilter(_is_news)
    if not isinstance(sys.unraisablehook, _QuietHook):
        sys.unraisablehook = _QuietHook()


def _is_news(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR or "orbax" not in record.pathname


class _QuietHook:
    """The hook for errors nobody can catch, as it was, but for one that is none: a late write.

    A write that ends after Orbax gave up on its save finds the event loop closed; the array library
    then reports an error from asyncio alone.
    """

    def __init__(self) -> None:
        self._usual = sys.unraisablehook

    def __call__(self, unraisable: Any) -> None:
        closed = str(unraisable.exc_value) == "Event loop is closed"
        frames = traceback.extract_tb(unraisable.exc_traceback)
        if not (closed and all("asyncio" in frame.filename for frame in frames)):
            self._usual(unraisable)
