"""The device mesh, and the tables that say which of its axes an array is split over.

Parameters name logical axes where they are made (`kernel_metadata={"out_sharding": ("conv_in",
"conv_out")}`), and `LOGICAL_AXES` maps those names to mesh axes; what flows between layers names
its own with `constrain`, mapped by `ACTIVATION_AXES`. A logical axis whose size a mesh axis does
not divide stays whole on every device, so that one config runs on any mesh.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from vdm_jax.core.refusal import Refusal

T = TypeVar("T")

MESH_AXES = ("data", "fsdp", "context", "tensor")

LOGICAL_AXES: dict[str, str] = {
    "conv_in": "fsdp",
    "conv_out": "tensor",
    "embed": "fsdp",
    "mlp": "tensor",
    "heads": "tensor",
}

BATCH_AXES = ("data", "fsdp")  # the batch is split over both: fsdp is data parallel, weights split

ACTIVATION_AXES: dict[str, tuple[str, ...]] = {
    "batch": BATCH_AXES,
    "frames": ("context",),
    "space": ("context",),
    "heads": ("tensor",),
    "mlp": ("tensor",),
}

VIDEO = ("batch", "frames", "space", None, None)
"""How "b t h w c" may lie on a mesh."""


@dataclass(frozen=True)
class MeshConfig:
    """How the devices of all processes are laid out."""

    data: int | None = None
    """Copies of the model; None takes every device that the other axes leave."""
    fsdp: int = 1
    """Parts that weights and optimiser moments are cut into; the batch is split over it too."""
    context: int = 1
    """Parts that the frames of one video are cut into, or its rows where frames do not divide."""
    tensor: int = 1
    """Parts that the width of each layer is cut into."""

    def build(self) -> Mesh:
        """The mesh over `jax.devices()`; see `build_on`."""
        return self.build_on(jax.devices())

    def build_on(self, devices: Sequence[jax.Device]) -> Mesh:
        """The mesh over these devices.

        Raises:
            Refusal: when the sizes do not multiply to the number of devices.
        """
        rest = self.fsdp * self.context * self.tensor
        data = self.data if self.data is not None else len(devices) // max(1, rest)
        sizes = (data, self.fsdp, self.context, self.tensor)
        if min(sizes) < 1 or math.prod(sizes) != len(devices):
            raise Refusal(
                f"mesh data={self.data} x fsdp={self.fsdp} x context={self.context} x "
                f"tensor={self.tensor} does not cover the {len(devices)} devices here; the four "
                f"must multiply to {len(devices)}, e.g. --mesh.data 1 --mesh.fsdp {len(devices)}"
            )
        kinds = (AxisType.Auto,) * len(MESH_AXES)
        return jax.make_mesh(sizes, MESH_AXES, axis_types=kinds, devices=devices)


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts the global batch is cut; it must be a multiple of this."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Leading axis over the batch axes, everything else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """Rows of a global batch that lie on devices of this process, ascending.

    Processes that share a row, because the model or its videos are cut between them, name it both.
    """
    held = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    parts = {range(*index[0].indices(batch_size)) for index in held.values() if index}
    return sorted({row for part in parts for row in part})


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The `local_rows` of a global batch as global arrays, split over the batch axes."""
    shards, sharding = batch_shards(mesh), batch_sharding(mesh)
    here = len(local_rows(mesh, shards))

    def whole(rows: np.ndarray) -> jax.Array:
        each = len(rows) // here  # rows of one shard, which lie together
        places = {row: place for place, row in enumerate(local_rows(mesh, each * shards))}

        def piece(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index, "a batch has rows"
            first = places[index[0].indices(each * shards)[0]]
            return rows[first : first + each]

        return jax.make_array_from_callback((each * shards, *rows.shape[1:]), sharding, piece)

    return {name: whole(rows) for name, rows in batch.items()}


def put_whole_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A batch of which every process holds all rows, split over the batch axes."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_callback(
            rows.shape, sharding, lambda index, rows=rows: rows[index]
        )
        for name, rows in batch.items()
    }


def put(state: Any, shardings: Any) -> Any:
    """Arrays laid out over the devices by `shardings`: as they are where they lie so already,
    else each process must hold them whole."""

    def laid_out(array: Any, sharding: Any) -> jax.Array:
        if getattr(array, "sharding", None) == sharding:
            return array
        return jax.make_array_from_callback(array.shape, sharding, np.asarray(array).__getitem__)

    return jax.tree.map(laid_out, state, shardings)


