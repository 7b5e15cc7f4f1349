"""The forms of 3-D convolutions and maxima compute the same, and what torch computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vdm_jax.nn import conv3d as layers
from vdm_jax.nn.platform import compiling_for

SHAPES = [(16, 13, 11), (9, 8, 6), (2, 7, 7), (1, 1, 2)]
STRIDES = [(1, 1, 1), (2, 2, 2), (1, 2, 2)]


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def torch_padded(x, window, stride, value=0.0):
    """Padded as TensorFlow's SAME: the smaller half before, the larger after."""
    edges = []
    for n, size, step in zip(x.shape[1:4], window, stride, strict=True):
        total = max((int(np.ceil(n / step)) - 1) * step + size - n, 0)
        edges = [total // 2, total - total // 2, *edges]
    x = torch.tensor(x).permute(0, 4, 1, 2, 3)
    return torch.nn.functional.pad(x, edges, value=value)


def forms(table):
    return sorted({*table.values()}, key=lambda form: form.__name__)


@pytest.mark.parity
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("window", [3, 7])
@pytest.mark.parametrize("form", forms(layers.FORMS), ids=lambda form: form.__name__)
def test_convolutions_equal_torch(form, window, size, stride):
    x, kernel = drawn(0, 2, *size, 4), drawn(1, window, window, window, 4, 5)
    padded = torch_padded(x, (window,) * 3, stride)
    wanted = torch.nn.functional.conv3d(
        padded, torch.tensor(kernel).permute(4, 3, 0, 1, 2), stride=stride
    )
    got = jax.jit(form, static_argnums=2)(jnp.asarray(x), jnp.asarray(kernel), stride)
    wanted = wanted.permute(0, 2, 3, 4, 1).numpy()
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parity
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("window", [(3, 3, 3), (1, 3, 3), (2, 2, 2)])
@pytest.mark.parametrize("form", forms(layers.POOLS), ids=lambda form: form.__name__)
def test_maxima_equal_torch_below_zero_too(form, window, size, stride):
    x = drawn(0, 2, *size, 3) - 10  # zeros at the edges would win
    wanted = torch.nn.functional.max_pool3d(
        torch_padded(x, window, stride, -torch.inf), window, stride
    )
    got = jax.jit(form, static_argnums=(1, 2))(jnp.asarray(x), window, stride)
    wanted = wanted.permute(0, 2, 3, 4, 1).numpy().astype("float32")
    np.testing.assert_array_equal(got, wanted)


def test_a_point_is_a_matrix_product():
    x, kernel = jnp.asarray(drawn(0, 1, 2, 3, 4, 5)), jnp.asarray(drawn(1, 1, 1, 1, 5, 6))
    np.testing.assert_allclose(layers.conv3d(x, kernel), x @ kernel[0, 0, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_every_platform_has_a_form_of_each(platform):
    x, kernel = jnp.zeros((1, 4, 6, 6, 2)), jnp.zeros((3, 3, 3, 2, 3))
    with compiling_for(platform):
        assert jax.eval_shape(lambda x: layers.conv3d(x, kernel), x).shape == (1, 4, 6, 6, 3)
        assert jax.eval_shape(lambda x: layers.max_pool3d(x, (3, 3, 3), (2, 2, 2)), x).shape == (
            1,
            2,
            3,
            3,
            2,
        )
