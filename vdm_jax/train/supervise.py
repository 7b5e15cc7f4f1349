"""The supervisor of one host: starts the training, and starts it again when it crashes or hangs.

It does nothing else and loads nothing: no JAX, no accelerator. The training tells it through a pipe
(`train.heartbeat`) that it lives and moves on; a process that was stopped, or whose every thread is
stuck, falls silent, one that waits for ever says so itself.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NamedTuple

from vdm_jax.train.heartbeat import VARIABLE, Beat

FINAL = (0, 2, 130)  # exit codes that another start would not change: done, refused, Ctrl-C
TICK = 0.25  # seconds between two looks


@dataclass(frozen=True)
class Patience:
    """Seconds, and starts."""

    silent: float = 20.0
    """Without a heartbeat, after which a process is hung."""
    first: float = 60.0
    """Until the first heartbeat."""
    starts: int = 5
    """In a row without getting further than before, after which it is a crash loop."""
    wait: float = 1.0
    """Before the first new start, doubled for each fruitless one that follows."""
    longest_wait: float = 60.0


class Life(NamedTuple):
    """How a process ended. code: as a shell has it; hung: why it was killed, if it was."""

    code: int
    hung: str
    step: int

    def told(self) -> str:
        if self.hung:
            return f"{self.hung} and was killed"
        if self.code > 128:
            return f"was ended by {signal.Signals(self.code - 128).name}"
        return f"ended with code {self.code}"


def supervise(
    command: Sequence[str],
    patience: Patience = Patience(),
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> int:
    """Run `command` to its end, through crashes and hangs; returns its exit code.

    SIGTERM and Ctrl-C are passed on to it, and are its end however it takes them. A refusal is not
    tried again, and neither is a run that got no further `patience.starts` times in a row: 1.
    What was unavailable is asked for again and again.
    """
    furthest, crashes, waits = 0, 0, 0
    with _signals_passed_on() as child:
        while True:
            life = _live(command, patience, child)
            if child.asked or life.code in FINAL:
                return life.code
            crashes = 0 if life.step > furthest else crashes + (life.code != os.EX_TEMPFAIL)
            waits = 0 if life.step > furthest else waits + 1
            furthest = max(furthest, life.step)
            if crashes >= patience.starts:
                say(
                    f"error: the training crashes in a loop: {crashes} starts in a row got no "
                    f"further than step {furthest}; the last one {life.told()}"
                )
                return 1
            pause = min(patience.wait * 2 ** min(max(0, waits - 1), 32), patience.longest_wait)
            say(
                f"supervisor: at step {life.step} the training {life.told()}; it is started again "
                f"in {pause:g} s"
            )
            if _slept(pause, child):
                return life.code


class _Child:
    """The process to pass signals on to. asked: whether one was."""

    process: "subprocess.Popen[bytes] | None" = None
    asked: bool = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.asked = True
        if self.process is not None:
            self.process.send_signal(number)


@contextmanager
def _signals_passed_on() -> Iterator[_Child]:
    child = _Child()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, child.on_signal) for number in numbers}
    try:
        yield child
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _live(command: Sequence[str], patience: Patience, child: _Child) -> Life:
    """One process from its start to its end, which comes from here if it hangs."""
    pipe = _Pipe()
    try:
        child.process = process = subprocess.Popen(
            command,
            env=os.environ | {VARIABLE: str(pipe.writer)},
            pass_fds=(pipe.writer,),
            process_group=0,  # the terminal's Ctrl-C is for the supervisor, which passes it on
        )
        pipe.close_writer()
        if child.asked:  # between two lives
            process.send_signal(signal.SIGTERM)
        hung = _watched(process, pipe, patience)
        if hung:
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        return Life(code if code >= 0 else 128 - code, hung, pipe.beat.step)
    finally:
        child.process = None
        pipe.close()


def _watched(process: "subprocess.Popen[bytes]", pipe: "_Pipe", patience: Patience) -> str:
    """Why it hangs; empty when it ended by itself."""
    silent, looked, limit = 0.0, time.monotonic(), patience.first
    while process.poll() is None:
        heard = pipe.listen(TICK)
        now = time.monotonic()
        silent += min(now - looked, 4 * TICK)  # more: it was the supervisor that was stopped
        looked = now
        if heard:
            silent, limit = 0.0, patience.silent
            if pipe.beat.idle > pipe.beat.limit:
                return f"had not moved for {pipe.beat.idle:.0f} s"
        if silent > limit:
            return f"had given no sign of life for {silent:.0f} s"
    while pipe.listen(0.0):
        pass  # its last words
    return ""


class _Pipe:
    """What a process tells. beat: the last of it."""

    def __init__(self) -> None:
        self.beat = Beat(0, 0.0, 0.0)
        self._reader, self.writer = os.pipe()
        self._part = b""

    def listen(self, seconds: float) -> bool:
        """Wait no longer than this; whether a heartbeat came."""
        ready, _, _ = select.select([self._reader], [], [], seconds)
        heard = os.read(self._reader, 1 << 16) if ready else b""
        if ready and not heard:
            time.sleep(seconds)  # nobody holds the other end any more
        *lines, self._part = (self._part + heard).split(b"\n")
        if lines:
            self.beat = Beat.parse(lines[-1])
        return bool(lines)

    def close_writer(self) -> None:
        """Here: the process has its own."""
        os.close(self.writer)

    def close(self) -> None:
        os.close(self._reader)


def _slept(seconds: float, child: _Child) -> bool:
    """Wait; True at once when a signal comes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not child.asked:
        time.sleep(min(TICK, seconds))
    return child.asked
