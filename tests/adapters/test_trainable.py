"""Parameters come apart and together again, and only what was asked for is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.adapters.lora import TIME_ATTENTION, LoRA, LoRAParam
from vdm_jax.adapters.trainable import EVERYTHING, TIME_LAYERS, Selected, dotted
from vdm_jax.core.mesh import unplaced
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.svd_unet import SVD, SVD_TINY
from vdm_jax.models.vae import SVD_VAE
from vdm_jax.tasks.task import ModelConfig, abstract


@pytest.fixture(scope="module")
def params():
    """Of a small network, every one drawn, as in a model with nothing else."""
    with unplaced():
        drawn = nnx.state(ModelConfig(SVD_TINY).build(rngs=nnx.Rngs(0)), nnx.Param)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: a + jnp.asarray(rng.normal(size=a.shape), a.dtype), drawn)


def leaves(state):
    return {dotted(path): np.asarray(leaf.get_value()) for path, leaf in nnx.to_flat_state(state)}


@pytest.mark.parametrize("trainable", [EVERYTHING, TIME_LAYERS, LoRA(2)], ids=str)
def test_what_comes_apart_is_whole_again(params, trainable):
    trained, frozen = trainable.split(params, jax.random.key(0))
    assert len(jax.tree.leaves(trained)) > 0
    joined = trainable.join(trained, frozen)
    assert jax.tree.structure(joined) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, joined, params)


def test_time_layers_are_those_that_one_frame_does_not_need(params):
    trained, frozen = TIME_LAYERS.split(params, jax.random.key(0))
    assert not leaves(trained).keys() & leaves(frozen).keys()
    for name in leaves(trained):
        assert any(part in name for part in (".time.", ".blend.", ".frame_embedding.")), name
    for name in leaves(frozen):
        assert not any(part in name for part in (".time.", ".blend.", ".frame_embedding.")), name


def test_a_pattern_that_is_nowhere_is_refused(params):
    with pytest.raises(Refusal, match=r"nothing in the model is called network\.sideways"):
        Selected(("network.conv_in.*", "network.sideways.*")).split(params, jax.random.key(0))


def test_lora_adds_the_scaled_product_to_its_kernels_and_to_nothing_else(params):
    lora = LoRA(rank=3, alpha=6.0, targets=TIME_ATTENTION)
    trained, frozen = lora.split(params, jax.random.key(0))
    rng = np.random.default_rng(1)
    trained = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), trained)
    before, factors, after = leaves(params), leaves(trained), leaves(lora.join(trained, frozen))
    changed = {name.removesuffix(".a") for name in factors if name.endswith(".a")}
    assert changed and all(".time." in name and ".to_" in name for name in changed)
    for name, weight in before.items():
        if name not in changed:
            np.testing.assert_array_equal(after[name], weight)
            continue
        inward = 2 if "to_out" in name else 1
        matrix = weight.reshape(int(np.prod(weight.shape[:inward])), -1).astype(np.float64)
        wanted = matrix + 2.0 * factors[name + ".a"].astype(np.float64) @ factors[name + ".b"]
        np.testing.assert_allclose(after[name].reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-4)


def test_lora_is_not_a_weight_and_keeps_the_type_of_the_weights(params):
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    trained, frozen = LoRA(2).split(half, jax.random.key(0))
    kinds = {type(leaf) for _, leaf in nnx.to_flat_state(trained)}
    assert kinds == {LoRAParam} and not issubclass(LoRAParam, nnx.Param)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(trained)} == {"float32"}
    joined = LoRA(2).join(trained, frozen)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(joined)} == {"bfloat16"}


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        (lambda: LoRA(0), "rank must be at least 1"),
        (lambda: LoRA(4096), "no low rank"),
        (lambda: LoRA(2, targets=("network.conv_in.*",)), "LoRA changes matrices"),
    ],
)
def test_what_lora_cannot_change_is_refused(params, lora, words):
    with pytest.raises(Refusal, match=words):
        lora().split(params, jax.random.key(0))


def test_the_published_network_is_adapted_by_less_than_two_percent():
    _, params = abstract(ModelConfig(SVD, vae=SVD_VAE))
    count = lambda state: sum(leaf.size for leaf in jax.tree.leaves(state))  # noqa: E731
    trained = jax.eval_shape(lambda p: LoRA(16).split(p, jax.random.key(0))[0], params)
    assert 0.003 < count(trained) / count(params) < 0.02