def shardings(state: Any, mesh: Mesh) -> Any:
    """The sharding of every array of `state` (a pytree of `nnx.Variable`s and bare arrays).

    Returns the same pytree with a `NamedSharding` in place of each array.
    """

    def of_leaf(leaf: Any) -> Any:
        if not isinstance(leaf, nnx.Variable):
            return replicated(mesh)
        axes = leaf.get_metadata().get("out_sharding")
        spec = _spec(axes, leaf.get_value().shape, mesh)
        return leaf.replace(NamedSharding(mesh, spec))

    return jax.tree.map(of_leaf, state, is_leaf=lambda x: isinstance(x, nnx.Variable))


def _spec(axes: tuple[str | None, ...] | None, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Mesh axes for one array; an axis that does not divide its dimension is left out."""
    if axes is None:
        return PartitionSpec()
    mapped = [LOGICAL_AXES[name] if name is not None else None for name in axes]
    fitting = [
        axis if axis is not None and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(mapped, shape, strict=True)
    ]
    return PartitionSpec(*fitting)


def constrain(x: Array, axes: tuple[str | None, ...]) -> Array:
    """`x` laid out over the mesh of `jax.set_mesh` by the logical axis of each dimension.

    A mesh axis goes to the first dimension that names it and that it divides: an array
    ("batch", "frames", "space", …) of 25 frames is cut by rows instead. No mesh: `x` as it is.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    free = set(mesh.axis_names)
    spec: list[tuple[str, ...] | None] = []
    for name, size in zip(axes, x.shape, strict=True):
        wanted = () if name is None else ACTIVATION_AXES[name]
        parts = math.prod(mesh.shape.get(axis, 1) for axis in wanted)
        fits = bool(wanted) and free.issuperset(wanted) and size % parts == 0
        spec.append(wanted if fits else None)
        free -= set(wanted) if fits else set()
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def frames_together(x: Array) -> Array:
    """ "b t …" as "b*t …", the frames of a device beside each other, so that none has to move.

    Where a device holds frames of several videos that goes on on other devices, "b*t" in the usual
    order would not be cut evenly between devices. `frames_apart` is the inverse; what lies between
    must treat all frames alike.
    """
    videos, frames = _cuts(x.shape[0], x.shape[1])
    b, t, *rest = x.shape
    x = x.reshape(videos, b // videos, frames, t // frames, *rest)
    return jnp.moveaxis(x, 2, 1).reshape(b * t, *rest)


def frames_apart(x: Array, b: int) -> Array:
    """The inverse of `frames_together`, for `b` videos."""
    f, *rest = x.shape
    t = f // b
    videos, frames = _cuts(b, t)
    x = x.reshape(videos, frames, b // videos, t // frames, *rest)
    return jnp.moveaxis(x, 1, 2).reshape(b, t, *rest)


def _cuts(b: int, t: int) -> tuple[int, int]:
    """Into how many parts the mesh cuts b videos, and t frames; 1 where it does not."""
    mesh = jax.sharding.get_abstract_mesh()
    sizes = {} if mesh.empty else mesh.shape
    parts = (
        math.prod(sizes.get(axis, 1) for axis in ACTIVATION_AXES[name])
        for name in ("batch", "frames")
    )
    videos, frames = (n if size % n == 0 else 1 for n, size in zip(parts, (b, t), strict=True))
    return videos, frames


def unplaced() -> AbstractContextManager[None]:
    """A block in which modules are made without being placed: the state as a whole is."""
    return nnx.use_eager_sharding(False)  # noqa: FBT003 - it takes no keyword


def build_abstract(make: Callable[[], T]) -> T:
    """`make()` with shapes in place of arrays; computes and allocates nothing."""
    with unplaced():
        return nnx.eval_shape(make)


def describe(state: Any, mesh: Mesh) -> str:
    """One line per array: path, shape, type, and the mesh axes that it is split over."""
    rows = []
    placed = shardings(state, mesh)
    leaves, _ = jax.tree.flatten_with_path(state)
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(placed), strict=True):
        name = ".".join(str(getattr(k, "key", getattr(k, "name", k))).strip(".") for k in path)
        spec = ", ".join("-" if axis is None else axis for axis in sharding.spec) or "replicated"
        rows.append((name.removesuffix(".value"), str(tuple(leaf.shape)), str(leaf.dtype), spec))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]])
        for row in rows
    )
