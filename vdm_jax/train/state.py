"""What training changes and a checkpoint holds, and the weights beside it that only are read."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from vdm_jax.adapters.trainable import Trainable
from vdm_jax.core import mesh as meshes
from vdm_jax.train.guard import Health, unknown

Initial = Callable[[nnx.State], nnx.State]
"""Fills the shapes of a model's parameters, each with its type and its sharding."""


class TrainState(NamedTuple):
    """Everything that a step changes; `params`, `ema` and the moments shard alike."""

    step: Int[Array, ""]
    """Steps taken, skipped ones included: it also counts the batches consumed."""
    skipped: Int[Array, ""]
    """Steps that changed nothing, being bad, or whose change was taken back."""
    params: nnx.State
    """The trained weights, in float32."""
    opt_state: PyTree
    ema: nnx.State
    """Running average of the trained weights: what is previewed, evaluated and sampled."""
    health: Health
    """What tells a bad step from a good one."""


class Built(NamedTuple):
    """A model apart from its arrays."""

    graphdef: nnx.GraphDef
    trainable: Trainable
    abstract: TrainState
    """Shapes and types, with the sharding of each array."""
    frozen: nnx.State
    """Likewise, of the weights that only are read."""
    init: Callable[[], tuple[TrainState, nnx.State]]
    """Makes the arrays of both, each on the devices where it belongs."""

    def model(self, trained: nnx.State, frozen: nnx.State) -> Any:
        """The model with these weights."""
        return nnx.merge(self.graphdef, self.trainable.join(trained, frozen))


def build(
    abstract_model: tuple[nnx.GraphDef, nnx.State],
    trainable: Trainable,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    initial: Initial,
    *,
    seed: int = 0,
    frozen_dtype: str = "float32",
) -> Built:
    """Prepare a training state over `mesh` without allocating anything yet.

    abstract_model: the model apart from its arrays, and its parameters as shapes.
    initial: where the first weights come from. seed: of what `trainable` adds to them.
    frozen_dtype: of the weights that only are read.
    """
    graphdef, params = abstract_model
    key = jax.random.key(seed)

    def new(params: nnx.State) -> tuple[TrainState, nnx.State]:
        trained, frozen = trainable.split(params, key)
        return _new(trained, optimizer), frozen

    _, frozen = jax.eval_shape(new, params)
    typed = _in_dtype(params, {path for path, _ in nnx.to_flat_state(frozen)}, frozen_dtype)
    typed = _placed(typed, mesh)
    state, frozen = (_placed(shapes, mesh) for shapes in jax.eval_shape(new, typed))
    of_state = jax.tree.map(lambda leaf: leaf.sharding, state)

    def init() -> tuple[TrainState, nnx.State]:
        trained, kept = trainable.split(initial(typed), key)
        trained = meshes.put(trained, of_state.params)
        made = jax.jit(partial(_new, optimizer=optimizer), out_shardings=of_state, donate_argnums=0)
        return made(trained), kept

    return Built(graphdef, trainable, state, frozen, init)


def fresh(make_model: Callable[[], nnx.Module]) -> Initial:
    """Weights drawn on the host, as the model's constructor draws them."""

    def initial(params: nnx.State) -> nnx.State:
        with meshes.unplaced():
            drawn = nnx.state(make_model(), nnx.Param)
        drawn = jax.tree.map(lambda array, leaf: array.astype(leaf.dtype), drawn, params)
        return meshes.put(drawn, jax.tree.map(lambda leaf: leaf.sharding, params))

    return initial


def _in_dtype(params: nnx.State, paths: set[tuple], dtype: str) -> nnx.State:
    """Shapes of parameters, those at `paths` in another type."""
    return nnx.from_flat_state(
        (path, leaf.replace(jax.ShapeDtypeStruct(leaf.shape, dtype)) if path in paths else leaf)
        for path, leaf in nnx.to_flat_state(params)
    )


def _placed(shapes: Any, mesh: Mesh) -> Any:
    """Shapes with the sharding of each array."""
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        shapes,
        meshes.shardings(shapes, mesh),
    )


def _new(trained: nnx.State, optimizer: optax.GradientTransformation) -> TrainState:
    """Before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        params=trained,
        opt_state=optimizer.init(trained),
        ema=jax.tree.map(jnp.copy, trained),
        health=unknown(),
    )
