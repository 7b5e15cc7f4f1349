"""Have a pickle read by `unpickle.py` in a process of its own, and check what it answers."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vdm_jax.convert.read.tensors import DTYPES, Limits, clipped
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sniff import reason

SCRIPT = Path(__file__).with_name("unpickle.py")
_LONGEST_ANSWER = 1 << 25
_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")  # all that an interpreter may need


class Row(NamedTuple):
    """A tensor as the pickle has it; none of it is checked yet."""

    name: Any
    dtype: Any
    shape: Any
    stride: Any
    storage: Any
    offset: Any


class Storage(NamedTuple):
    """`count` numbers of `dtype` (a key of DTYPES)."""

    key: str
    dtype: str
    count: int


class Table(NamedTuple):
    """What a pickle describes. end: where the pickles of an old file end."""

    rows: list[Row]
    storages: list[Storage]
    end: int


def inspect(
    path: Path, pickle: bytes, form: Literal["zip", "script", "legacy"], limits: Limits
) -> Table:
    """What `unpickle.py` says that the pickle describes.

    The process has `limits.memory` and seconds, no environment, no site-packages, and can open
    neither file nor socket. Raises Refusal when it refuses, dies, or takes too long.
    """
    process = _started(path, form, limits)
    overtime = threading.Timer(limits.wall_seconds, process.kill)
    overtime.start()
    try:
        with process:
            answer = _exchanged(process, pickle)
    finally:
        overtime.cancel()
    if process.returncode != 0:
        raise Refusal(f"{path}: its pickle {_cause(process.returncode, limits)}")
    return _parsed(path, answer)


def _started(path: Path, form: str, limits: Limits) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-I", "-S", "-B", str(SCRIPT), form, str(limits.memory),
               str(limits.cpu_seconds)]  # fmt: skip
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environment, "LC_ALL": "C"},
            cwd="/",
        )
    except OSError as error:
        raise Refusal(
            f"{path}: no process to read its pickle in could be started: {reason(error)}"
        ) from error


def _exchanged(process: "subprocess.Popen[bytes]", pickle: bytes) -> bytes:
    """Its answer, of bounded length; it reads all before it says a word."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(pickle)
        process.stdin.close()
    except BrokenPipeError:  # it died; its exit code says why
        pass
    answer = process.stdout.read(_LONGEST_ANSWER + 1)
    if len(answer) > _LONGEST_ANSWER:
        process.kill()
    return answer


def _cause(code: int, limits: Limits) -> str:
    if -code in (signal.SIGKILL, signal.SIGXCPU):
        return f"takes more than {limits.cpu_seconds} s of computing to read"
    if code < 0:
        return f"broke the process that read it ({signal.Signals(-code).name})"
    return "could not be read in the memory that reading weights takes"


def _parsed(path: Path, answer: bytes) -> Table:
    try:
        table = json.loads(answer)
        if "refused" in table:
            words = str(table["refused"])[:300]
            words = words if words.isprintable() else clipped(words)
            raise Refusal(f"{path}: its pickle {words}")
        storages = [Storage(*row) for row in table["storages"]]
        rows = [Row(*row) for row in table["tensors"]]
        end = table.get("end", 0)
        if not all(map(_is_sane, storages)) or type(end) is not int or end < 0:
            raise ValueError("storages that are none")
        return Table(rows, storages, end)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Refusal(f"{path}: its pickle made the process that read it talk nonsense") from None


def _is_sane(storage: Storage) -> bool:
    key, dtype, count = storage
    return type(key) is str and dtype in DTYPES and type(count) is int and count >= 0
