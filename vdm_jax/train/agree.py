"""What one process of a run learns, all of them heed at the same step."""

import threading
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array


@runtime_checkable
class Stop(Protocol):
    """Whether to stop, asked once before each step."""

    def is_set(self) -> bool: ...


def agreed(stop: threading.Event) -> Stop:
    """A stop sign that every process of the run sees before the same step."""
    return stop if jax.process_count() == 1 else _Vote(stop)


def own(stop: threading.Event) -> threading.Event:
    """A stop sign that this process may heed by itself, in the middle of something.

    Among several processes it is never set: the others would wait for this one for ever.
    """
    return stop if jax.process_count() == 1 else threading.Event()


class _Vote:
    """The answer to the question asked one step ago, so that nobody waits for it."""

    def __init__(self, stop: threading.Event):
        self._stop = stop
        mesh = Mesh(np.array(jax.devices()), ("all",))
        self._each = NamedSharding(mesh, PartitionSpec("all"))
        self._any = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._asked: Array | None = None
        self._answer = False

    def is_set(self) -> bool:
        """All processes call it equally often."""
        if self._asked is not None and not self._answer:
            self._answer = bool(self._asked)
        if not self._answer:
            mine = np.full(1, self._stop.is_set(), np.int32)
            votes = jax.make_array_from_callback(
                (jax.device_count(),), self._each, lambda index: mine
            )
            self._asked = self._any(votes)
        return self._answer
