import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.nn import conv as convs
from vdm_jax.nn.conv import (
    Conv,
    Downsample,
    Padding,
    Upsample,
    depth_to_space,
    fold,
    space_to_depth,
)

FORMS = {
    "cpu": convs.FORMS["cpu"],
    "row_more": convs.conv_row_more,
    "beside": convs.conv_beside,
    "gpu": convs.FORMS["gpu"],
    "tpu": convs.FORMS["tpu"],
}


def inputs(key, frame, kernel_size=3, i=5, o=7):
    kx, kw = jax.random.split(key)
    size = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
    x = jax.random.normal(kx, (2, *frame, i))
    return x, jax.random.normal(kw, (*size, i, o)) / 5


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


@pytest.mark.parametrize("kernel_size", [3, (3, 1)])
@pytest.mark.parametrize("frame", [(1, 1), (2, 4), (4, 6)])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_convolution(key, form, frame, kernel_size):
    x, kernel = inputs(key, frame, kernel_size)
    got = FORMS[form](x, kernel, Padding.same(kernel))
    np.testing.assert_allclose(got, naive(x, kernel), atol=1e-5)


@pytest.mark.parametrize(
    ("frame", "kernel_size", "padding"),
    [
        ((2, 2), 3, Padding(1, 1, 1, 1)),
        ((4, 6), 3, Padding(1, 1, 1, 1)),
        ((4, 6), 1, Padding(0, 0, 0, 0)),
        ((4, 6), 5, Padding(2, 2, 2, 2)),
        ((1, 1), 2, Padding(1, 1, 1, 1)),
        ((4, 3), 2, Padding(1, 0, 0, 1)),
        ((3, 7), (3, 1), Padding(1, 1, 0, 0)),
    ],
)
@pytest.mark.parametrize("form", ["cpu", "row_more", "beside"])
def test_every_form_has_the_gradient_of_the_convolution(
    key, form, frame, kernel_size, padding, monkeypatch
):
    monkeypatch.setattr(convs, "CACHE", 1)  # a tile a frame: the sum over tiles is tested too
    x, kernel = inputs(key, frame, kernel_size)
    shape = convs.conv_lax(x, kernel, padding).shape
    wave = jnp.cos(jnp.arange(np.prod(shape), dtype=jnp.float32)).reshape(shape)

    def run(form):
        def value(x, kernel):
            y = form(x, kernel, padding)
            return (y * wave).sum(), y

        return jax.jit(jax.grad(value, (0, 1), has_aux=True))(x, kernel)

    got, wanted = jax.tree.leaves(run(FORMS[form])), jax.tree.leaves(run(convs.conv_lax))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    ("shape", "width", "rows"),
    [
        ((2, 2, 2, 5), 7, None),  # smaller than the kernel: no convolution
        ((2, 4, 4, 64), 64, 5),  # others: one row more
        ((16, 16, 16, 128), 128, 17),
    ],
)
def test_every_shape_takes_its_form_on_cpu(shape, width, rows):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, shape[-1], width), jnp.float32)
    text = jax.jit(lambda *a: convs.conv_cpu(*a, Padding(1, 1, 1, 1))).lower(x, kernel).as_text()
    found = [line.split("-> ")[-1] for line in text.splitlines() if "stablehlo.convolution" in line]
    frames, _, across, _ = shape
    wanted = [] if rows is None else [f"tensor<{frames}x{rows}x{across}x{width}xf32>"]
    assert found == wanted


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


@pytest.mark.parametrize("frame", [(1, 1), (2, 3), (5, 8), (6, 6)])
@pytest.mark.parametrize("padding", [Padding(1, 1, 1, 1), Padding(0, 1, 0, 1)])
@pytest.mark.parametrize("form", convs.STRIDED)
def test_every_strided_form_is_every_other_pixel(key, form, padding, frame):
    if min(frame) + padding.top + padding.bottom < 3:
        pytest.skip("the kernel does not fit")
    x, kernel = inputs(key, frame)
    got = convs.STRIDED[form](x, kernel, padding, 2)
    wanted = convs.conv_lax(x, kernel, padding)[:, ::2, ::2]
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_conv_strides_and_pads_as_told(key):
    with nnx.use_eager_sharding(False):  # noqa: FBT003
        around = Padding(0, 1, 0, 1)
        layer = Conv(5, 7, stride=2, padding=around, dtype="float32", rngs=nnx.Rngs(0))
    x, _ = inputs(key, (4, 6))
    after = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    wanted = naive(after, layer.kernel[...])[:, 1::2, 1::2][:, :2, :3]
    np.testing.assert_allclose(layer(x), wanted, atol=1e-5)


def test_a_kernel_of_one_column_convolves_in_time(key):
    """Frames for rows, pixels for columns: the 3x1x1 convolution of a video."""
    with nnx.use_eager_sharding(False):  # noqa: FBT003
        layer = Conv(5, 7, kernel_size=(3, 1), dtype="float32", rngs=nnx.Rngs(0))
    video, _ = inputs(key, (4, 6))  # b t (h w) c
    wanted = jax.lax.conv_general_dilated(
        video.reshape(2, 4, 2, 3, 5),
        layer.kernel[...].reshape(3, 1, 1, 5, 7),
        (1, 1, 1),
        "SAME",
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    np.testing.assert_allclose(layer(video).reshape(wanted.shape), wanted, atol=1e-5)


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
@pytest.mark.parametrize("few", [0, convs.FEW_PIXELS])
def test_upsample_is_a_convolution_of_the_enlarged_frame(key, frame, few, monkeypatch):
    monkeypatch.setattr(convs, "FEW_PIXELS", few)  # at the small size, and at the large one
    with nnx.use_eager_sharding(False):  # noqa: FBT003
        layer = Upsample(5, 6, dtype="float32", rngs=nnx.Rngs(0))
    layer.conv.bias[...] = jnp.arange(6.0)
    x, _ = inputs(key, frame)
    large = np.repeat(np.repeat(np.asarray(x), 2, axis=1), 2, axis=2)
    wanted = naive(large, layer.conv.kernel[...]) + np.arange(6.0)
    np.testing.assert_allclose(layer(x), wanted, atol=1e-5)


@pytest.mark.parametrize("size", [(5, 8), (6, 7), (5, 7)])
def test_upsample_to_an_odd_size_cuts_before_it_convolves(key, size):
    with nnx.use_eager_sharding(False):  # noqa: FBT003
        layer = Upsample(5, 6, dtype="float32", rngs=nnx.Rngs(0))
    x, _ = inputs(key, (3, 4))
    large = np.repeat(np.repeat(np.asarray(x), 2, axis=1), 2, axis=2)[:, : size[0], : size[1]]
    np.testing.assert_allclose(layer(x, size), naive(large, layer.conv.kernel[...]), atol=1e-5)
