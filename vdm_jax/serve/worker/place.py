"""The name under which a worker draws, which one process at a time has."""

import fcntl
import re
import socket
import time
from pathlib import Path
from typing import Any

from vdm_jax.core.refusal import Unavailable

PATIENCE = 60.0  # seconds that an earlier worker of the name may take to end
SLOTS = 64


def taken(data: Path, slot: int | None) -> tuple[str, Any]:
    """A worker's name, and the lock that keeps it until this process ends.

    slot: the number of the worker on this host; None is the first that is free. What an earlier
    worker of the name was drawing is known to be nobody's then.
    """
    ends = time.monotonic() + PATIENCE
    while True:
        for name in [name_of(slot)] if slot is not None else map(_own_name, range(SLOTS)):
            lock = (data / f".worker-{name}.lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return name, lock
            except OSError:
                lock.close()
        if slot is None or time.monotonic() > ends:
            raise Unavailable(f"another worker draws for {data} under this name; stop it first")
        time.sleep(0.1)


def name_of(slot: int) -> str:
    """The name of a worker that a server of this host starts."""
    return f"{_host()}-{slot}"


def _own_name(number: int) -> str:
    """The name of one that was started by itself: never that of a server's."""
    return f"{_host()}-own-{number}"


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:60] or "host"
