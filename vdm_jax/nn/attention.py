"""Attention: one `attend` for every pattern, and the modules that mix space, time and context.

Which axis is the sequence is a module: pixels of a frame (space), frames of a pixel (time), tokens
of a text (pool). Who looks at whom along it is a part, of `nn.patterns`. `attend` has several
formulations with the same value, in `nn.attention_forms`.
"""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, PyTree

from vdm_jax.core.mesh import constrain
from vdm_jax.nn.attention_forms import FORMS
from vdm_jax.nn.conv import framewise
from vdm_jax.nn.init import lecun_normal, normal, truncated
from vdm_jax.nn.norm import GroupNorm
from vdm_jax.nn.patterns import ALL_FRAMES, OWN_FRAME, SpacePattern, TimePattern, joint_mask
from vdm_jax.nn.platform import for_platform

CACHE = 4 << 20  # bytes of a tile that a CPU works on without going to memory
FRAMES_FIRST = ("batch", "frames", "space", None)  # how "b t p c" may lie on a mesh
PIXELS_FIRST = ("batch", "space", None, None)  # and "b p t c"


def attend(
    q: Float[Array, "*batch n q k"],
    k: Float[Array, "*batch n s k"],
    v: Float[Array, "*batch n s k"],
    *,
    bias: Float[Array, "n q s"] | None = None,
    mask: Bool[Array, "*#batch q s"] | None = None,
) -> Float[Array, "*batch n q k"]:
    """softmax(q k^T / sqrt(head size) + bias) v, over the keys that the mask allows.

    `mask` is True where a query may look and broadcasts over the batch; every query must be
    allowed at least one key. A forbidden key has weight exactly zero: it cannot change one bit of
    the result. Vaswani et al. 2017, equation 1. Softmax in float32.
    """
    return for_platform(FORMS)(q, k, v, bias, mask)


def pixels_first(x: Float[Array, "b t p c"]) -> Float[Array, "b p t c"]:
    """Pixels spread over the devices that held the frames: each has its pixels' whole time.

    On a mesh that cuts frames it is one all-to-all exchange, and `frames_first` takes it back.
    Both say how the array lies before and after, so that neither layout spreads to where the
    other belongs.
    """
    return constrain(jnp.swapaxes(constrain(x, FRAMES_FIRST), 1, 2), PIXELS_FIRST)


def frames_first(x: Float[Array, "b p t c"]) -> Float[Array, "b t p c"]:
    """Whole frames again, each on the device that it was on."""
    return constrain(jnp.swapaxes(constrain(x, PIXELS_FIRST), 1, 2), FRAMES_FIRST)


def whole(layer, x, mask, bytes_each, limit):
    """layer(x, mask) on all sequences at once."""
    del bytes_each, limit
    return layer(x, mask)


