"""What every config promises: a step that is finite, drawings that follow from their key, ports
that can be hidden, weights that come back to the bit, one compilation for each shape."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.conditioning.drop import null
from vdm_jax.core import config as configs
from vdm_jax.core.checkpoint import load_weights, save_weights
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.cond import Cond
from vdm_jax.sample.generate import Generator
from vdm_jax.tasks.task import Denoising
from vdm_jax.train import begin
from vdm_jax.train.ahead import blank
from vdm_jax.train.step import update

OTHERS = {"curate"}  # trains nothing
QUICK = {"completion"}  # compiled in every run of the tests
FILES = [
    pytest.param(str(path), marks=[] if path.stem in QUICK else [pytest.mark.slow])
    for path in sorted(Path("configs").glob("*.py"))
    if path.stem not in OTHERS
]
PORTS = tuple(field.name for field in fields(Cond))


class Recipe(NamedTuple):
    config: Any
    built: Any
    state: Any
    frozen: Any
    arrays: dict[str, np.ndarray]

    @property
    def params(self):
        return self.built.trainable.join(self.state.params, self.frozen)


@pytest.fixture(scope="module", params=FILES)
def recipe(request) -> Iterator[Recipe]:
    """A config at its smallest, on one device; every weight counts, and random videos."""
    config = configs.load(f"{request.param}:smoke")
    config = replace(config, init_from=None, parts_from=())
    built = begin.build(config, alone())
    state, frozen = built.init()
    keys = iter(jax.random.split(jax.random.key(1), 10_000))

    def moved(leaf):
        noise = 0.1 * jax.random.normal(next(keys), leaf.shape, leaf.dtype)
        return jax.device_put(leaf + noise, leaf.sharding)

    state = state._replace(params=jax.tree.map(moved, state.params))
    rng = np.random.default_rng(0)
    arrays = {name: filled(rng, np.repeat(a, 2, 0)) for name, a in {**blank(config)}.items()}
    text = config.model.text
    if text is not None and "text" in arrays:
        arrays["text"] = np.ones_like(arrays["text"])
        arrays["text"][1] = 2
    arrays["row"] = np.arange(2, dtype=np.int32)
    yield Recipe(config, built, state, frozen, arrays)
    jax.clear_caches()


def alone():
    return MeshConfig().build_on(jax.devices()[:1])


def filled(rng, rows):
    if rows.dtype == np.uint8:
        return rng.integers(0, 256, rows.shape, dtype=np.uint8)
    floating = np.issubdtype(rows.dtype, np.floating)
    return rows + rng.random(rows.shape, np.float32).astype(rows.dtype) if floating else rows


def test_a_step_is_finite_and_compiles_once(recipe):
    config, built = recipe.config, recipe.built
    step = jax.jit(
        update(
            built.model, config.task.loss, config.optim.build(config.steps),
            ema_decay=0.9, accumulate=1,
        ),
        out_shardings=(jax.tree.map(lambda leaf: leaf.sharding, recipe.state), None),
    )  # fmt: skip
    state = recipe.state
    for seed in range(2):
        arrays = {**recipe.arrays}
        arrays["video"] = np.roll(arrays["video"], seed, axis=-2)
        state, told = step(state, recipe.frozen, arrays, jax.random.key(seed))
        assert np.isfinite(told["loss"]) and np.isfinite(told["grad_norm"]) and told["loss"] > 0
    assert step._cache_size() == 1 and state.skipped == 0
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), recipe.state.params, state.params)
    assert all(jax.tree.leaves(moved))


def test_a_drawing_follows_from_its_key_and_compiles_once(recipe):
    run = Generator(recipe.config.task, recipe.config.model, alone(), batch_size=2).run
    first, again, other = (
        np.asarray(run(recipe.params, recipe.arrays, jax.random.key(seed))) for seed in (0, 0, 1)
    )
    assert np.isfinite(first).all() and run._cache_size() == 1
    np.testing.assert_array_equal(first, again)
    if isinstance(recipe.config.task, Denoising):
        assert np.abs(first - other).max() > 1e-3


def test_a_port_at_its_null_says_as_much_as_none(recipe):
    """Whatever stood in it; a network that needs the port says so."""
    task, model = recipe.config.task, nnx.merge(recipe.built.graphdef, recipe.params)
    if not isinstance(task, Denoising):
        pytest.skip("has no ports")
    arrays = {name: jnp.asarray(a) for name, a in recipe.arrays.items()}
    cond = task.condition(model, arrays)
    z = jax.random.normal(jax.random.key(0), task.clean(model, arrays).shape)
    level = jnp.full(z.shape[:2], 0.3)
    answer = jax.jit(lambda cond: model.network(z, level, cond))
    whole = answer(cond)
    for port in PORTS:
        value = getattr(cond, port)
        if not jax.tree.leaves(value):
            continue
        hidden = answer(null(cond, (port,)))
        assert not np.array_equal(whole, hidden)
        try:
            absent = answer(replace(cond, **{port: {} if port == "tokens" else None}))
        except Refusal as refusal:
            assert port in str(refusal) or any(name in str(refusal) for name in cond.tokens)
            continue
        np.testing.assert_allclose(hidden, absent, atol=1e-5)


def test_weights_come_back_to_the_bit(recipe, tmp_path):
    save_weights(tmp_path / "model", "{}", recipe.params)
    back = load_weights(tmp_path / "model", recipe.params)
    jax.tree.map(np.testing.assert_array_equal, recipe.params, back)
