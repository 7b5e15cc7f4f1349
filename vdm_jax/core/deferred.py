"""Arrays that are read only when they are written: a model larger than memory can be saved.

A `Deferred` stands in a tree where an array will be. Orbax is given a handler that reads a handful
of them, writes those, and lets go of them before it reads the next.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

AT_ONCE = 256 << 20  # bytes read before they are written; each write ends with a commit


@dataclass(frozen=True, eq=False)
class Deferred:
    """An array of known shape and type whose values `read()` returns."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def handlers() -> Any:
    """Orbax's handlers of arrays, and ours of deferred ones."""
    known = ocp.type_handlers
    return known.create_type_handler_registry(
        *((kind, known.get_type_handler(kind)) for kind in (np.ndarray, jax.Array)),
        (Deferred, _DeferredHandler(deepcopy_host_arrays=False)),
    )


class _DeferredHandler(ocp.type_handlers.NumpyHandler):
    """Writes what Orbax's handler of numpy arrays would, a handful of arrays at a time."""

    def typestr(self) -> str:
        return "Deferred"

    async def serialize(
        self, values: Sequence[Any], infos: Sequence[Any], args: Sequence[Any] | None = None
    ) -> Sequence[Any]:
        args = args or [ocp.SaveArgs()] * len(values)
        for part in _parts(values):
            arrays = [values[i].read() for i in part]
            written = await super().serialize(
                arrays, [infos[i] for i in part], [args[i] for i in part]
            )
            for future in written:
                future.result()
        return []

    def memory_size(self, values: Sequence[Any]) -> Sequence[tuple[int, int]]:
        return [(value.nbytes, value.nbytes) for value in values]


def _parts(values: Sequence[Deferred]) -> Iterator[list[int]]:
    """Runs of indices whose arrays come to about AT_ONCE bytes; a larger array stands alone."""
    part: list[int] = []
    held = 0
    for index, value in enumerate(values):
        if part and held + value.nbytes > AT_ONCE:
            yield part
            part, held = [], 0
        part.append(index)
        held += value.nbytes
    if part:
        yield part
