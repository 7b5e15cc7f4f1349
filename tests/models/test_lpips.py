"""LPIPS equals its published definition, and is a distance."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.lpips import VGG16, LPIPSConfig, RandomLPIPSConfig

SMALL = LPIPSConfig(stages=((8, 8), (12,), (16, 16)))


@pytest.fixture(scope="module")
def small():
    with meshes.unplaced():
        model = SMALL.build(rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    for weight in model.weights:
        weight[...] = jnp.asarray(rng.random(weight.shape, np.float32))
    for stage in model.stages:
        for conv in stage.convs:
            conv.bias[...] = jnp.asarray(0.1 * rng.standard_normal(conv.bias.shape), "float32")
    return model


@pytest.fixture(scope="module")
def distance(small):
    return jax.jit(small)


def pictures(seed, count=2, height=22, width=17):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(-1, 1, (count, height, width, 3)), "float32")


def torch_lpips(model, x, y):
    """Zhang et al.'s definition in torch, in float64, with the weights of `model`."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).double().view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).double().view(1, 3, 1, 1)

    def features(array):
        h = (torch.tensor(np.asarray(array)).double().permute(0, 3, 1, 2) - shift) / scale
        for depth, stage in enumerate(model.stages):
            h = h if depth == 0 else torch.nn.functional.max_pool2d(h, 2)
            for conv in stage.convs:
                kernel = torch.tensor(np.asarray(conv.kernel[...])).double().permute(3, 2, 0, 1)
                bias = torch.tensor(np.asarray(conv.bias[...])).double()
                h = torch.relu(torch.nn.functional.conv2d(h, kernel, bias, padding=1))
            yield h / (torch.sqrt((h**2).sum(1, keepdim=True)) + 1e-10)

    total = torch.zeros(len(x)).double()
    for fx, fy, weight in zip(features(x), features(y), model.weights, strict=True):
        head = torch.tensor(np.asarray(weight[...])).double().view(1, -1, 1, 1)
        total += torch.nn.functional.conv2d((fx - fy) ** 2, head).mean((1, 2, 3))
    return total.numpy()


@pytest.mark.parity
def test_lpips_equals_its_definition(small, distance):
    x, y = pictures(0), pictures(1)
    np.testing.assert_allclose(distance(x, y), torch_lpips(small, x, y), rtol=0, atol=1e-6)


def test_it_is_zero_for_the_same_and_the_same_both_ways(distance):
    x, y = pictures(0), pictures(1)
    np.testing.assert_array_equal(distance(x, x), 0)
    np.testing.assert_allclose(distance(x, y), distance(y, x), rtol=1e-6)
    assert (distance(x, y) > 1e-3).all()


def test_each_frame_is_compared_by_itself(distance):
    x, y = pictures(0), pictures(1)
    got = distance(x, y.at[1].set(x[1]))
    assert got[0] > 0 == got[1]


def test_gradients_are_finite_where_nothing_is_seen(small):
    """Black features have length zero, whose derivative as such is infinite."""
    graphdef, params = nnx.split(small)
    dead = nnx.merge(
        graphdef, jax.tree.map(lambda a: -jnp.abs(a) if a.ndim == 1 else 0 * a, params)
    )
    gradient = jax.jit(jax.grad(lambda x: dead(x, pictures(0, 1, 8, 8)).sum()))
    assert np.isfinite(gradient(jnp.zeros((1, 8, 8, 3)))).all()


def test_vgg16_has_its_published_size():
    model = meshes.build_abstract(lambda: LPIPSConfig().build(rngs=nnx.Rngs(0)))
    sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(model))]
    assert sum(sizes) == 14_714_688 + sum(widths[-1] for widths in VGG16)


def test_what_it_cannot_compare_is_refused(small):
    with pytest.raises(Refusal, match=r"at least 4x4, got \(3, 8\)"):
        small(jnp.zeros((1, 3, 8, 3)), jnp.zeros((1, 3, 8, 3)))
    with pytest.raises(Refusal, match="stages must hold widths"):
        replace(SMALL, stages=((8,), ()))
    assert isinstance(RandomLPIPSConfig(), LPIPSConfig)
