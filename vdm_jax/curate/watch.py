"""What a file may take of a worker while FFmpeg reads it: it may be made to take all there is."""

import resource
import signal
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
STALL = 10.0
"""Seconds of processor time from one packet of a file to the next."""
ROOM = 2**29
"""Bytes of memory, over what the worker holds already."""


class Watch:
    """A context, to be entered around all that FFmpeg does; it ends the process at a stall.

    more: bytes that the worker itself takes meanwhile. Time is that of the processor, so that a
    machine under load or a slow disk ends nothing; the kernel keeps it, as FFmpeg does not return.
    """

    def __init__(self, more: int = 0):
        self._before = resource.getrlimit(resource.RLIMIT_DATA)
        most, hard = self._before
        wanted = _held() + ROOM + more
        self._within = wanted if most == resource.RLIM_INFINITY else min(wanted, most), hard

    def __enter__(self) -> "Watch":
        resource.setrlimit(resource.RLIMIT_DATA, self._within)
        self.alive()
        return self

    def __exit__(self, *_) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_DATA, self._before)

    def alive(self) -> None:
        """It goes on: the time begins anew."""
        signal.setitimer(signal.ITIMER_PROF, STALL)

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """`items`, made within; what is done with them is not watched."""
        source = iter(items)
        while True:
            with self:
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item


def _held() -> int:
    """Bytes of memory for data that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[5]) * resource.getpagesize()
