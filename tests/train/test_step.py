"""One update: what is not finite changes nothing, and parts of a batch are worth the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vdm_jax.adapters.trainable import EVERYTHING, Selected
from vdm_jax.core import mesh as meshes
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.train import state as states
from vdm_jax.train.optim import AdamW, ConstantRate, CosineDecay
from vdm_jax.train.step import update

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))


def loss(model, batch, key):
    """A regression without randomness; NaN wherever the data says so."""
    return jnp.mean((model(batch["x"]) - batch["y"]) ** 2), {}


@pytest.fixture
def built():
    return of_linear(EVERYTHING)


def of_linear(trainable):
    make = lambda: nnx.Linear(3, 2, rngs=nnx.Rngs(0))  # noqa: E731
    parts = nnx.split(meshes.build_abstract(make), nnx.Param)
    return states.build(parts, trainable, OPTIMIZER, MeshConfig().build(), states.fresh(make))


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=(8, 3)).astype("f"), "y": rng.normal(size=(8, 2)).astype("f")}


def stepper(built, accumulate=1):
    """(state, batch, key) -> (state, scalars), of a model that is trained whole."""
    step = update(built.model, loss, OPTIMIZER, ema_decay=0.9, accumulate=accumulate)
    return jax.jit(lambda state, batch, key: step(state, nnx.State({}), batch, key))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(built, batch, poison, key):
    step = stepper(built)
    before, _ = step(built.init()[0], batch, key)
    bad = batch | {"y": batch["y"].copy()}
    bad["y"][3, 1] = poison
    after, scalars = step(before, bad, key)
    assert not np.isfinite(scalars["loss"])
    assert int(after.step) == 2 and int(after.skipped) == 1 == int(scalars["skipped"])
    for name in ("params", "opt_state", "ema"):
        jax.tree.map(np.testing.assert_array_equal, getattr(before, name), getattr(after, name))
    healed, scalars = step(after, batch, key)
    assert np.isfinite(scalars["loss"]) and int(healed.skipped) == 1
    assert any(
        (a != b).any()
        for a, b in zip(jax.tree.leaves(healed.params), jax.tree.leaves(after.params), strict=True)
    )


def test_an_update_that_is_not_finite_is_refused_though_loss_and_gradient_are(built, batch, key):
    """A gradient of zero with nothing to divide it by."""
    optimizer = optax.chain(optax.clip(0.0), optax.scale_by_adam(eps=0.0))
    step = jax.jit(update(built.model, loss, optimizer, ema_decay=0.9, accumulate=1))
    before = built.init()[0]
    before = before._replace(opt_state=optimizer.init(before.params))
    after, scalars = step(before, nnx.State({}), batch, key)
    assert np.isfinite(scalars["loss"]) and np.isfinite(scalars["grad_norm"])
    assert int(after.skipped) == 1
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)


def test_accumulated_gradients_are_those_of_the_whole_batch(built, batch, key):
    whole, _ = stepper(built)(built.init()[0], batch, key)
    parts, _ = stepper(built, accumulate=4)(built.init()[0], batch, key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, parts)


def test_the_average_follows_the_weights(built, batch, key):
    """With decay min(0.9, (1 + n) / (10 + n)): 0.1 at the first step, 2/11 at the second."""
    step = stepper(built)
    first = built.init()[0]
    second, _ = step(first, batch, key)
    third, _ = step(second, batch, key)
    kernel = lambda state: np.asarray(state["kernel"][...])  # noqa: E731
    one = 0.1 * kernel(first.params) + 0.9 * kernel(second.params)
    two = 2 / 11 * one + 9 / 11 * kernel(third.params)
    np.testing.assert_allclose(kernel(third.ema), two, rtol=1e-5)


def test_what_is_not_selected_stays_and_has_no_moments(batch, key):
    built = of_linear(Selected(("kernel",)))
    state, frozen = built.init()
    step = jax.jit(update(built.model, loss, OPTIMIZER, ema_decay=0.9, accumulate=1))
    after, _ = step(state, frozen, batch, key)
    assert set(after.params) == set(after.ema) == {"kernel"} and set(frozen) == {"bias"}
    assert (after.params["kernel"][...] != state.params["kernel"][...]).any()
    shapes = {leaf.shape for leaf in jax.tree.leaves(after.opt_state)}
    assert shapes == {(), (3, 2)}


def test_no_warm_up_is_the_peak_from_the_start():
    for decay in (ConstantRate(), CosineDecay()):
        assert AdamW(learning_rate=0.5, warmup_steps=0, decay=decay).rate(10)(0) == 0.5


def test_rates_warm_up_and_decay():
    rate = AdamW(learning_rate=1.0, warmup_steps=10, decay=CosineDecay(0.1)).rate(110)
    np.testing.assert_allclose([rate(0), rate(5), rate(10), rate(60), rate(110)],
                               [0, 0.5, 1, 0.55, 0.1], rtol=1e-6)  # fmt: skip
    constant = AdamW(learning_rate=1.0, warmup_steps=10, decay=ConstantRate()).rate(110)
    assert constant(10) == constant(110) == 1.0
