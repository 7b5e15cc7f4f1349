"""Transformer blocks over the pixels of each frame, and over the frames of each pixel.

The layers of Stable Diffusion's attention blocks: pre-norm, biasless projections to query, key
and value, a gated feed-forward layer. A block works on "b r s c": attention is among the s
positions of each of r sequences, and a video's r * s positions all look at the same context.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vdm_jax.nn.attention import TILING, attend, frames_first, pixels_first
from vdm_jax.nn.conv import framewise
from vdm_jax.nn.embed import EmbeddingMLP, timestep_embedding
from vdm_jax.nn.init import lecun_normal
from vdm_jax.nn.norm import GroupNorm
from vdm_jax.nn.platform import for_platform
from vdm_jax.nn.remat import KEEP_ALL, Remat
from vdm_jax.nn.resblock import Blend

EXPANSION = 4  # width of a feed-forward layer's hidden features, in widths of the input
LAYER_NORM_EPS = 1e-5
HELD = 16 << 20  # bytes that a layer holds on CPU before it works on a few sequences at a time


class Attention(nnx.Module):
    """Multi-head attention of positions to a context; Vaswani et al. 2017, section 3.2.

    A context of one token has nothing to choose from: every weight is 1, and each position
    receives that token's value, to_out(to_v(context)). Then queries and keys are not computed,
    and their parameters have no gradient.
    """

    def __init__(
        self,
        query_width: int,
        context_width: int,
        heads: int,
        head_size: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        def split(width: int) -> nnx.LinearGeneral:
            return nnx.LinearGeneral(
                width,
                (heads, head_size),
                use_bias=False,
                kernel_init=lecun_normal,
                dtype=dtype,
                rngs=rngs,
                kernel_metadata={"out_sharding": ("embed", "heads", None)},
            )

        self.to_q = split(query_width)
        self.to_k = split(context_width)
        self.to_v = split(context_width)
        self.to_out = nnx.LinearGeneral(
            (heads, head_size),
            query_width,
            axis=(-2, -1),
            kernel_init=lecun_normal,
            dtype=dtype,
            rngs=rngs,
            kernel_metadata={"out_sharding": ("heads", None, "embed")},
        )

    def __call__(
        self, x: Float[Array, "*batch q i"], context: Float[Array, "*batch s d"]
    ) -> Float[Array, "*batch #q i"]:
        """What each position receives; with one token of context, a single row for all."""
        if context.shape[-2] == 1:
            return self.to_out(self.to_v(context))
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        mixed = attend(*(jnp.swapaxes(a, -3, -2) for a in (q, k, v)))
        return self.to_out(jnp.swapaxes(mixed, -3, -2))


class FeedForward(nnx.Module):
    """GEGLU: one half of a projection times the gelu of the other (Shazeer 2020, equation 6)."""

    def __init__(self, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        hidden = EXPANSION * width
        self.proj = nnx.Linear(
            width,
            2 * hidden,
            kernel_init=lecun_normal,
            dtype=dtype,
            rngs=rngs,
            kernel_metadata={"out_sharding": ("embed", "mlp")},
        )
        self.out = nnx.Linear(
            hidden,
            width,
            kernel_init=lecun_normal,
            dtype=dtype,
            rngs=rngs,
            kernel_metadata={"out_sharding": ("mlp", "embed")},
        )

    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        value, gate = for_platform(HALVES)(self.proj, x)
        return self.out(value * jax.nn.gelu(gate, approximate=False))


def split_after(linear, x):
    """Both halves of linear(x) by one matrix product."""
    return tuple(jnp.split(linear(x), 2, axis=-1))


def split_before(linear, x):
    """By one matrix product each: XLA's CPU compiler is slow to read halves of rows.

    It copies the halves of the kernel, so that this pays where x is larger.
    """
    kernel, bias = linear.kernel[...].astype(linear.dtype), linear.bias[...].astype(linear.dtype)
    if kernel.size > x.size:
        return split_after(linear, x)
    x, bias = x.astype(linear.dtype), bias.reshape((1,) * (x.ndim - 1) + (-1,))
    halves = zip(jnp.split(kernel, 2, axis=-1), jnp.split(bias, 2, axis=-1), strict=True)
    value, gate = (x @ k + b for k, b in halves)
    return value, gate


HALVES = {"cpu": split_before, "gpu": split_after, "tpu": split_after}


class SpaceBlock(nnx.Module):
    """Self-attention, attention to the context, feed-forward; each of the normed input, added."""

    def __init__(
        self,
        width: int,
        context_width: int,
        heads: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        sizes = {"dtype": dtype, "rngs": rngs}
        self.norm1 = _layer_norm(width, **sizes)
        self.attn1 = Attention(width, width, heads, width // heads, **sizes)
        self.norm2 = _layer_norm(width, **sizes)
        self.attn2 = Attention(width, context_width, heads, width // heads, **sizes)
        self.norm3 = _layer_norm(width, **sizes)
        self.ff = FeedForward(width, **sizes)

    def __call__(
        self, x: Float[Array, "b r s c"], context: Float[Array, "b l d"]
    ) -> Float[Array, "b r s c"]:
        b, r, s, c = x.shape
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed)
        flat = self.norm2(x).reshape(b, r * s, c)
        received = self.attn2(flat, context)
        x = x + received.reshape(b, *((1, 1) if received.shape[1] == 1 else (r, s)), c)
        return _added(self.ff, self.norm3, x)


class TimeBlock(SpaceBlock):
    """A `SpaceBlock` with one more feed-forward layer in front."""

    def __init__(
        self,
        width: int,
        context_width: int,
        heads: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        super().__init__(width, context_width, heads, dtype=dtype, rngs=rngs)
        self.norm_in = _layer_norm(width, dtype=dtype, rngs=rngs)
        self.ff_in = FeedForward(width, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b r s c"], context: Float[Array, "b l d"]
    ) -> Float[Array, "b r s c"]:
        return super().__call__(_added(self.ff_in, self.norm_in, x), context)


def _added(layer, norm, x):
    """x + layer(norm(x)) for a feed-forward layer; on CPU for a few sequences "s c" at a time."""
    hidden = 3 * EXPANSION * x.shape[2] * x.shape[3]  # both halves and their product
    added = lambda x, _: x + layer(norm(x))  # noqa: E731
    return for_platform(TILING)(added, x, None, 4 * hidden, HELD)


def _layer_norm(width, *, dtype, rngs):
    """Two passes over the features: no cancellation."""
    return nnx.LayerNorm(
        width, epsilon=LAYER_NORM_EPS, use_fast_variance=False, dtype=dtype, rngs=rngs
    )


class SpaceTransformer(nnx.Module):
    """`layers` blocks over each frame.

    The last projection starts at zero, so that a new transformer passes its input through.
    """

    def __init__(
        self,
        width: int,
        context_width: int,
        heads: int,
        *,
        layers: int,
        groups: int,
        eps: float,
        remat: Remat = KEEP_ALL,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        def linear(init):
            axes = {"out_sharding": ("embed", "mlp")}
            return nnx.Linear(
                width, width, kernel_init=init, dtype=dtype, rngs=rngs, kernel_metadata=axes
            )

        sizes = (width, context_width, heads)
        self.remat = remat
        self.norm = GroupNorm(width, groups, eps=eps, rngs=rngs)
        self.proj_in = linear(lecun_normal)
        self.space = nnx.List(SpaceBlock(*sizes, dtype=dtype, rngs=rngs) for _ in range(layers))
        self.proj_out = linear(nnx.initializers.zeros)

    def __call__(
        self,
        x: Float[Array, "b t h w c"],
        context: Float[Array, "b l d"],
        image_only: Bool[Array, "b t"] | None,
    ) -> Float[Array, "b t h w c"]:
        """image_only: without meaning here, where every frame is by itself."""
        del image_only
        hidden = self._entered(x)
        for space in self.space:
            hidden = self.remat.layer(space.__call__)(hidden, context)
        return x + self.proj_out(hidden).reshape(x.shape)

    def _entered(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t p c"]:
        b, t, h, w, c = x.shape
        return self.proj_in(framewise(self.norm, x).reshape(b, t, h * w, c))


class SpaceTimeTransformer(SpaceTransformer):
    """Blocks over each frame, each followed by one over each pixel's frames and their blend.

    The blocks in time are told the index of each frame. `layers`: how many pairs there are.
    """

    def __init__(
        self,
        width: int,
        context_width: int,
        heads: int,
        *,
        layers: int,
        groups: int,
        eps: float,
        remat: Remat = KEEP_ALL,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        sizes, block = (width, context_width, heads), {"dtype": dtype, "rngs": rngs}
        super().__init__(*sizes, layers=layers, groups=groups, eps=eps, remat=remat, **block)
        self.frame_embedding = EmbeddingMLP(width, 4 * width, width, dtype="float32", rngs=rngs)
        self.time = nnx.List(TimeBlock(*sizes, **block) for _ in range(layers))
        self.blend = Blend()

    def __call__(
        self,
        x: Float[Array, "b t h w c"],
        context: Float[Array, "b l d"],
        image_only: Bool[Array, "b t"] | None,
    ) -> Float[Array, "b t h w c"]:
        t, c = x.shape[1], x.shape[-1]
        hidden = self._entered(x)
        index = self.frame_embedding(timestep_embedding(jnp.arange(t, dtype=jnp.float32), c))
        index = index.reshape(1, t, 1, c).astype(hidden.dtype)
        for space, time in zip(self.space, self.time, strict=True):
            hidden = self.remat.layer(space.__call__)(hidden, context)
            pixels = self.remat.layer(time.__call__)(pixels_first(hidden + index), context)
            hidden = self.blend(hidden, frames_first(pixels), image_only)
        return x + self.proj_out(hidden).reshape(x.shape)