def tiled(layer, x, mask, bytes_each, limit):
    """layer(x, mask) on a few sequences at a time, so that what lies between stays small.

    The backward pass computes it again instead of storing it. x is "b r s c", or several such
    arrays, of which the result is like the first: r sequences of each b share the mask "b s s";
    `bytes_each` is what the layer holds for one sequence, `limit` what it may hold.
    """
    first, *_ = jax.tree.leaves(x)
    b, r = first.shape[:2]
    fits = (n for n in range(r, 0, -1) if r % n == 0 and n * bytes_each <= limit)
    rows = next(fits, 1)
    tiles = jax.tree.map(lambda a: a.reshape(b * r // rows, 1, rows, *a.shape[2:]), x)
    if mask is not None:
        mask = jnp.repeat(mask, r // rows, axis=0)[:, None]
    step = jax.checkpoint(lambda part: layer(*part))
    return jax.lax.map(step, (tiles, mask)).reshape(first.shape)


TILING = {"cpu": tiled, "gpu": whole, "tpu": whole}


class Frames(NamedTuple):
    """What attention is told of frames: a bias for their places in time, and lone pictures."""

    bias: Float[Array, "n s s"]
    image_only: Bool[Array, "b t"] | None


class Mixer(nnx.Module):
    """Self-attention along one axis of a video, added to its input.

    Norm, projections to query, key and value, attention, and an output projection that starts at
    zero. A subclass says which axis is the sequence.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        head_size: int,
        groups: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        init = truncated(1 / channels)
        self.dtype = dtype
        self.norm = GroupNorm(channels, groups, rngs=rngs)
        self.qkv = nnx.Param(
            init(rngs.params(), (3, channels, heads, head_size)),
            out_sharding=(None, "embed", "heads", None),
        )
        self.out = nnx.Param(
            jnp.zeros((heads, head_size, channels)), out_sharding=("heads", None, "embed")
        )
        self.bias = nnx.Param(jnp.zeros(channels))

    @abstractmethod
    def __call__(self, x: Float[Array, "b t h w c"], frames: Frames) -> Float[Array, "b t h w c"]:
        """The video with its positions mixed."""

    def normed(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t p c"]:
        """The input of the projections, the pixels of a frame in one axis."""
        b, t, h, w, c = x.shape
        return framewise(self.norm, x).reshape(b, t, h * w, c)

    def mix(
        self,
        x: PyTree[Float[Array, "b r _ c"]],
        mask: Bool[Array, "b s s"] | None,
        among: Callable[..., Float[Array, "b r n s k"]],
        *,
        queries: int,
        keys: int,
    ) -> Float[Array, "b r s c"]:
        """Attention of b * r sequences of length s, projections included.

        x: the sequences and, unless each looks at itself, those that they look at.
        among: (q, k and v "b r n s k", mask) -> "b r n s k". queries, keys: how many it compares
        for each sequence.
        """
        qkv, out = self.qkv[...].astype(self.dtype), self.out[...].astype(self.dtype)
        shift = self.bias[...].astype(self.dtype).reshape(1, 1, 1, -1)

        def layer(x, mask):
            own, seen = x
            given = (own, *(own if seen is None else seen,) * 2)
            split = tuple(jnp.einsum("brsc,cnk->brnsk", a, qkv[i]) for i, a in enumerate(given))
            return jnp.einsum("brnsk,nkc->brsc", among(split, mask), out) + shift

        heads, size, _ = out.shape
        held = 4 * queries * heads * (4 * size + 2 * keys)
        return for_platform(TILING)(layer, x, mask, held, CACHE)


def _attended(bias, qkv, mask):
    """`attend` of q, k and v "b r n s k" with a mask "b #r s s"."""
    return attend(*qkv, bias=bias, mask=mask)


def _attended_alike(qkv, mask):
    """`_attended` of sequences that share a mask "b s s"."""
    return _attended(None, qkv, None if mask is None else mask[:, None])


class SpaceAttention(Mixer):
    """Every pixel attends to the pixels of its own frame, or of those that the pattern says."""

    def __init__(self, channels: int, *, pattern: SpacePattern = OWN_FRAME, **sizes: Any):
        super().__init__(channels, **sizes)
        self.pattern = pattern

    def __call__(self, x: Float[Array, "b t h w c"], frames: Frames) -> Float[Array, "b t h w c"]:
        mixed = self.pattern(self._mixed, self.normed(x), frames.image_only)
        return x + mixed.reshape(x.shape)

    def _mixed(self, x, seen, mask):
        keys = (x if seen is None else seen).shape[2]
        return self.mix((x, seen), mask, _attended_alike, queries=x.shape[2], keys=keys)


class TimeAttention(Mixer):
    """Every pixel attends to its own place in the other frames, or in those of the pattern."""

    def __init__(self, channels: int, *, pattern: TimePattern = ALL_FRAMES, **sizes: Any):
        super().__init__(channels, **sizes)
        self.pattern = pattern

    def __call__(self, x: Float[Array, "b t h w c"], frames: Frames) -> Float[Array, "b t h w c"]:
        mask = None if frames.image_only is None else joint_mask(frames.image_only)
        among = partial(self.pattern, partial(_attended, frames.bias))
        keys = self.pattern.span(x.shape[1])
        queries = self.pattern.windows(x.shape[1]) * keys
        pixels = pixels_first(self.normed(x))
        mixed = self.mix((pixels, None), mask, among, queries=queries, keys=keys)
        return x + frames_first(mixed).reshape(x.shape)


class AttentionPool(nnx.Module):
    """Tokens reduced to one vector: a learned query attends to them and to a learned null token.

    With every token masked only the null token is left, so the null condition is learned and the
    softmax is never empty.
    """

    def __init__(
        self,
        token_width: int,
        width: int,
        *,
        heads: int,
        head_size: int,
        rngs: nnx.Rngs,
    ):
        init = normal(1.0)
        self.token_width = token_width
        self.norm = nnx.LayerNorm(token_width, rngs=rngs)
        self.null = nnx.Param(init(rngs.params(), (1, 1, token_width)))
        self.query = nnx.Param(init(rngs.params(), (1, 1, heads, head_size)))
        self.key_value = nnx.LinearGeneral(
            token_width,
            (2, heads, head_size),
            kernel_init=lecun_normal,
            rngs=rngs,
            kernel_metadata={"out_sharding": ("embed", None, "heads", None)},
        )
        self.out = nnx.LinearGeneral(
            (heads, head_size),
            width,
            axis=(-2, -1),
            kernel_init=lecun_normal,
            rngs=rngs,
            kernel_metadata={"out_sharding": ("heads", None, "embed")},
        )

    def __call__(
        self, embedding: Float[Array, "b l d"], mask: Bool[Array, "b l"]
    ) -> Float[Array, "b width"]:
        b, _, d = embedding.shape
        null = jnp.broadcast_to(self.null[...], (b, 1, d)).astype(embedding.dtype)
        tokens = self.norm(jnp.concatenate([null, embedding], axis=1))
        keep = jnp.pad(mask, ((0, 0), (1, 0)), constant_values=True)
        kv = self.key_value(tokens)
        query = jnp.broadcast_to(self.query[...], (b, *self.query.shape[1:])).astype(kv.dtype)
        q, k, v = (jnp.swapaxes(a, 1, 2) for a in (query, kv[:, :, 0], kv[:, :, 1]))
        pooled = attend(q, k, v, mask=keep[:, None])
        return self.out(jnp.swapaxes(pooled, 1, 2))[:, 0]
