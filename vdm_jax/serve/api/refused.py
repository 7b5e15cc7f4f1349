"""Which requests were not taken, so that their repetition is a new one.

A client sends again, by itself, what was answered 429 or 503, and what it got no answer to. The
latter may have been taken: it is looked for by its body. The former was not, and to look for it
would find another of the same words, and lose this one.
"""

import threading
import time
from collections import deque

from vdm_jax.serve.store.jobs import RETRIED

AGAIN = (408, 409, 429)  # and all from 500 on: statuses after which clients send again
OWNERS = 10_000


class Refused:
    """Requests of each owner that were answered so lately; calls may come from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[str, deque[float]] = {}

    def note(self, owner: str, status: int) -> None:
        if status not in AGAIN and status < 500:
            return
        with self._lock:
            times = self._times.pop(owner, deque(maxlen=1000))
            times.append(time.monotonic())
            self._times[owner] = times
            if len(self._times) > OWNERS:
                self._times.pop(next(iter(self._times)))

    def take(self, owner: str) -> bool:
        """Whether there is one that this may be the repetition of; it is so once."""
        with self._lock:
            times = self._times.get(owner, deque())
            while times and times[0] < time.monotonic() - RETRIED:
                times.popleft()
            return bool(times and times.popleft())
