"""Stopping in time: SIGTERM and Ctrl-C end a run between two steps, even while XLA compiles."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

TICK = 0.1  # seconds between two looks at the stop sign


class Stopped(Exception):  # noqa: N818 - not an error
    """The run was asked to stop while it waited for something long."""


class _Sign:
    """A signal handler that sets an event."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked.set()


@contextmanager
def stop_sign() -> Iterator[threading.Event]:
    """An event that SIGTERM or Ctrl-C sets; a second Ctrl-C interrupts at once.

    Within another such block it is the event of that one.
    """
    outer = signal.getsignal(signal.SIGTERM)
    if isinstance(outer, _Sign):
        yield outer.asked
        return
    sign = _Sign()
    before = {s: signal.signal(s, sign) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield sign.asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interruptible(work: Callable[[], T], stop: threading.Event) -> T:
    """`work()` in a thread, left behind with `Stopped` as soon as `stop` is set.

    For compiling and sampling, which hold Python in one call for long. What was left behind cannot
    be ended; the caller saves and then leaves the process.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(TICK)
        if stop.is_set() and thread.is_alive():
            raise Stopped
    if errors:
        raise errors[0]
    return results[0]
