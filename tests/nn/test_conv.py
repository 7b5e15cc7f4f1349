import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.nn import conv as convs
from vdm_jax.nn.conv import Conv, Downsample, Upsample, depth_to_space, fold, space_to_depth

FORMS = {"cpu": convs.FORMS["cpu"], "patches": convs.conv_patches, "gpu": convs.FORMS["gpu"]}


def reference(x, kernel):
    """XLA's convolution, plain, with its own gradients."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def inputs(key, frame, kernel_size=3, i=5, o=7):
    kx, kw = jax.random.split(key)
    x = jax.random.normal(kx, (2, *frame, i))
    return x, jax.random.normal(kw, (kernel_size, kernel_size, i, o)) / 5


def naive(x, kernel):
    """The definition: a sum over the neighbourhood of every pixel, in float64."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    (f, h, w, _), (kh, kw, _, o) = x.shape, kernel.shape
    padded = np.pad(x, ((0, 0), (kh // 2,) * 2, (kw // 2,) * 2, (0, 0)))
    out = np.zeros((f, h, w, o))
    for r in range(kh):
        for s in range(kw):
            out += padded[:, r : r + h, s : s + w] @ kernel[r, s]
    return out


@pytest.mark.parametrize("frame", [(1, 1), (2, 2), (2, 4), (3, 3), (4, 6)])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_convolution(key, form, frame):
    x, kernel = inputs(key, frame)
    np.testing.assert_allclose(FORMS[form](x, kernel), naive(x, kernel), atol=1e-5)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("frame", [(2, 2), (4, 6), (8, 8)])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_gradient_of_the_convolution(key, form, frame, kernel_size):
    x, kernel = inputs(key, frame, kernel_size)
    wave = jnp.cos(jnp.arange(2 * frame[0] * frame[1] * 7, dtype=jnp.float32))
    wave = wave.reshape(2, *frame, 7)
    got = jax.grad(lambda *a: (FORMS[form](*a) * wave).sum(), (0, 1))(x, kernel)
    wanted = jax.grad(lambda *a: (reference(*a) * wave).sum(), (0, 1))(x, kernel)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_small_frames_avoid_xlas_convolution_on_cpu(key):
    x, kernel = inputs(key, (2, 2))
    assert "convolution" not in jax.jit(convs.conv).lower(x, kernel).as_text()
    x, kernel = inputs(key, (4, 4))
    assert "convolution" in jax.jit(convs.conv).lower(x, kernel).as_text()


def test_conv_adds_its_bias_and_computes_in_its_dtype(key):
    with nnx.use_eager_sharding(False):  # noqa: FBT003
        layer = Conv(5, 7, dtype="bfloat16", rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.arange(7.0)
    x, _ = inputs(key, (4, 4))
    out = layer(x)
    assert out.dtype == jnp.bfloat16
    assert layer.kernel.dtype == jnp.float32
    exact = naive(x, layer.kernel[...]) + np.arange(7.0)
    np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=0.05)


def test_space_to_depth_by_hand_and_back():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    deep = space_to_depth(x, 2)
    np.testing.assert_array_equal(deep[0, 0, 0], [0, 1, 4, 5])
    np.testing.assert_array_equal(deep[0, 1, 0], [8, 9, 12, 13])
    np.testing.assert_array_equal(depth_to_space(deep, 2), x)
    np.testing.assert_array_equal(fold(x[None]), x)


def test_downsample_is_a_strided_convolution(key):
    with nnx.use_eager_sharding(False):  # noqa: FBT003
        layer = Downsample(5, 6, dtype="float32", rngs=nnx.Rngs(0))
    x, _ = inputs(key, (4, 6))
    kernel = layer.linear.kernel[...].reshape(2, 2, 5, 6)
    wanted = jax.lax.conv_general_dilated(
        x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(layer(x), wanted, atol=1e-5)


@pytest.mark.parametrize("frame", [(1, 1), (2, 2), (3, 5), (8, 8)])
def test_upsample_is_a_convolution_of_the_enlarged_frame(key, frame):
    with nnx.use_eager_sharding(False):  # noqa: FBT003
        layer = Upsample(5, 6, dtype="float32", rngs=nnx.Rngs(0))
    layer.conv.bias[...] = jnp.arange(6.0)
    x, _ = inputs(key, frame)
    large = np.repeat(np.repeat(np.asarray(x), 2, axis=1), 2, axis=2)
    wanted = naive(large, layer.conv.kernel[...]) + np.arange(6.0)
    np.testing.assert_allclose(layer(x), wanted, atol=1e-5)
