"""Convolutions in space, frames folded into the batch: the 1x3x3 convolution of a video network.

On CPU a 3-D convolution is several times slower than the same one with its frames in the batch.
A convolution in time, 3x1x1, is the one of kernel (3, 1) on videos "b t (h w) c": frames for rows.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vdm_jax.core.mesh import frames_apart, frames_together
from vdm_jax.nn.init import Initializer, lecun_normal
from vdm_jax.nn.platform import for_platform

CACHE = 6 << 20  # bytes of a tile that a CPU works on without going to memory
FEW_PIXELS = 256  # below, sums of kernel entries cost more than they save


class Padding(NamedTuple):
    """Zeros added before and after a frame's rows and columns."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def same(cls, kernel: Float[Array, "kh kw i o"]) -> "Padding":
        """What keeps a frame's size under an odd kernel."""
        kh, kw, _, _ = kernel.shape
        return cls(kh // 2, kh // 2, kw // 2, kw // 2)


def conv(
    x: Float[Array, "f h w i"],
    kernel: Float[Array, "kh kw i o"],
    padding: Padding,
    stride: int = 1,
) -> Float[Array, "f H W o"]:
    """Convolution of each frame, padded with zeros: H = (h + top + bottom - kh) // stride + 1."""
    if stride == 1:
        return for_platform(FORMS)(x, kernel, padding)
    return for_platform(STRIDED)(x, kernel, padding, stride)


def conv_lax(
    x: Float[Array, "f h w i"],
    kernel: Float[Array, "kh kw i o"],
    padding: Padding,
    stride: int = 1,
) -> Float[Array, "f H W o"]:
    """XLA's own convolution."""
    top, bottom, left, right = padding
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((top, bottom), (left, right)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def conv_beside(
    x: Float[Array, "f h w i"], kernel: Float[Array, "kh kw i o"], padding: Padding
) -> Float[Array, "f H W o"]:
    """All pixels that the kernel sees beside each other as channels, then one matrix product.

    On TPU it takes 0.4 of the time of XLA's convolution where the kernel has one column, as in
    time, and makes nothing but copies where it has several. On CPU it suits the smallest frames:
    the kernel is read as it lies, once.
    """
    kh, kw, i, o = kernel.shape
    height, width = _output_size(x, kernel, padding)
    seen = []
    for r in range(kh):
        rows = _shift(x, 1, padding.top - r, height)
        seen += [_shift(rows, 2, padding.left - s, width) for s in range(kw)]
    return jnp.concatenate(seen, -1) @ kernel.reshape(kh * kw * i, o)


def conv_row_more(
    x: Float[Array, "f h w i"], kernel: Float[Array, "kh kw i o"], padding: Padding
) -> Float[Array, "f H W o"]:
    """XLA's convolution with one row more than is wanted.

    XLA's CPU compiler has two libraries for convolutions, and takes the second (Eigen) where a
    frame grows. The first (YNNPACK) runs small kernels on a single core, and others up to 1.4
    times (large kernels on small frames: twice) as long.
    """
    return conv_lax(x, kernel, padding._replace(bottom=padding.bottom + 1))[:, :-1]


def _output_size(x, kernel, padding):
    kh, kw, _, _ = kernel.shape
    height = x.shape[1] + padding.top + padding.bottom - kh + 1
    return height, x.shape[2] + padding.left + padding.right - kw + 1


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_cpu(
    x: Float[Array, "f h w i"], kernel: Float[Array, "kh kw i o"], padding: Padding
) -> Float[Array, "f H W o"]:
    """The form that is fastest for the shape, with a faster kernel gradient than XLA's.

    For frames smaller than the kernel XLA's CPU compiler swaps the two and runs a naive loop, 100
    times slower. Its gradient of the kernel takes 2 to 4 times the forward pass.
    """
    kh, kw, _, _ = kernel.shape
    form = conv_beside if x.shape[1] * x.shape[2] < kh * kw else conv_row_more
    return form(x, kernel, padding)


def _conv_cpu_forward(x, kernel, padding):
    return conv_cpu(x, kernel, padding), (x, kernel)


def _conv_cpu_backward(padding, saved, dy):
    x, kernel = saved
    kh, kw, _, _ = kernel.shape
    top, bottom, left, right = padding
    turned = Padding(kh - 1 - top, kh - 1 - bottom, kw - 1 - left, kw - 1 - right)
    dx = conv_cpu(dy, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), turned)
    return dx, _kernel_gradient(x, dy, kernel, padding)


conv_cpu.defvjp(_conv_cpu_forward, _conv_cpu_backward)


def _kernel_gradient(x, dy, kernel, padding):
    """dK[r, s] = sum over pixels of x[y + r, z + s]^T dy[y, z], as one matrix product.

    Rows of x shifted by every r stand beside each other, columns of dy shifted by every s too:
    the product of the two holds every (r, s), for kh + kw copies instead of the kh * kw of
    im2col. It runs over groups of frames that fit the cache.
    """
    kh, kw, i, o = kernel.shape
    frames, w = x.shape[0], x.shape[2]
    height = dy.shape[1]

    def product(part):
        x, dy = part
        rows = [_shift(x, 1, padding.top - r, height) for r in range(kh)]
        columns = [_shift(dy, 2, s - padding.left, w) for s in range(kw)]
        beside = jnp.concatenate(rows, -1), jnp.concatenate(columns, -1)
        return beside[0].reshape(-1, kh * i).T @ beside[1].reshape(-1, kw * o)

    tile = _frames_per_tile(frames, height * w * (kh * i + kw * o) * x.dtype.itemsize)
    parts = (a.reshape(-1, tile, *a.shape[1:]) for a in (x, dy))
    total = jnp.zeros((kh * i, kw * o), jnp.float32)
    total, _ = jax.lax.scan(lambda sum_, part: (sum_ + product(part), None), total, tuple(parts))
    gradient = total.reshape(kh, i, kw, o).swapaxes(1, 2)
    return gradient.astype(kernel.dtype)


def _shift(a, axis, offset, size):
    """`a` moved by offset along an axis of the new size: zeros come in, the rest falls off."""
    edges = [(0, 0, 0)] * a.ndim
    edges[axis] = (offset, size - a.shape[axis] - offset, 0)
    return jax.lax.pad(a, jnp.zeros((), a.dtype), edges)


def _frames_per_tile(frames, bytes_each):
    """The largest divisor of `frames` whose tile stays within a CPU's cache (at least one)."""
    fits = (n for n in range(frames, 0, -1) if frames % n == 0 and n * bytes_each <= CACHE)
    return next(fits, 1)


def conv_tpu(
    x: Float[Array, "f h w i"], kernel: Float[Array, "kh kw i o"], padding: Padding
) -> Float[Array, "f H W o"]:
    """XLA's own convolution but for kernels of one column."""
    form = conv_beside if kernel.shape[1] == 1 else conv_lax
    return form(x, kernel, padding)


def conv_strided_cpu(
    x: Float[Array, "f h w i"], kernel: Float[Array, "kh kw i o"], padding: Padding, stride: int
) -> Float[Array, "f H W o"]:
    """XLA's own convolution, but for frames smaller than the kernel: see `conv_cpu`."""
    kh, kw, _, _ = kernel.shape
    if x.shape[1] * x.shape[2] < kh * kw:
        return conv_cpu(x, kernel, padding)[:, ::stride, ::stride]
    return conv_lax(x, kernel, padding, stride)


FORMS = {"cpu": conv_cpu, "gpu": conv_lax, "tpu": conv_tpu}
STRIDED = {"cpu": conv_strided_cpu, "gpu": conv_lax, "tpu": conv_lax}


class Conv(nnx.Module):
    """A convolution of each frame with bias.

    kernel_size: rows and columns, or one number for both.
    padding: zeros around a frame; None: what keeps its size under an odd kernel of stride 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int | tuple[int, int] = 3,
        stride: int = 1,
        padding: Padding | None = None,
        kernel_init: Initializer = lecun_normal,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        size = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
        self.stride, self.padding, self.dtype = stride, padding, dtype
        self.kernel = nnx.Param(
            kernel_init(rngs.params(), (*size, in_channels, out_channels)),
            out_sharding=(None, None, "conv_in", "conv_out"),
        )
        self.bias = nnx.Param(jnp.zeros(out_channels), out_sharding=("conv_out",))

    def __call__(self, x: Float[Array, "f h w i"]) -> Float[Array, "f H W o"]:
        kernel = self.kernel[...].astype(self.dtype)
        padding = Padding.same(kernel) if self.padding is None else self.padding
        y = conv(x.astype(self.dtype), kernel, padding, self.stride)
        return y + self.bias[...].astype(self.dtype).reshape(1, 1, 1, -1)


def fold(x: Float[Array, "b t h w c"]) -> Float[Array, "b*t h w c"]:
    """The frames of all videos as one batch."""
    return x.reshape(-1, *x.shape[2:])


def framewise(
    layer: Callable[..., Float[Array, "f *to"]], *videos: Float[Array, "b t *_"]
) -> Float[Array, "b t *to"]:
    """A layer of frames, "f …", on those of each video, wherever on the mesh they lie."""
    y = layer(*(frames_together(video) for video in videos))
    return frames_apart(y, len(videos[0]))


def space_to_depth(
    x: Float[Array, "*batch h w c"], patch: int
) -> Float[Array, "*batch h//{patch} w//{patch} c*{patch}**2"]:
    """Each patch x patch square of pixels becomes the channels of one."""
    return rearrange(x, "... (h p) (w q) c -> ... h w (p q c)", p=patch, q=patch)


def depth_to_space(
    x: Float[Array, "*batch h w c"], patch: int
) -> Float[Array, "*batch h*{patch} w*{patch} c//{patch}**2"]:
    """The inverse of `space_to_depth`."""
    return rearrange(x, "... h w (p q c) -> ... (h p) (w q) c", p=patch, q=patch)


class Downsample(nnx.Module):
    """Half the height and width: a 2x2 convolution of stride 2, which is one matrix product."""

    def __init__(self, in_channels: int, out_channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.linear = nnx.Linear(
            4 * in_channels,
            out_channels,
            kernel_init=lecun_normal,
            dtype=dtype,
            rngs=rngs,
            kernel_metadata={"out_sharding": ("conv_in", "conv_out")},
        )

    def __call__(self, x: Float[Array, "f h w i"]) -> Float[Array, "f h//2 w//2 o"]:
        return self.linear(space_to_depth(x, 2))


class Upsample(nnx.Module):
    """Twice the height and width, or one less: nearest neighbours, then a 3x3 convolution."""

    def __init__(self, in_channels: int, out_channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv = Conv(in_channels, out_channels, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "f h w i"], size: tuple[int, int] | None = None
    ) -> Float[Array, "f H W o"]:
        """The larger frames; `size` is their height and width, each 2n or 2n - 1; None: 2n."""
        f, h, w, i = x.shape
        size = (2 * h, 2 * w) if size is None else size
        if size == (2 * h, 2 * w) and f * h * w >= FEW_PIXELS:
            return self._doubled(x)
        large = jnp.broadcast_to(x[:, :, None, :, None], (f, h, 2, w, 2, i))
        return self.conv(large.reshape(f, 2 * h, 2 * w, i)[:, : size[0], : size[1]])

    def _doubled(self, x: Float[Array, "f h w i"]) -> Float[Array, "f h*2 w*2 o"]:
        """Computed at the small size: 4/9 of the operations, and exact.

        Of the 3x3 pixels that the kernel sees in an enlarged frame only 2x2 differ, so that each
        of the four pixels of a square is a 2x2 convolution with its own sums of kernel entries.
        """
        dtype = self.conv.dtype
        f, h, w, _ = x.shape
        kernels = _kernels_of_square(self.conv.kernel[...].astype(jnp.float32)).astype(dtype)
        o = kernels.shape[-1] // 4
        y = conv(x.astype(dtype), kernels, Padding(1, 1, 1, 1)).reshape(f, h + 1, w + 1, 2, 2, o)
        squares = [[y[:, a : a + h, b : b + w, a, b] for b in (0, 1)] for a in (0, 1)]
        rows = [jnp.stack(pair, axis=3) for pair in squares]  # f h w b o
        y = jnp.stack(rows, axis=2).reshape(f, 2 * h, 2 * w, o)  # f h a w b o
        return y + self.conv.bias[...].astype(dtype).reshape(1, 1, 1, -1)


def _kernels_of_square(kernel: Float[Array, "3 3 i o"]) -> Float[Array, "2 2 i 4*o"]:
    """The 2x2 kernels of the four pixels that each small pixel becomes, side by side."""
    parts = [[_halves(columns) for columns in rows] for rows in _halves(kernel)]  # [a][p][b][q]
    square = [(a, b) for a in (0, 1) for b in (0, 1)]
    beside = [
        [jnp.concatenate([parts[a][p][b][q] for a, b in square], -1) for q in (0, 1)]
        for p in (0, 1)
    ]
    return jnp.stack([jnp.stack(row) for row in beside])


def _halves(kernel):
    """For the first and the second row of a doubled pixel, what the two small rows in reach meet.

    The first row sees the pixel above it and, twice, its own; the second its own and the next.
    """
    above, here, below = kernel
    return (above, here + below), (above + here, below)
