"""Convolutions in space, frames folded into the batch: the 1x3x3 convolution of a video network.

On CPU a 3-D convolution is several times slower than the same one with its frames in the batch.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vdm_jax.nn.platform import for_platform

LECUN = nnx.initializers.lecun_normal()


def conv(x: Float[Array, "f h w i"], kernel: Float[Array, "kh kw i o"]) -> Float[Array, "f h w o"]:
    """Convolution of each frame, zero padded to keep its size (odd kernels)."""
    return for_platform(FORMS)(x, kernel)


def conv_lax(
    x: Float[Array, "f h w i"], kernel: Float[Array, "kh kw i o"]
) -> Float[Array, "f h w o"]:
    """XLA's own convolution."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def conv_patches(
    x: Float[Array, "f h w i"], kernel: Float[Array, "kh kw i o"]
) -> Float[Array, "f h w o"]:
    """Every kh x kw neighbourhood laid out as one row, then one matrix product (im2col)."""
    kh, kw, i, o = kernel.shape
    return _patches(x, kh, kw) @ kernel.reshape(kh * kw * i, o)


def _patches(x, kh, kw):
    _, h, w, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    shifts = [padded[:, r : r + h, s : s + w] for r in range(kh) for s in range(kw)]
    return jnp.concatenate(shifts, axis=-1)


def _conv_cpu(x, kernel):
    """XLA's convolution, but the matrix form for frames smaller than the kernel.

    There XLA's CPU compiler swaps input and kernel and runs a naive loop, 100 times slower.
    """
    _, h, w, _ = x.shape
    kh, kw, _, _ = kernel.shape
    if h * w < kh * kw:
        return conv_patches(x, kernel)
    return conv_lax(x, kernel)


FORMS = {"cpu": _conv_cpu, "gpu": conv_lax, "tpu": conv_lax}


class Conv(nnx.Module):
    """A square convolution of each frame with bias; odd kernel, size kept."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        kernel_init: nnx.Initializer = LECUN,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size, in_channels, out_channels)
        self.dtype = dtype
        self.kernel = nnx.Param(
            kernel_init(rngs.params(), shape), out_sharding=(None, None, "conv_in", "conv_out")
        )
        self.bias = nnx.Param(jnp.zeros(out_channels), out_sharding=("conv_out",))

    def __call__(self, x: Float[Array, "f h w i"]) -> Float[Array, "f h w o"]:
        y = conv(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
        return y + self.bias[...].astype(self.dtype).reshape(1, 1, 1, -1)


def fold(x: Float[Array, "b t h w c"]) -> Float[Array, "b*t h w c"]:
    """The frames of all videos as one batch."""
    return x.reshape(-1, *x.shape[2:])


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
            dtype=dtype,
            rngs=rngs,
            kernel_metadata={"out_sharding": ("conv_in", "conv_out")},
        )

    def __call__(self, x: Float[Array, "f h w i"]) -> Float[Array, "f h//2 w//2 o"]:
        return self.linear(space_to_depth(x, 2))


class Upsample(nnx.Module):
    """Twice the height and width: nearest neighbours, then a 3x3 convolution."""

    def __init__(self, in_channels: int, out_channels: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.conv = Conv(in_channels, out_channels, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "f h w i"]) -> Float[Array, "f h*2 w*2 o"]:
        return self.conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))
