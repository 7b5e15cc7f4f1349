"""metrics.jsonl: one JSON object a line, each with its `step`; survives being killed.

A record at step n speaks of the state after n steps. A number that is not finite is written as
null, since JSON has no word for it. Lines that are not whole records (the torn last line of a
killed run) are passed over when reading and removed when the file is opened again.
"""

import json
import logging
import math
import os
import re
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, SupportsFloat

from vdm_jax.core.refusal import Unavailable

LOG = logging.getLogger(__name__)

Record = dict[str, Any]
DATE = "%Y-%m-%d %H:%M:%S"
STEP_LINE = re.compile(r"[-\d]+ [:\d]+  step \d+/\d+ ")


def read(path: str | os.PathLike) -> list[Record]:
    """All whole records, in order; none if there is no such file."""
    path = Path(path)
    if not path.exists():
        return []
    with _faults_named(path):
        lines = path.read_bytes().splitlines(keepends=True)
    return [record for line in lines if (record := _parse(line)) is not None]


class DatedLines:
    """log.txt: what a run says, each line with its time; appended to by every session."""

    def __init__(self, path: Path):
        self._file = path.open("a", encoding="utf-8")

    def write(self, text: str, /) -> int:
        now = time.strftime(DATE)
        return self._file.write("".join(f"{now}  {line}\n" for line in text.splitlines()))

    def flush(self) -> None:
        self._file.flush()

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._file.fileno()

    def __enter__(self) -> "DatedLines":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextmanager
def warnings_kept(lines: DatedLines) -> Generator[None]:
    """What the library warns of meanwhile is written to log.txt as well."""
    handler, library = _Kept(lines), logging.getLogger("vdm_jax")
    library.addHandler(handler)
    try:
        yield
    finally:
        library.removeHandler(handler)


class _Kept(logging.StreamHandler[DatedLines]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A line that the disk does not take is lost; it was shown."""


def events(path: Path, most: int = 200) -> list[str]:
    """Lines of log.txt but those that only count steps; the last ones of many."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line for line in lines if not STEP_LINE.match(line)]
    cut = [f"… {len(told) - most} earlier lines in {path.name}"] if len(told) > most else []
    return cut + told[-most:]


class MetricsLog:
    """Appends records; opened at the step a run goes on from, it forgets what came after."""

    def __init__(self, path: str | os.PathLike, step: int = 0) -> None:
        """step: where the run starts or resumes; later records go, so curves are not doubled."""
        self._path = Path(path)
        kept = [record for record in read(path) if record["step"] <= step]
        text = "".join(json.dumps(record) + "\n" for record in kept).encode()
        with _faults_named(self._path):
            if not self._path.exists() or self._path.read_bytes() != text:
                part = self._path.with_name(self._path.name + ".part")
                part.write_bytes(text)
                os.replace(part, self._path)
            self._file = self._path.open("ab", buffering=0)
        self._pending = b""  # what a full disk did not take yet
        self._told = False

    def write(self, step: int, scalars: Mapping[str, SupportsFloat | str]) -> None:
        """Append one record. It is in the file at once, on the disk after `sync`.

        Where the disk does not take it, a warning is logged and it waits for the next call.
        """
        record = {"step": step} | {name: _json_number(value) for name, value in scalars.items()}
        self._pending += (json.dumps(record) + "\n").encode()
        self._flush()

    def sync(self) -> None:
        """Return when all records are on the disk: call it where a checkpoint is saved."""
        if self._flush():
            os.fsync(self._file.fileno())

    def _flush(self) -> bool:
        """Whether nothing is pending any more."""
        try:
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]
        except OSError as fault:
            if not self._told:
                LOG.warning("metrics wait for room in %s: %s", self._path, fault.strerror)
            self._told = True
            return False
        self._told = False
        return True

    def close(self) -> None:
        self.sync()
        self._file.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _json_number(value: SupportsFloat | str) -> float | int | str | None:
    if isinstance(value, str):
        return value
    number = value if isinstance(value, int) else float(value)
    return number if math.isfinite(number) else None


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    whole = line.endswith(b"\n") and isinstance(record, dict)
    return record if whole and isinstance(record.get("step"), int) else None


@contextmanager
def _faults_named(path: Path) -> Generator[None, None, None]:
    """A full disk or a missing permission as one line."""
    try:
        yield
    except OSError as fault:
        raise Unavailable(f"cannot keep metrics in {path}: {fault.strerror}") from fault
