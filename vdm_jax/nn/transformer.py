"""Transformer blocks over the pixels of each frame, and over the frames of each pixel.

The layers of Stable Diffusion's attention blocks: pre-norm, biasless projections to query, key
and value, a gated feed-forward layer. A block works on "b r s c": attention is among the s
positions of each of r sequences, or as a pattern of `nn.patterns` says. Then each position looks
at a context: one for the whole video, or that of its own frame.
"""

from functools import partial

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
from vdm_jax.nn.patterns import ALL_FRAMES, OWN_FRAME, SpacePattern, TimePattern
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
        self,
        x: Float[Array, "*batch q i"],
        context: Float[Array, "*batch s d"],
        mask: Bool[Array, "*#batch q s"] | None = None,
    ) -> Float[Array, "*batch #q i"]:
        """What each position receives; with one token of context, a single row for all."""
        if context.shape[-2] == 1:
            return self.to_out(self.to_v(context))
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        mixed = attend(*(jnp.swapaxes(a, -3, -2) for a in (q, k, v)), mask=mask)
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
        pattern: SpacePattern = OWN_FRAME,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        sizes = {"dtype": dtype, "rngs": rngs}
        self.pattern = pattern
        self.norm1 = _layer_norm(width, **sizes)
        self.attn1 = Attention(width, width, heads, width // heads, **sizes)
        self.norm2 = _layer_norm(width, **sizes)
        self.attn2 = Attention(width, context_width, heads, width // heads, **sizes)
        self.norm3 = _layer_norm(width, **sizes)
        self.ff = FeedForward(width, **sizes)

    def __call__(
        self,
        x: Float[Array, "b r s c"],
        context: Float[Array, "b f l d"],
        image_only: Bool[Array, "b r"] | None,
    ) -> Float[Array, "b r s c"]:
        """context: f is r, each sequence's own, or 1."""
        return self._layers(x, context, image_only)

    def _layers(self, x, context, image_only):
        x = x + self.pattern(self._looked, self.norm1(x), image_only)
        x = x + self.told(self.norm2(x), context)
        return _added(self.ff, self.norm3, x)

    def _looked(self, x, seen, mask):
        return self.attn1(x, x if seen is None else seen, None if mask is None else mask[:, None])

    def told(
        self, x: Float[Array, "b r s c"], context: Float[Array, "b f l d"]
    ) -> Float[Array, "b #r #s c"]:
        """What the positions receive from the context of their sequence."""
        b, _, _, c = x.shape
        each = self.attn2(x.reshape(b, context.shape[1], -1, c), context)
        return each if each.shape[2] == 1 else each.reshape(x.shape)


class TimeBlock(SpaceBlock):
    """A `SpaceBlock` with one more feed-forward layer in front, over the frames of each pixel."""

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
        self, x: Float[Array, "b r s c"], context: Float[Array, "b g f l d"]
    ) -> Float[Array, "b r s c"]:
        """context: f is s, each frame's own in the g windows of every pixel; or both are 1."""
        return self._layers(_added(self.ff_in, self.norm_in, x), context, None)

    def told(
        self, x: Float[Array, "b r s c"], context: Float[Array, "b g f l d"]
    ) -> Float[Array, "b #r #s c"]:
        """What the positions receive from the context of their frame."""
        b, g, f, *_ = context.shape
        if f == 1:
            return super().told(x, context[:, 0])
        windows = x.reshape(b, -1, g, f, x.shape[-1])
        each = self.attn2(jnp.moveaxis(windows, 1, 3), context)
        return jnp.broadcast_to(jnp.moveaxis(each, 3, 1), windows.shape).reshape(x.shape)


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
        space_pattern: SpacePattern = OWN_FRAME,
        remat: Remat = KEEP_ALL,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        def linear(init):
            axes = {"out_sharding": ("embed", "mlp")}
            return nnx.Linear(
                width, width, kernel_init=init, dtype=dtype, rngs=rngs, kernel_metadata=axes
            )

        block = partial(SpaceBlock, pattern=space_pattern, dtype=dtype, rngs=rngs)
        self.remat = remat
        self.norm = GroupNorm(width, groups, eps=eps, rngs=rngs)
        self.proj_in = linear(lecun_normal)
        self.space = nnx.List(block(width, context_width, heads) for _ in range(layers))
        self.proj_out = linear(nnx.initializers.zeros)

    def __call__(
        self,
        x: Float[Array, "b t h w c"],
        context: Float[Array, "b f l d"],
        image_only: Bool[Array, "b t"] | None,
    ) -> Float[Array, "b t h w c"]:
        """context: f is t, each frame's own, or 1."""
        hidden = self._entered(x)
        for space in self.space:
            hidden = self.remat.layer(space.__call__)(hidden, context, image_only)
        return x + self.proj_out(hidden).reshape(x.shape)

    def _entered(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t p c"]:
        b, t, h, w, c = x.shape
        return self.proj_in(framewise(self.norm, x).reshape(b, t, h * w, c))


class SpaceTimeTransformer(SpaceTransformer):
    """Blocks over each frame, each followed by one over each pixel's frames and their blend.

    The blocks in time are told the index of each frame. `layers`: how many pairs there are. Where
    the pattern in time has windows, a frame's index is that in its window, so that the whole block
    runs in windows.
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
        time_pattern: TimePattern = ALL_FRAMES,
        space_pattern: SpacePattern = OWN_FRAME,
        remat: Remat = KEEP_ALL,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        sizes, block = (width, context_width, heads), {"dtype": dtype, "rngs": rngs}
        parts = {"space_pattern": space_pattern, "remat": remat}
        super().__init__(*sizes, layers=layers, groups=groups, eps=eps, **parts, **block)
        self.pattern = time_pattern
        self.frame_embedding = EmbeddingMLP(width, 4 * width, width, dtype="float32", rngs=rngs)
        self.time = nnx.List(TimeBlock(*sizes, **block) for _ in range(layers))
        self.blend = Blend()

    def __call__(
        self,
        x: Float[Array, "b t h w c"],
        context: Float[Array, "b f l d"],
        image_only: Bool[Array, "b t"] | None,
    ) -> Float[Array, "b t h w c"]:
        """context: f is t, each frame's own, or 1."""
        hidden = self._entered(x)
        index = self._index(x.shape[1], hidden)
        of_frames = jnp.swapaxes(context, 1, 2)[:, None]
        for space, time in zip(self.space, self.time, strict=True):
            hidden = self.remat.layer(space.__call__)(hidden, context, image_only)
            layer = partial(self._in_time, time, index)
            pixels = self.pattern(layer, (pixels_first(hidden), of_frames), None)
            hidden = self.blend(hidden, frames_first(pixels), image_only)
        return x + self.proj_out(hidden).reshape(x.shape)

    def _index(self, num_frames: int, hidden: Float[Array, "b t p c"]) -> Float[Array, "1 1 s c"]:
        """What tells the places of frames in their sequence."""
        places = jnp.arange(self.pattern.span(num_frames), dtype=jnp.float32)
        waves = timestep_embedding(places, hidden.shape[-1])
        return self.frame_embedding(waves)[None, None].astype(hidden.dtype)

    def _in_time(self, time, index, sequences, mask):
        del mask  # of pictures the blend takes nothing
        pixels, context = sequences
        return self.remat.layer(time.__call__)(pixels + index, jnp.swapaxes(context, 2, 3))
