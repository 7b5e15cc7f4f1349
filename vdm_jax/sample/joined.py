"""The weights of a model array by array, whole, in whatever pieces they lie on the disk.

For what is larger than memory, or is not to be put on a device: merging, exporting, publishing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vdm_jax.adapters.trainable import Trainable
from vdm_jax.core import checkpoint
from vdm_jax.core.arrays import kinds, named
from vdm_jax.sample.load import FROZEN, Described


@runtime_checkable
class Weights(Protocol):
    """Arrays by their path, "network/conv_in/kernel"."""

    @property
    def kinds(self) -> Mapping[str, str]:
        """Type and shape of each: "float32[8,16]"."""
        ...

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """A few of them."""
        ...


@dataclass(frozen=True)
class Held:
    """Weights in memory."""

    arrays: Mapping[str, np.ndarray]

    @property
    def kinds(self) -> Mapping[str, str]:
        return kinds(dict(self.arrays)) if self.arrays else {}

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        return {name: self.arrays[name] for name in names}


@dataclass(frozen=True)
class Joined:
    """Weights that a `Trainable` puts together of trained and frozen ones.

    What is changed by factors beside it is read in float32, whatever type `kinds` gives it, so that
    who stores it rounds once.
    """

    trainable: Trainable
    trained: Weights
    frozen: Weights

    @cached_property
    def kinds(self) -> Mapping[str, str]:
        parts = (_state(_shapes(part.kinds)) for part in (self.trained, self.frozen))
        return kinds(jax.eval_shape(self.trainable.join, *parts))

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        wanted = set(names)
        trained = [n for n in self.trained.kinds if n in wanted or n.rpartition("/")[0] in wanted]
        frozen = self.frozen.read([name for name in self.frozen.kinds if name in wanted])
        changed = {name.rpartition("/")[0] for name in trained}
        frozen = {n: a.astype(np.float32) if n in changed else a for n, a in frozen.items()}
        parts = jax.tree.map(jnp.asarray, (self.trained.read(trained), frozen))
        joined = self.trainable.join(*map(_state, parts))
        return {name: np.asarray(array) for name, array in named(joined).items()}


def opened(directory: Path, config: Described) -> Weights:
    """The weights in a model directory, or the averaged ones of a run, their files verified.

    config: what `load.describe` said. Raises Refusal for what is damaged.
    """
    trained = checkpoint.stored_weights(directory)
    trainable = getattr(config, "trainable", None)
    if trainable is None or not (directory / FROZEN).exists():
        return trained
    return Joined(trainable, trained, checkpoint.stored_weights(directory / FROZEN))


def shape_of(kind: str) -> tuple[int, ...]:
    """(8, 16) of "float32[8,16]"."""
    return tuple(int(size) for size in kind.partition("[")[2].rstrip("]").split(",") if size)


def dtype_of(kind: str) -> str:
    """ "float32" of "float32[8,16]"."""
    return kind.partition("[")[0]


def _shapes(kinds: Mapping[str, str]) -> dict[str, jax.ShapeDtypeStruct]:
    return {n: jax.ShapeDtypeStruct(shape_of(kind), dtype_of(kind)) for n, kind in kinds.items()}


def _state(arrays: Mapping[str, Any]) -> nnx.State:
    items: Iterable = ((tuple(n.split("/")), nnx.Param(array)) for n, array in arrays.items())
    return nnx.from_flat_state(items)
