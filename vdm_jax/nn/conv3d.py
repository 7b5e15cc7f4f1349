"""Convolutions and maxima over frames, rows and columns at once.

They pad as TensorFlow's "SAME" does: ceil(size / stride) positions along each axis; where an odd
number of zeros is needed, the one more comes last. Maxima pad with -inf. The layers, `Conv3d`,
`Shrink3d` and `Grow3d`, repeat the edges instead: the ends of a still video are like its middle.
For convolutions of frames by themselves see `nn.conv`.
"""

import math
from functools import reduce
from itertools import product

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.conv import Padding, conv, fold
from vdm_jax.nn.init import Initializer, lecun_normal
from vdm_jax.nn.platform import for_platform

Three = tuple[int, int, int]
ONE = (1, 1, 1)
Zeros = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
NO_ZEROS = ((0, 0), (0, 0), (0, 0))


def same(size: int, window: int, stride: int) -> tuple[int, int]:
    """Positions added before and after an axis."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def conv3d(
    x: Float[Array, "b t h w i"],
    kernel: Float[Array, "kt kh kw i o"],
    stride: Three = ONE,
    zeros: Zeros | None = None,
) -> Float[Array, "b T H W o"]:
    """Convolution of each video.

    zeros: how many come before and after frames, rows and columns; None: those of SAME.
    """
    return for_platform(FORMS)(x, kernel, stride, zeros)


def conv3d_lax(
    x: Float[Array, "b t h w i"],
    kernel: Float[Array, "kt kh kw i o"],
    stride: Three = ONE,
    zeros: Zeros | None = None,
) -> Float[Array, "b T H W o"]:
    """XLA's own convolution."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        stride,
        "SAME" if zeros is None else zeros,
        dimension_numbers=("NTHWC", "THWIO", "NTHWC"),
    )


def conv3d_frames_beside(
    x: Float[Array, "b t h w i"],
    kernel: Float[Array, "kt kh kw i o"],
    stride: Three = ONE,
    zeros: Zeros | None = None,
) -> Float[Array, "b T H W o"]:
    """The frames that the kernel sees beside each other as channels, then a convolution of frames.

    XLA's CPU compiler runs 3-D convolutions at half its speed of 2-D ones, and at a fifth where
    they have a stride.
    """
    kt, kh, kw, i, o = kernel.shape
    step, down, across = stride
    if (kt, kh, kw) == stride == ONE:
        return x @ kernel.reshape(i, o)
    assert down == across, f"frames are halved evenly here, not by {stride}"
    spans = zip(x.shape[1:4], kernel.shape[:3], stride, strict=True)
    around, rows, columns = zeros or (same(*span) for span in spans)
    padded = jnp.pad(x, ((0, 0), around, (0, 0), (0, 0), (0, 0)))
    length = (padded.shape[1] - kt) // step + 1
    reach = (length - 1) * step + 1
    seen = [jax.lax.slice_in_dim(padded, at, at + reach, step, 1) for at in range(kt)]
    flat = kernel.transpose(1, 2, 0, 3, 4).reshape(kh, kw, kt * i, o)
    y = conv(fold(jnp.concatenate(seen, -1)), flat, Padding(*rows, *columns), down)
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


def with_edges(x: Float[Array, "b t h w c"]) -> Float[Array, "b t+2 h+2 w+2 c"]:
    """The first and the last of the frames, of the rows and of the columns once more."""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (1, 1), (0, 0)), "edge")


class _Layer(nnx.Module):
    """A kernel with a bias, whose input is repeated at its edges."""

    def __init__(
        self,
        shape: tuple[int, ...],
        channels: int,
        *,
        kernel_init: Initializer = lecun_normal,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.dtype = dtype
        self.kernel = nnx.Param(
            kernel_init(rngs.params(), shape),
            out_sharding=(None, None, None, "conv_in", "conv_out"),
        )
        self.bias = nnx.Param(jnp.zeros(channels), out_sharding=("conv_out",))

    def _convolved(
        self, x: Float[Array, "b t h w i"], kernel: Float[Array, "kt kh kw i o"]
    ) -> Float[Array, "b T H W o"]:
        return conv3d(x, kernel.astype(self.dtype), ONE, NO_ZEROS)

    def _with_bias(self, y: Float[Array, "b t h w o"]) -> Float[Array, "b t h w o"]:
        return y + self.bias[...].astype(self.dtype).reshape(1, 1, 1, 1, -1)


class Conv3d(_Layer):
    """A convolution of three frames, rows and columns with bias; the size stays."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_init: Initializer = lecun_normal,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        shape = (3, 3, 3, in_channels, out_channels)
        super().__init__(shape, out_channels, kernel_init=kernel_init, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b t h w o"]:
        x = with_edges(x.astype(self.dtype))
        return self._with_bias(self._convolved(x, self.kernel[...]))


class Shrink3d(_Layer):
    """A convolution that halves the axes whose stride is 2; the others have a stride of 1.

    Kernels span 2 + stride positions of an axis. Where all three are halved it is computed as a
    convolution of 2x2x2 blocks of positions, each block a position of eight times the channels,
    which needs no stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: Three,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        _check_stride(stride)
        self.stride = stride
        size = tuple(2 + step for step in stride)
        super().__init__((*size, in_channels, out_channels), out_channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b T H W o"]:
        """Sizes that are halved must be even."""
        a, b, c = self.stride
        blocks = rearrange(
            with_edges(x.astype(self.dtype)),
            "n (t a) (h b) (w c) i -> n t h w (a b c i)", a=a, b=b, c=c,
        )  # fmt: skip
        kernel = rearrange(
            self.kernel[...],
            "(t a) (h b) (w c) i o -> t h w (a b c i) o", a=a, b=b, c=c,
        )  # fmt: skip
        return self._with_bias(self._convolved(blocks, kernel))


class Grow3d(_Layer):
    """A transposed convolution that doubles the axes whose stride is 2; the others have 1.

    Each position becomes a block of up to 2x2x2, and each of a block is a convolution of its own
    of what lies around it in the small video: two positions of a doubled axis, three of another.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: Three,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        _check_stride(stride)
        self.stride = stride
        size = tuple(4 - step for step in stride)
        block = math.prod(stride) * out_channels
        super().__init__((*size, in_channels, block), out_channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b T H W o"]:
        n, t, h, w, _ = x.shape
        a, b, c = self.stride
        y = self._convolved(with_edges(x.astype(self.dtype)), self.kernel[...])
        y = y.reshape(*y.shape[:4], a, b, c, -1)
        places = product(range(a), range(b), range(c))
        each = [y[:, i : i + t, j : j + h, k : k + w, i, j, k] for i, j, k in places]
        whole = jnp.stack(each, 4).reshape(n, t, h, w, a, b, c, -1)
        return self._with_bias(rearrange(whole, "n t h w a b c o -> n (t a) (h b) (w c) o"))


def _check_stride(stride: Three) -> None:
    if not {1, 2}.issuperset(stride):
        raise Refusal(f"a stride of {stride}; each of the three must be 1 or 2")
