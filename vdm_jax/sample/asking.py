"""A drawing that asks, before each evaluation of the network, whether to go on.

The answer comes from the host, into the compiled program. Where it is no, the network is skipped
from then on, and so is decoding: what is left of the program takes milliseconds, and what it
returns is meaningless. Only the network stands in the branch, not the arithmetic around it, so a
drawing that goes on has the bits of one that asks nothing.

What is relied on: the host is asked once for all devices of a process, and XLA hands the answer to
all of them, so that they take the same branch. Several processes would be asked one by one: they
must answer alike. The question takes a number of the noisy video with it, so that it is not asked
before the evaluation is over that the video came from. The host must not call JAX to answer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jaxtyping import Array, Bool, Float, PyTree

from vdm_jax.nn.pieces import OfFrames, Pieces
from vdm_jax.tasks.task import Task, VideoModel

Ask = Callable[[], bool]
"""Whether to go on; called in a thread of the program's."""


class AskingNetwork:
    """A network that answers zeros where the host says no."""

    def __init__(self, ask: Ask, network: Any):
        self.config = network.config
        self._ask, self._network = ask, network

    def __call__(
        self, z: Float[Array, "b t h w c"], c_noise: Float[Array, "b t"], cond: PyTree
    ) -> Array:
        return _unless(self._ask, lambda z: self._network(z, c_noise, cond), z)


@dataclass(frozen=True)
class AskingPieces:
    """Decodes as `pieces` does, but to zeros where the host says no."""

    ask: Ask
    pieces: Pieces

    def __call__(self, function: OfFrames) -> OfFrames:
        return lambda x: _unless(self.ask, self.pieces(function), x)


def asking_model(ask: Ask, model: VideoModel) -> VideoModel:
    """`model`, changed: its network asks."""
    model.network = AskingNetwork(ask, model.network)
    return model


def asking_task(ask: Ask, task: Any) -> Task:
    """The task; asks before it decodes, where it does."""
    decoding = getattr(task, "decoding", None)
    return task if decoding is None else replace(task, decoding=AskingPieces(ask, decoding))


def _unless(ask: Ask, function: OfFrames, x: Array) -> PyTree:
    """The function of x, or zeros of its shape where the host says no."""
    shapes = jax.eval_shape(function, x)

    def nothing(x: Array) -> PyTree:
        del x
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    return jax.lax.cond(_answer(ask, x), function, nothing, x)


def _answer(ask: Ask, x: Array) -> Bool[Array, ""]:
    def answer(value: Any) -> Any:
        del value  # taken only so that the question waits for it
        return np.bool_(ask())

    first = jax.lax.slice(x, (0,) * x.ndim, (1,) * x.ndim).reshape(())
    return io_callback(answer, jax.ShapeDtypeStruct((), jnp.bool_), first)
