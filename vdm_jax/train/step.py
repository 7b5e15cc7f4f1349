"""One update of the weights, as one compiled function."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Num

from vdm_jax.train.guard import Guard, judged
from vdm_jax.train.state import TrainState

Arrays = dict[str, Array]
Scalars = dict[str, Num[Array, ""]]
LossFn = Callable[[Any, Arrays, Array], tuple[Float[Array, ""], Scalars]]
ModelFn = Callable[[nnx.State, nnx.State], Any]
"""(trained, frozen) -> the model with these weights."""
StepFn = Callable[[TrainState, nnx.State, Arrays, Array], tuple[TrainState, Scalars]]


def update(
    model: ModelFn,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float,
    accumulate: int,
    guard: Guard = Guard(),  # noqa: B008 - it is frozen
) -> StepFn:
    """A pure function (state, frozen, batch, key) -> (state, scalars).

    The loss finds the number of steps that were taken in the batch, as "step".
    The batch is cut into `accumulate` equal parts whose gradients are averaged. When the loss or
    the gradient is not finite, or a spike to `guard`, weights, moments and average keep their old
    values bit by bit: a `where`, because multiplying by zero would let a NaN through.
    """

    def gradients(state: TrainState, frozen: nnx.State, batch: Arrays, key: Array) -> Any:
        def loss_of(params: nnx.State) -> tuple[Float[Array, ""], Scalars]:
            return loss_fn(model(params, frozen), {**batch, "step": state.step}, key)

        return jax.value_and_grad(loss_of, has_aux=True)(state.params)

    def accumulated(state: TrainState, frozen: nnx.State, batch: Arrays, key: Array) -> Any:
        if accumulate == 1:
            return gradients(state, frozen, batch, key)
        parts = jax.tree.map(lambda rows: _cut(rows, accumulate), batch)
        keys = jax.random.split(key, accumulate)
        first = gradients(state, frozen, jax.tree.map(lambda rows: rows[0], parts), keys[0])

        def add(total: Any, part: tuple[Arrays, Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradients(state, frozen, *part)), None

        rest = jax.tree.map(lambda rows: rows[1:], (parts, keys))
        total, _ = jax.lax.scan(add, first, rest)
        return jax.tree.map(lambda x: x / accumulate, total)

    def step(
        state: TrainState, frozen: nnx.State, batch: Arrays, key: Array
    ) -> tuple[TrainState, Scalars]:
        key = jax.random.fold_in(key, state.step)
        (loss, scalars), grads = accumulated(state, frozen, batch, key)
        norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = _warmed_up(ema_decay, state.step)
        ema = jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), state.ema, params)

        finite = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(updates))
        good, health = judged(guard, state.health, loss, norm, finite)
        keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)  # noqa: E731
        state = TrainState(
            step=state.step + 1,
            skipped=state.skipped + jnp.where(good, 0, 1),
            params=keep(params, state.params),
            opt_state=keep(opt_state, state.opt_state),
            ema=keep(ema, state.ema),
            health=health,
        )
        told = {"loss": loss, "grad_norm": norm, "skipped": state.skipped}
        return state, {**told, "bad_in_a_row": health.bad_in_a_row, **scalars}

    return step


def _cut(rows: Array, parts: int) -> Array:
    """Rows "b ..." as "parts b/parts ...", each part taking rows from every device's share."""
    return jnp.moveaxis(rows.reshape(-1, parts, *rows.shape[1:]), 1, 0)


def _warmed_up(decay: float, step: Int[Array, ""]) -> Float[Array, ""]:
    """A shorter average at first, so that short runs forget their initial weights."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))
