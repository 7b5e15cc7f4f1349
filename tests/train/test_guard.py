"""Spikes are told from the usual noise, and going back to a checkpoint has an end."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vdm_jax.adapters.trainable import EVERYTHING
from vdm_jax.core import mesh as meshes
from vdm_jax.core.checkpoint import Checkpoints
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.train import state as states
from vdm_jax.train.guard import LEAST, WINDOW, Guard, judged, unknown
from vdm_jax.train.rollback import META, Rollback

judge = jax.jit(lambda health, loss, norm: judged(Guard(), health, loss, norm, jnp.isfinite(loss)))


def after(losses, norms, health=None):
    """(whether each step was good, the health at the end)."""
    goods, health = [], unknown() if health is None else health
    for loss, norm in zip(losses, norms, strict=True):
        good, health = judge(health, jnp.float32(loss), jnp.float32(norm))
        goods.append(bool(good))
    return goods, health


def noisy(count, spread, seed=0):
    """Losses that differ by factors, as those of diffusion at small batches do."""
    return np.exp(spread * np.random.default_rng(seed).normal(size=count)).astype("f")


@pytest.mark.parametrize("spread", [0.02, 0.3, 1.0])
def test_noise_passes_and_spikes_do_not(spread):
    losses, norms = noisy(400, spread), noisy(400, spread, 1)
    goods, health = after(losses, norms)
    assert all(goods)
    median = float(np.median(losses[-WINDOW:]))
    factor = {0.02: 3, 0.3: 30, 1.0: 3000}[spread]
    for loss, norm in ((factor * median, 1.0), (1.0, factor * median), (1e6, 1e6)):
        (good,), skipped = after([loss], [norm], health)
        assert not good and int(skipped.bad_in_a_row) == 1
        np.testing.assert_array_equal(skipped.recent, health.recent)
    (good,), _ = after([1e-6], [1e-6], health)
    assert good  # however low


def test_losses_that_change_sign_are_judged_alike():
    losses = np.random.default_rng(0).normal(size=200).astype("f") - 0.2
    goods, health = after(losses, np.ones(200, "f"))
    assert all(goods)
    assert after([1e4], [1.0], health)[0] == [False]


def test_what_falls_or_grows_slowly_is_no_spike_and_what_never_changes_may_double():
    steps = np.arange(300)
    for curve in (100 * np.exp(-steps / 30), np.exp(steps / 60), np.ones(300)):
        assert all(after(curve, curve)[0])
    _, health = after(np.ones(100), np.ones(100))
    assert after([1.9], [1.0], health)[0] == [True]
    assert after([2.5], [1.0], health)[0] == [False]


def test_nothing_is_a_spike_before_the_usual_is_known():
    goods, health = after([1.0] * (LEAST - 1) + [1e6], np.ones(LEAST))
    assert all(goods) and int(health.known) == LEAST


def test_what_is_not_finite_is_counted_and_does_not_count_as_usual():
    _, health = after(np.ones(50), np.ones(50))
    goods, bad = after([np.nan, np.inf, np.nan], np.ones(3), health)
    assert goods == [False] * 3 and int(bad.bad_in_a_row) == 3
    assert np.isfinite(bad.recent).all() and int(bad.known) == 50
    assert int(after([1.0], [1.0], bad)[1].bad_in_a_row) == 0


@pytest.mark.parametrize("options", [{"deviations": 0.0}, {"patience": 0}])
def test_a_guard_that_lets_nothing_pass_is_refused(options):
    with pytest.raises(Refusal, match="guard"):
        Guard(**options)


# ---- Going back ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built():
    make = lambda: nnx.Linear(3, 2, rngs=nnx.Rngs(0))  # noqa: E731
    parts = nnx.split(meshes.build_abstract(make), nnx.Param)
    optimizer = optax.adamw(1e-2)
    return states.build(parts, EVERYTHING, optimizer, MeshConfig().build(), states.fresh(make))


@pytest.fixture
def checkpoints(tmp_path, built):
    """Of steps 10, 20 and 30, each with weights of its own; 2 steps were skipped before 10."""
    with Checkpoints(tmp_path) as checkpoints:
        for step in (10, 20, 30):
            checkpoints.save(step, state_at(built, step), {})
        checkpoints.wait()
        yield checkpoints


def state_at(built, step):
    state, _ = built.init()
    place = lambda n: meshes.put(np.int32(n), built.abstract.step.sharding)  # noqa: E731
    params = jax.tree.map(lambda x: x * 0 + step, state.params)
    health = state.health._replace(known=place(50))
    return state._replace(step=place(step), skipped=place(2), params=params, health=health)


def gone_back(rollback, step, bad):
    assert rollback.due({"bad_in_a_row": jnp.int32(bad)})
    state, to = rollback.back(step)
    assert float(state.params["kernel"][0, 0]) == to
    return state, to


def test_weights_go_back_and_steps_go_on(built, checkpoints):
    rollback = Rollback(Guard(patience=4), checkpoints, built.abstract, None)
    assert not rollback.due(None) and not rollback.due({"bad_in_a_row": jnp.int32(3)})
    assert rollback.meta() == {}
    state, to = gone_back(rollback, step=36, bad=4)
    assert to == 30 and int(state.step) == 36
    assert int(state.skipped) == 2 + 6  # none of the six since then is in the weights
    assert int(state.health.bad_in_a_row) == 0 == int(state.health.known)
    jax.tree.map(lambda x, shape: x.sharding == shape.sharding or pytest.fail("placed otherwise"),
                 state, built.abstract)  # fmt: skip


def test_a_checkpoint_of_the_bad_steps_themselves_is_passed_over(built, checkpoints):
    rollback = Rollback(Guard(patience=4), checkpoints, built.abstract, None)
    assert gone_back(rollback, step=32, bad=4)[1] == 20  # 29 was the first bad one


def test_it_goes_further_back_each_time_until_nothing_is_left(built, checkpoints):
    rollback = Rollback(Guard(patience=4), checkpoints, built.abstract, None)
    assert [gone_back(rollback, step, bad=4)[1] for step in (36, 40, 44)] == [30, 20, 10]
    rollback.due({"bad_in_a_row": jnp.int32(4)})
    with pytest.raises(Refusal, match="4 steps in a row up to step 48 were not finite or far off"):
        rollback.back(48)
    assert checkpoints.steps() == [10, 20, 30]


def test_a_good_checkpoint_since_then_is_gone_back_to_first(built, checkpoints):
    rollback = Rollback(Guard(patience=4), checkpoints, built.abstract, None)
    gone_back(rollback, step=36, bad=4)
    assert rollback.meta()[META] == {"at": 36, "to": 30}
    checkpoints.save(40, state_at(built, 40), {})
    assert gone_back(rollback, step=48, bad=4)[1] == 40


def test_a_run_that_was_killed_goes_back_like_one_that_was_not(built, checkpoints):
    """A checkpoint saved among the bad steps after going back knows where that was."""
    rollback = Rollback(Guard(patience=4), checkpoints, built.abstract, None)
    gone_back(rollback, step=36, bad=4)
    checkpoints.save(38, state_at(built, 38), rollback.meta())
    again = checkpoints.restore(built.abstract)
    assert again.step == 38
    reborn = Rollback(Guard(patience=4), checkpoints, built.abstract, again)
    assert gone_back(rollback, step=40, bad=4)[1] == 20 == gone_back(reborn, step=40, bad=4)[1]


def test_a_run_that_was_killed_when_it_was_due_goes_back_at_once(built, checkpoints):
    state = state_at(built, 36)
    place = lambda x: jax.device_put(jnp.int32(x), state.step.sharding)  # noqa: E731
    state = state._replace(health=state.health._replace(bad_in_a_row=place(4)))
    checkpoints.save(36, state, {})
    reborn = Rollback(Guard(patience=4), checkpoints, built.abstract,
                      checkpoints.restore(built.abstract))  # fmt: skip
    assert reborn.due(None)
    assert reborn.back(36)[1] == 30 and not reborn.due(None)


def test_a_save_that_failed_is_not_taken_for_a_good_checkpoint(built, checkpoints):
    rollback = Rollback(Guard(patience=4), checkpoints, built.abstract, None)
    gone_back(rollback, step=36, bad=4)
    rollback.meta()  # asked for a save of step 40, which the disk did not take
    assert gone_back(rollback, step=48, bad=4)[1] == 20
