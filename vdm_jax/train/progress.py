"""How far training is: one live line on a terminal, now and then a plain line elsewhere."""

import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Protocol, runtime_checkable

from tqdm import tqdm

INTERVAL = 10.0  # seconds between two plain lines at first
GROWTH = 0.03  # of the time so far, where that is longer
LONGEST = 3600.0  # seconds between two plain lines at last
REFRESH = 0.1  # seconds between two pictures of the live line
MEMORY = 0.9  # of the running mean of seconds a step


@runtime_checkable
class Stream(Protocol):
    """Where text goes: sys.stderr, an open file, io.StringIO."""

    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...

    def isatty(self) -> bool: ...

    def fileno(self) -> int: ...


class Progress:
    """Step, loss, s/step, frames/s and time left; says so when it is compiling instead.

    update() may be called every step or every few. frames_per_step: video frames of the global
    batch. log: a second stream that always gets plain lines (log.txt of a run).
    """

    def __init__(
        self,
        total: int,
        *,
        frames_per_step: int,
        start: int = 0,
        stream: Stream | None = None,
        log: Stream | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total, self._step, self._frames = total, start, frames_per_step
        self._clock, self._seen, self._began = clock, clock(), clock()
        self._pace: float | None = None  # seconds a step, without pauses
        self._said = self._drawn = -float("inf")
        stream = stream or sys.stderr
        self._bar = _live_line(stream, total, start) if stream.isatty() else None
        plain = [] if stream.isatty() else [stream]
        self._plain = plain if log is None else [*plain, log]

    def update(self, step: int, loss: float, more: str = "") -> None:
        """Step `step` is done, with this loss; `more` is shown as it is."""
        now = self._clock()
        if step > self._step:
            pace = (now - self._seen) / (step - self._step)
            memory = MEMORY ** (step - self._step)
            self._pace = pace if self._pace is None else memory * self._pace + (1 - memory) * pace
        self._step, self._seen = step, now
        last = step >= self._total
        if self._bar is not None and (now - self._drawn >= REFRESH or last):
            self._drawn, self._bar.n = now, step
            self._bar.set_postfix_str(self._state(loss, more))
        rare = min(max(INTERVAL, GROWTH * (now - self._began)), LONGEST)
        if now - self._said >= rare or last:
            self._said = now
            self._lines(f"step {step}/{self._total}  {self._state(loss, more)}")

    @contextmanager
    def compiling(self, what: str = "the training step") -> Generator[None, None, None]:
        """Around a call that makes XLA compile: says so before, and how long it took after."""
        with self.busy(f"compiling {what}") as seconds:
            yield
        self.say(f"compiled {what} in {duration(seconds())}")

    @contextmanager
    def busy(self, doing: str) -> Generator[Callable[[], float], None, None]:
        """Around work that is not training; it does not count as slow steps.

        Yields a function that tells the seconds since the start.
        """
        begin = self._clock()
        if self._bar is not None:
            self._bar.set_postfix_str(f"{doing} …")
        self._lines(f"{doing} …")
        try:
            yield lambda: self._clock() - begin
        finally:
            self._seen += self._clock() - begin

    def say(self, line: str) -> None:
        """One line for people, above the live one if there is one."""
        if self._bar is not None:
            self._bar.write(line, file=self._bar.fp)
        self._lines(line)

    def close(self) -> None:
        """Leaves the live line as it is and ends it."""
        if self._bar is not None:
            self._bar.close()

    def _state(self, loss: float, more: str) -> str:
        facts = [f"loss {loss:.4g}"]
        if self._pace is not None:
            left = self._pace * (self._total - self._step)
            facts += [
                f"{self._pace:.3g} s/step",
                f"{self._frames / max(self._pace, 1e-9):.0f} frames/s",
            ]
            facts += [more] if more else []
            facts.append(f"ETA {duration(left)}" if left > 0 else "done")
        return "  ".join(facts)

    def _lines(self, line: str) -> None:
        for stream in self._plain:
            with suppress(OSError):  # a full disk, a terminal that is gone: no reason to end a run
                stream.write(line + "\n")
                stream.flush()


def duration(seconds: float) -> str:
    """A length of time for people: 8.2 s, 42 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _live_line(stream: Stream, total: int, start: int) -> tqdm:
    layout = "{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt}{postfix}"
    known = os.get_terminal_size(stream.fileno()).columns > 0  # 0 in some containers: tqdm is mute
    bar = tqdm(
        total=total,
        initial=start,
        file=stream,
        bar_format=layout,
        ncols=None if known else 100,
        dynamic_ncols=known,
    )
    bar.miniters = total + 1  # drawn by update alone, not by tqdm's own clock
    return bar
