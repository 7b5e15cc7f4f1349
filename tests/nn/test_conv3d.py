"""The forms of 3-D convolutions and maxima compute the same, and what torch computes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
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


def torch_edges(x):
    return torch.nn.functional.pad(torch.tensor(x).permute(0, 4, 1, 2, 3), (1,) * 6, "replicate")


def layer(kind, *args):
    with meshes.unplaced():
        made = kind(3, 5, *args, dtype="float32", rngs=nnx.Rngs(0))
    made.kernel[...] = jnp.asarray(drawn(1, *made.kernel.shape), jnp.float32)
    made.bias[...] = jnp.asarray(drawn(2, 5), jnp.float32)
    return made


def channels_last(x):
    return x.permute(0, 2, 3, 4, 1).numpy()


@pytest.mark.parity
@pytest.mark.parametrize("stride", STRIDES)
def test_a_video_shrinks_as_in_torch(stride):
    x = drawn(0, 2, 4, 6, 8, 3).astype("float32")
    made = layer(layers.Shrink3d, stride)
    kernel = torch.tensor(np.asarray(made.kernel[...])).permute(4, 3, 0, 1, 2)
    bias = torch.tensor(np.asarray(made.bias[...]))
    wanted = torch.nn.functional.conv3d(torch_edges(x), kernel, bias, stride=stride)
    got = jax.jit(made)(jnp.asarray(x))
    assert got.shape == (2, 4 // stride[0], 6 // stride[1], 8 // stride[2], 5)
    np.testing.assert_allclose(got, channels_last(wanted), atol=1e-4)


TAPS = {1: [(2, 1, 0)], 2: [(3, 1), (2, 0)]}
"""By stride: which entries of torch's kernel each phase of the result takes of its neighbours."""


@pytest.mark.parity
@pytest.mark.parametrize("stride", STRIDES)
def test_a_video_grows_as_by_torchs_transposed_convolution(stride):
    x = drawn(0, 1, 2, 3, 4, 3).astype("float32")
    made = layer(layers.Grow3d, stride)
    ours = np.asarray(made.kernel[...]).reshape(*made.kernel.shape[:4], *stride, 5)
    theirs = np.zeros((3, 5, *(2 + step for step in stride)), np.float32)
    for phase in np.ndindex(*stride):
        taps = np.ix_(*(TAPS[step][a] for step, a in zip(stride, phase, strict=True)))
        theirs[:, :, *taps] = ours[..., *phase, :].transpose(3, 4, 0, 1, 2)
    wanted = torch.nn.functional.conv_transpose3d(
        torch_edges(x),
        torch.tensor(theirs),
        torch.tensor(np.asarray(made.bias[...])),
        stride=stride,
        padding=tuple(1 + step for step in stride),
    )
    got = jax.jit(made)(jnp.asarray(x))
    assert got.shape == (1, 2 * stride[0], 3 * stride[1], 4 * stride[2], 5)
    np.testing.assert_allclose(got, channels_last(wanted), atol=1e-4)


def test_a_video_of_one_colour_stays_one_at_its_edges():
    still = jnp.ones((1, 4, 4, 4, 3))
    for kind, args in ((layers.Conv3d, ()), (layers.Shrink3d, ((2, 2, 2),))):
        y = layer(kind, *args)(still)
        np.testing.assert_allclose(y, jnp.broadcast_to(y[:, :1, :1, :1], y.shape), atol=1e-5)


def test_a_stride_that_layers_do_not_have_is_refused():
    for kind in (layers.Shrink3d, layers.Grow3d):
        with pytest.raises(Refusal, match=r"a stride of \(4, 2, 2\); each"):
            kind(3, 5, (4, 2, 2), dtype="float32", rngs=nnx.Rngs(0))
