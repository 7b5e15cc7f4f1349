"""Convolutions and maxima over frames, rows and columns at once, padded as TensorFlow's "SAME".

SAME: ceil(size / stride) positions along each axis; where an odd number of zeros is needed, the
one more comes last. Maxima pad with -inf. For convolutions of frames by themselves see `nn.conv`.
"""

from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm_jax.nn.conv import Padding, conv, fold
from vdm_jax.nn.platform import for_platform

Three = tuple[int, int, int]
ONE = (1, 1, 1)


def same(size: int, window: int, stride: int) -> tuple[int, int]:
    """Positions added before and after an axis."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def conv3d(
    x: Float[Array, "b t h w i"], kernel: Float[Array, "kt kh kw i o"], stride: Three = ONE
) -> Float[Array, "b T H W o"]:
    """Convolution of each video, padded with zeros."""
    return for_platform(FORMS)(x, kernel, stride)


def conv3d_lax(
    x: Float[Array, "b t h w i"], kernel: Float[Array, "kt kh kw i o"], stride: Three = ONE
) -> Float[Array, "b T H W o"]:
    """XLA's own convolution."""
    return jax.lax.conv_general_dilated(
        x, kernel, stride, "SAME", dimension_numbers=("NTHWC", "THWIO", "NTHWC")
    )


def conv3d_frames_beside(
    x: Float[Array, "b t h w i"], kernel: Float[Array, "kt kh kw i o"], stride: Three = ONE
) -> Float[Array, "b T H W o"]:
    """The frames that the kernel sees beside each other as channels, then a convolution of frames.

    XLA's CPU compiler runs 3-D convolutions at half its speed of 2-D ones, and at a fifth where
    they have a stride.
    """
    kt, kh, kw, i, o = kernel.shape
    step, rows, columns = stride
    if (kt, kh, kw) == stride == ONE:
        return x @ kernel.reshape(i, o)
    assert rows == columns, f"frames are halved evenly here, not by {stride}"
    before, after = same(x.shape[1], kt, step)
    length = -(-x.shape[1] // step)
    padded = jnp.pad(x, ((0, 0), (before, after), (0, 0), (0, 0), (0, 0)))
    reach = (length - 1) * step + 1
    seen = [jax.lax.slice_in_dim(padded, at, at + reach, step, 1) for at in range(kt)]
    flat = kernel.transpose(1, 2, 0, 3, 4).reshape(kh, kw, kt * i, o)
    padding = Padding(*same(x.shape[2], kh, rows), *same(x.shape[3], kw, columns))
    y = conv(fold(jnp.concatenate(seen, -1)), flat, padding, rows)
    return y.reshape(len(x), length, *y.shape[1:])


def max_pool3d(
    x: Float[Array, "b t h w c"], window: Three, stride: Three
) -> Float[Array, "b T H W c"]:
    """The largest of each window, by channel."""
    return for_platform(POOLS)(x, window, stride)


def max_pool3d_lax(
    x: Float[Array, "b t h w c"], window: Three, stride: Three
) -> Float[Array, "b T H W c"]:
    """XLA's own reduction over windows."""
    return jax.lax.reduce_window(
        x, jnp.array(-jnp.inf, x.dtype), jax.lax.max, (1, *window, 1), (1, *stride, 1), "SAME"
    )


def max_pool3d_by_axis(
    x: Float[Array, "b t h w c"], window: Three, stride: Three
) -> Float[Array, "b T H W c"]:
    """One axis after the other, each the largest of a few shifted copies.

    XLA's CPU compiler takes 10 times as long for a window that moves by one; for one that moves by
    two its own is the faster.
    """
    if stride != ONE:
        return max_pool3d_lax(x, window, stride)
    for axis, size in enumerate(window, 1):
        n, edges = x.shape[axis], [(0, 0, 0)] * x.ndim
        edges[axis] = (*same(n, size, 1), 0)
        padded = jax.lax.pad(x, jnp.array(-jnp.inf, x.dtype), edges)
        seen = [jax.lax.slice_in_dim(padded, at, at + n, axis=axis) for at in range(size)]
        x = reduce(jnp.maximum, seen)
    return x


FORMS = {"cpu": conv3d_frames_beside, "gpu": conv3d_lax, "tpu": conv3d_lax}
POOLS = {"cpu": max_pool3d_by_axis, "gpu": max_pool3d_lax, "tpu": max_pool3d_lax}
