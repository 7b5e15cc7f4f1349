"""What training changes and a checkpoint holds."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Int, PyTree

from vdm_jax.core import mesh as meshes
from vdm_jax.tasks.task import VideoModel


class TrainState(NamedTuple):
    """Everything that a step reads and writes; `params`, `ema` and the moments shard alike."""

    step: Int[Array, ""]
    """Steps taken, skipped ones included: it also counts the batches consumed."""
    skipped: Int[Array, ""]
    """Steps whose loss or gradient was not finite, and which therefore changed nothing."""
    params: nnx.State
    """Weights in float32."""
    opt_state: PyTree
    ema: nnx.State
    """Running average of the weights: what is previewed, evaluated and sampled."""


class Built(NamedTuple):
    """A model apart from its arrays."""

    graphdef: nnx.GraphDef[VideoModel]
    abstract: TrainState
    """Shapes and types, with the sharding of each array."""
    init: Callable[[], TrainState]
    """Makes the arrays, each on the devices where it belongs."""


def build(
    make_model: Callable[[], VideoModel], optimizer: optax.GradientTransformation, mesh: Mesh
) -> Built:
    """Prepare a training state over `mesh` without allocating anything yet."""
    graphdef, _ = nnx.split(meshes.build_abstract(make_model), nnx.Param)

    shapes = jax.eval_shape(lambda: _new(_params(make_model), optimizer))
    shardings = meshes.shardings(shapes, mesh)
    abstract = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        shapes,
        shardings,
    )

    def init() -> TrainState:
        params = meshes.put(_params(make_model), shardings.params)
        return jax.jit(partial(_new, optimizer=optimizer), out_shardings=shardings)(params)

    return Built(graphdef, abstract, init)


def _params(make_model: Callable[[], VideoModel]) -> nnx.State:
    with meshes.unplaced():
        return nnx.state(make_model(), nnx.Param)


def _new(params: nnx.State, optimizer: optax.GradientTransformation) -> TrainState:
    """Before the first step."""
    zero = jnp.zeros((), jnp.int32)
    ema = jax.tree.map(jnp.copy, params)
    return TrainState(zero, zero, params, optimizer.init(params), ema)
