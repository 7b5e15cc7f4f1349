"""What goes where: every tensor of an original model paired with an array of ours, then brought.

Pairing looks at names, shapes and types alone; bringing reads one tensor at a time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from math import prod
from types import MappingProxyType
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from vdm_jax.convert.original import Original
from vdm_jax.convert.pipelines import STABLE_VIDEO
from vdm_jax.convert.read.tensors import DTYPES, count_nonfinite
from vdm_jax.convert.rules import Move, moves, refuse
from vdm_jax.core import mesh as meshes
from vdm_jax.core.arrays import named
from vdm_jax.core.deferred import Deferred
from vdm_jax.core.refusal import Refusal
from vdm_jax.tasks.task import ModelConfig, Pretrained, abstract

Dtype = Literal["float32", "bfloat16", "float16"]
FLOATS = ("float16", "bfloat16", "float32", "float64")
Progress = Callable[[int], object]
"""Called with the bytes of each tensor once it was read."""


@cache
def shapes_of(model: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """The shape of each parameter by its path; allocates nothing."""
    shapes = {path: leaf.shape for path, leaf in named(abstract(model)[1]).items()}
    return MappingProxyType(shapes)


def built_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter, by its path, of what `config` builds; allocates nothing."""
    state = nnx.state(meshes.build_abstract(lambda: config.build(rngs=nnx.Rngs(0))), nnx.Param)
    return {path: leaf.shape for path, leaf in named(state).items()}


@dataclass(frozen=True)
class Plan:
    """An original model that fits: what it becomes, and how each array gets there."""

    original: Original
    pretrained: Pretrained
    moves: tuple[Move, ...]

    @property
    def source_bytes(self) -> int:
        """Bytes that bringing all of it reads."""
        return sum(self._bytes(move) for move in self.moves)

    def result_bytes(self, dtype: Dtype) -> int:
        return sum(prod(move.shape) for move in self.moves) * DTYPES[dtype].itemsize

    def bring(self, move: Move, dtype: Dtype, progress: Progress) -> np.ndarray:
        """One array of ours. Raises Refusal if it is not finite, or not in `dtype`."""
        array = self.original.read(move.theirs)
        self._check_finite(move, array)
        converted = in_dtype(array, dtype, self.original.called(move.theirs))
        progress(self._bytes(move))
        return np.ascontiguousarray(move.layout.bring(converted, move.our_shape))

    def deferred(self, dtype: Dtype, progress: Progress) -> dict[str, Deferred]:
        """All arrays of ours by path, each brought only when it is read."""
        return {
            move.ours: Deferred(
                move.our_shape, DTYPES[dtype], partial(self.bring, move, dtype, progress)
            )
            for move in self.moves
        }

    def placed(self, mesh: Mesh, dtype: Dtype, progress: Progress = lambda _: None) -> nnx.State:
        """The parameters on a mesh, each laid out by its logical axes, without a second copy."""
        _, empty = abstract(self.pretrained.model)
        shardings = jax.tree.leaves(meshes.shardings(empty, mesh))
        arrays = []
        for move, sharding in zip(self.moves, shardings, strict=True):
            array = self.bring(move, dtype, progress)
            arrays.append(jax.make_array_from_callback(array.shape, sharding, array.__getitem__))
        return jax.tree.unflatten(jax.tree.structure(empty), arrays)

    def check_values(self, progress: Progress) -> None:
        """Read everything. Raises a Refusal that names all tensors that are not finite."""
        wrong = []
        for move in self.moves:
            try:
                self._check_finite(move, self.original.read(move.theirs))
            except _NotFiniteError as fault:
                wrong.append(str(fault))
            progress(self._bytes(move))
        refuse("not finite", wrong)

    def _check_finite(self, move: Move, array: np.ndarray) -> None:
        if count := count_nonfinite(np.ascontiguousarray(array)):
            name = self.original.called(move.theirs)
            raise _NotFiniteError(f"{name} has {count} values that are NaN or infinite")

    def _bytes(self, move: Move) -> int:
        return prod(move.shape) * DTYPES[self.original.tensors[move.theirs].dtype].itemsize


class _NotFiniteError(Refusal):
    """A tensor that holds NaN or infinity."""


def in_dtype(array: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """A finite array, rounded to `dtype`. Raises Refusal if a number is too large for it."""
    with np.errstate(over="ignore"):
        converted = array.astype(DTYPES[dtype], copy=False)
    if converted.dtype != array.dtype and count_nonfinite(converted):
        raise Refusal(f"{name} has numbers too large for {dtype}; use --dtype bfloat16 or float32")
    return converted


def plan(original: Original) -> Plan:
    """Pair all tensors. Raises one Refusal that names every tensor that does not fit."""
    pipeline = original.pipeline
    pretrained = pipeline.pretrained(original.configs)
    theirs = {name: info.shape for name, info in original.tensors.items()}
    ready, wrong = moves(theirs, shapes_of(pretrained.model), pipeline.table, original.called)
    wrong += [f"{name} is not a weight of this model" for name in original.foreign]
    wrong += [
        f"{original.called(name)} holds {info.dtype}, which weights do not"
        for name, info in original.tensors.items()
        if info.dtype not in FLOATS
    ]
    refuse(f"the {original.kind} does not fit its config", wrong)
    return Plan(original, pretrained, tuple(ready))


def what(found: Plan) -> str:
    """What the model makes, in a few words."""
    task: Any = found.pretrained.task
    if found.original.pipeline is STABLE_VIDEO:
        return f"{task.video.num_frames} frames a video"
    return f"pictures of {task.video.height}x{task.video.width}, predicting {task.process.precond}"


def report(found: Plan) -> str:
    """One line for each part: tensors, parameters, types; then what is not used."""
    lines = []
    for part in found.original.pipeline.parts:
        mine = [move for move in found.moves if move.theirs.startswith(f"{part}.")]
        count = sum(prod(move.shape) for move in mine)
        kinds = sorted({found.original.tensors[move.theirs].dtype for move in mine})
        lines.append(f"{part:14}{len(mine):6} tensors {count:14,} parameters  {', '.join(kinds)}")
    lines.append(f"{'not used':14}{len(found.original.unused):6} tensors")
    return "\n".join(lines)
