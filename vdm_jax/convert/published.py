"""A model directory from a run or from another model: whole weights, not how they came to be."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from vdm_jax.conditioning.tower import FOLDER, TextTower
from vdm_jax.convert.plan import Dtype, Progress, in_dtype
from vdm_jax.convert.read.tensors import DTYPES, count_nonfinite
from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core.deferred import AT_ONCE, Deferred
from vdm_jax.core.refusal import Refusal
from vdm_jax.sample.joined import Weights, dtype_of, shape_of
from vdm_jax.sample.load import Described
from vdm_jax.tasks.task import Pretrained


@dataclass(frozen=True)
class Published:
    """What becomes a model directory. dtype: None keeps the type of each array."""

    config: Described
    weights: Weights
    dtype: Dtype | None

    @property
    def parameters(self) -> int:
        return sum(prod(shape_of(kind)) for kind in self.weights.kinds.values())

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, as they are written."""
        return sum(array.nbytes for array in self._deferred(lambda _: None).values())

    def check_values(self, progress: Progress) -> None:
        """Read everything. Raises Refusal for an array that is not finite."""
        for array in self._deferred(progress).values():
            array.read()

    def write(self, output: Path, progress: Progress) -> None:
        """All or nothing; at no time more than a handful of arrays is held."""
        model, text = self.config.model, self.config.model.text
        beside: dict[str, str] = {}
        if isinstance(text, TextTower):
            beside = text.texts()
            model = replace(model, text=replace(text, tokenizer=FOLDER))
        made = Pretrained(model=model, task=self.config.task)
        checkpoint.save_weights(output, configs.to_json(made), self._deferred(progress), beside)

    def _deferred(self, progress: Progress) -> dict[str, Deferred]:
        kinds = self.weights.kinds
        held = Handfuls(self.weights, {n: prod(shape_of(kind)) * 4 for n, kind in kinds.items()})
        return {
            name: Deferred(
                shape_of(kind),
                DTYPES[self.dtype or dtype_of(kind)],
                partial(self._read, held, name, self.dtype or dtype_of(kind), progress),
            )
            for name, kind in kinds.items()
        }

    def _read(self, held: "Handfuls", name: str, dtype: str, progress: Progress) -> np.ndarray:
        array = held.read(name)
        if count_nonfinite(array):
            raise Refusal(f"{name} has values that are NaN or infinite")
        array = np.ascontiguousarray(in_dtype(array, dtype, name))
        progress(array.nbytes)
        return array


class Handfuls:
    """Arrays that are asked for one by one and read many at a time, since each reading costs.

    sizes: bytes of each, in the order in which they are asked for; another order is only slower.
    """

    def __init__(self, weights: Weights, sizes: Mapping[str, int]):
        self._weights, self._sizes = weights, sizes
        self._names = list(sizes)
        self._held: dict[str, np.ndarray] = {}

    def read(self, name: str) -> np.ndarray:
        if name not in self._held:
            self._held = {}  # what nobody asked for goes first
            self._held = self._weights.read(self._from(name))
        return self._held.pop(name)

    def _from(self, name: str) -> list[str]:
        """The name and those after it, up to AT_ONCE bytes."""
        wanted, held = [], 0
        for following in self._names[self._names.index(name) :]:
            held += self._sizes[following]
            if wanted and held > AT_ONCE:
                break
            wanted.append(following)
        return wanted
