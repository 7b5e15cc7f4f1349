"""How much memory something takes, watched from beside it."""

import contextlib
import resource
import threading
from collections.abc import Sequence
from types import TracebackType

import jax

SECONDS = 0.02  # between two looks
PAGE = resource.getpagesize()


class Watched:
    """The most memory in use at any moment inside a `with`.

    most: bytes, of the fullest device here, or of this process where devices do not tell (CPU),
    with all that it held before; 0 where neither tells.
    """

    def __init__(self) -> None:
        self.most = 0
        self._devices = jax.local_devices()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watched":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, _in_use(self._devices))
            if self._done.wait(SECONDS):
                return


def _in_use(devices: Sequence[jax.Device]) -> int:
    told = [device.memory_stats() for device in devices]
    if all(told):
        return max(each["bytes_in_use"] for each in told if each)
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE
    return 0
