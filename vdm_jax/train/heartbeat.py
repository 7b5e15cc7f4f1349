"""The pulse of a training process, which tells the supervisor that started it how it gets on.

A thread writes a line each second into a pipe: a pipe needs no disk. It stops with the process,
however that is stopped, and its lines say since when the run itself has not moved. A training step
costs nothing but an assignment.
"""

import fcntl
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

VARIABLE = "VDM_HEARTBEAT"  # in the environment: the number of the pipe to write to
INTERVAL = 1.0  # seconds between two lines
REST = 3600.0  # seconds that compiling, drawing or the first step may take
LEAST = 20.0  # seconds that any step may take
SLOWER = 20  # times the longest step of late that one may take
FORGETTING = 0.98  # of the longest step, each time


class Beat(NamedTuple):
    """A line: steps taken, seconds since the run moved, and how many are too many."""

    step: int
    idle: float
    limit: float

    def line(self) -> bytes:
        return f"{self.step} {self.idle:.3f} {self.limit:.3f}\n".encode()

    @classmethod
    def parse(cls, line: bytes) -> "Beat":
        step, idle, limit = line.split()
        return cls(int(step), float(idle), float(limit))


class Pulse:
    """Where a run says that it moves on; whoever watches asks for `now`."""

    def __init__(self) -> None:
        self._step, self._moved = 0, time.monotonic()
        self._longest = math.inf  # seconds between two beats: unknown yet
        self._resting = 1  # how many `resting` blocks are open; starting counts as one

    def beat(self, step: int) -> None:
        """`step` steps are taken."""
        now = time.monotonic()
        if self._step and not self._resting:
            took = now - self._moved
            known = self._longest < math.inf
            self._longest = max(FORGETTING * self._longest, took) if known else took
        self._step, self._moved, self._resting = max(step, 1), now, 0

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Around what may take long and is no step."""
        self._resting += 1
        try:
            yield
        finally:
            self._moved = time.monotonic()
            self._resting = max(0, self._resting - 1)

    def now(self) -> Beat:
        limit = REST if self._resting else min(REST, max(LEAST, SLOWER * self._longest))
        return Beat(self._step, time.monotonic() - self._moved, limit)


_PULSE = Pulse()


def pulse() -> Pulse:
    """That of this process."""
    return _PULSE


def start() -> None:
    """Begin to tell it, where a supervisor listens: as early as possible in a process."""
    pipe = os.environ.pop(VARIABLE, None)
    if pipe is not None:
        fcntl.fcntl(int(pipe), fcntl.F_SETFD, fcntl.FD_CLOEXEC)  # not for programs started here
        threading.Thread(target=_tell, args=(int(pipe),), name="heartbeat", daemon=True).start()


def _tell(pipe: int) -> None:
    """A line each second. When nobody listens any more, the run saves and stops."""
    while True:
        try:
            os.write(pipe, _PULSE.now().line())
        except BrokenPipeError:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(INTERVAL)
