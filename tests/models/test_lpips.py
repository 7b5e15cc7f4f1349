"""LPIPS equals its published definition, and is a distance."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage
import torch
from flax import nnx

from vdm_jax.convert import lpips
from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.lpips import (
    LPIPS_ALEX,
    LPIPS_VGG16,
    VGG16,
    LPIPSConfig,
    RandomLPIPSConfig,
    StageConfig,
)
from vdm_jax.tasks.task import abstract

SMALL = LPIPSConfig(stages=((8, 8), (12,), (16, 16)))


SMALL_ALEX = LPIPSConfig(
    stages=(
        StageConfig(widths=(8,), kernel=11, stride=4, padding=2),
        StageConfig(widths=(12,), kernel=5, padding=2, pool=3),
        StageConfig(widths=(16,), pool=3),
        StageConfig(widths=(10,)),
    )
)


def drawn(config):
    """A model with weights that none of its parts leaves without effect."""
    with meshes.unplaced():
        model = config.build(rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    for weight in model.weights:
        weight[...] = jnp.asarray(rng.random(weight.shape, np.float32))
    for stage in model.stages:
        for conv in stage.convs:
            conv.bias[...] = jnp.asarray(0.1 * rng.standard_normal(conv.bias.shape), "float32")
    return model


@pytest.fixture(scope="module")
def small():
    return drawn(SMALL)


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
            # AlexNet: Krizhevsky 2014, torchvision's; else Simonyan and Zisserman's VGG16
            alex = model.stages[0].convs[0].kernel.shape[0] == 11
            stride, padding = ((4, 2), (1, 2), (1, 1), (1, 1), (1, 1))[depth] if alex else (1, 1)
            if alex and depth in (1, 2):
                h = torch.nn.functional.max_pool2d(h, 3, 2)
            if not alex and depth:
                h = torch.nn.functional.max_pool2d(h, 2)
            for conv in stage.convs:
                kernel = torch.tensor(np.asarray(conv.kernel[...])).double().permute(3, 2, 0, 1)
                bias = torch.tensor(np.asarray(conv.bias[...])).double()
                h = torch.relu(torch.nn.functional.conv2d(h, kernel, bias, stride, padding))
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


@pytest.mark.parity
@pytest.mark.parametrize(("height", "width"), [(31, 31), (64, 47), (33, 90)])
def test_the_form_of_alexnet_equals_its_definition(height, width):
    model = drawn(SMALL_ALEX)
    x, y = pictures(0, 2, height, width), pictures(1, 2, height, width)
    np.testing.assert_allclose(model(x, y), torch_lpips(model, x, y), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("name", ["vgg16", "alex"])
def test_the_published_networks_equal_their_definition_on_photographs(name):
    """Fetches 64 MB: Zhang et al.'s weights, photographs, noise and blur."""
    model = published(lpips.NETWORKS[name])
    photographs = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    sharp = np.stack([photograph[:256, :300] for photograph in photographs]) / 127.5 - 1
    noisy = sharp + 0.1 * np.random.default_rng(0).standard_normal(sharp.shape)
    blurred = skimage.filters.gaussian(sharp, (0, 2, 2, 0))
    for other in (noisy, blurred, sharp[::-1], sharp):
        x, y = jnp.asarray(sharp, "float32"), jnp.asarray(other, "float32")
        got, wanted = jax.jit(model)(x, y), torch_lpips(model, x, y)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
    assert (wanted == 0).all()


def published(network):
    """The module with the weights that the package of them holds."""
    weights = lpips.from_package(network)
    graphdef, params = abstract(network.model)
    filled = [
        (path, leaf.replace(jnp.asarray(weights["/".join(map(str, path))])))
        for path, leaf in nnx.to_flat_state(params)
    ]
    return nnx.merge(graphdef, nnx.from_flat_state(filled)).lpips


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


@pytest.mark.parametrize(
    ("config", "network", "channels"),
    [(LPIPS_VGG16, 14_714_688, 1472), (LPIPS_ALEX, 2_469_696, 1152)],
)
def test_the_networks_have_their_published_size(config, network, channels):
    model = meshes.build_abstract(lambda: config.build(rngs=nnx.Rngs(0)))
    sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(model))]
    assert sum(sizes) == network + channels


def test_a_config_stored_before_stages_could_be_spelled_is_read():
    stored = '{"_type": "vdm_jax.models.lpips:LPIPSConfig", "stages": %s, "dtype": "float32"}'
    assert configs.from_json(stored % json.dumps(VGG16)) == LPIPSConfig() == LPIPS_VGG16
    for config in (LPIPS_VGG16, LPIPS_ALEX, RandomLPIPSConfig(stages=((8,), (8,)))):
        assert configs.from_json(configs.to_json(config)) == config


def test_the_smallest_picture_leaves_one_pixel(small):
    for config, size in ((LPIPS_VGG16, 16), (LPIPS_ALEX, 31), (SMALL, 4), (SMALL_ALEX, 31)):
        assert config.smallest == size
    assert drawn(SMALL_ALEX).features(pictures(0, 1, 31, 31))[-1].shape == (1, 1, 1, 10)


def test_what_it_cannot_compare_is_refused(small):
    with pytest.raises(Refusal, match=r"at least 4x4, got \(3, 8\)"):
        small(jnp.zeros((1, 3, 8, 3)), jnp.zeros((1, 3, 8, 3)))
    for stages in (((8,), ()), ((8, 0),)):
        with pytest.raises(Refusal, match="stages must hold widths"):
            replace(SMALL, stages=stages)
    with pytest.raises(Refusal, match="at least one stage"):
        replace(SMALL, stages=())
    with pytest.raises(Refusal, match="half the kernel"):
        StageConfig(widths=(8,), padding=2)
    with pytest.raises(Refusal, match="at least 1 in"):
        StageConfig(widths=(8,), pool=0)
    assert isinstance(RandomLPIPSConfig(), LPIPSConfig)
