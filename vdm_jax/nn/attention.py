"""Attention: one `attend` for every pattern, and the modules that mix space, time and context.

A pattern is a choice of which axis is the sequence: pixels of a frame (space), frames of a pixel
(time), tokens of a text (pool). `attend` has several formulations with the same value; `FORMS`
says which platform takes which.
"""

from abc import abstractmethod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vdm_jax.nn.norm import GroupNorm
from vdm_jax.nn.platform import for_platform

CHUNK = 256  # rows of the score tile that stay in a CPU's cache
SHORT = 32  # sequences up to here need no matrix unit on TPU


def attend(
    q: Float[Array, "*batch q n k"],
    k: Float[Array, "*batch s n k"],
    v: Float[Array, "*batch s n k"],
    *,
    bias: Float[Array, "n q s"] | None = None,
    mask: Bool[Array, "*#batch q s"] | None = None,
) -> Float[Array, "*batch q n k"]:
    """softmax(q k^T / sqrt(head size) + bias) v, over the keys that the mask allows.

    `mask` is True where a query may look and broadcasts over the batch; every query must be
    allowed at least one key. A forbidden key has weight exactly zero: it cannot change one bit of
    the result. Vaswani et al. 2017, equation 1. Softmax in float32.
    """
    return for_platform(FORMS)(q, k, v, bias, mask)


def attend_einsum(q, k, v, bias, mask):
    """All scores at once; the weights are normalised after the product with v."""
    scores = jnp.einsum("...qnk,...snk->...nqs", q * q.shape[-1] ** -0.5, k)
    weights, total = _exponentials(scores, bias, mask)
    out = jnp.einsum("...nqs,...snk->...qnk", weights.astype(v.dtype), v)
    return out / jnp.swapaxes(total, -1, -2)[..., None].astype(v.dtype)


def attend_chunked(q, k, v, bias, mask):
    """A few hundred queries at a time, so that the tile of scores never leaves the cache.

    The backward pass computes the scores again instead of storing them.
    """
    batch, (rows, heads, size) = q.shape[:-3], q.shape[-3:]
    chunks = rows // CHUNK
    tiles = jnp.moveaxis(q.reshape(*batch, chunks, CHUNK, heads, size), -4, 0)
    biases = None if bias is None else _tiles(bias, chunks)
    masks = None if mask is None else _tiles(mask, chunks)

    @jax.checkpoint
    def tile(parts):
        part, tile_bias, tile_mask = parts
        return attend_einsum(part, k, v, tile_bias, tile_mask)

    out = jnp.moveaxis(jax.lax.map(tile, (tiles, biases, masks)), 0, -4)
    return out.reshape(q.shape)


def attend_products(q, k, v, bias, mask):
    """Broadcast, multiply and sum: no matrix unit, no layout change; for short sequences."""
    q = q * q.shape[-1] ** -0.5
    scores = (q[..., :, None, :, :] * k[..., None, :, :, :]).sum(-1, dtype=jnp.float32)
    weights, total = _exponentials(jnp.moveaxis(scores, -1, -3), bias, mask)
    weights = jnp.moveaxis(weights, -3, -1)[..., None].astype(v.dtype)
    out = (weights * v[..., None, :, :, :]).sum(-3)
    return out / jnp.swapaxes(total, -1, -2)[..., None].astype(v.dtype)


def attend_fused(q, k, v, bias, mask):
    """JAX's own attention, which XLA fuses on accelerators; cuDNN's kernel where it applies."""
    batch = q.shape[:-3]

    def flat(a):
        return a.reshape(-1, *a.shape[-3:])

    if mask is not None:
        mask = jnp.broadcast_to(mask, (*batch, *mask.shape[-2:]))
        mask = mask.reshape(-1, 1, *mask.shape[-2:])
    out = jax.nn.dot_product_attention(
        flat(q),
        flat(k),
        flat(v),
        None if bias is None else bias[None].astype(q.dtype),
        mask,
        implementation="cudnn" if _cudnn_takes(q, bias, mask) else "xla",
    )
    return out.reshape(q.shape)


def _exponentials(scores, bias, mask):
    """exp(score - max), and its sum over the keys; both float32, "... n q s" and "... n q"."""
    scores = scores.astype(jnp.float32)
    if bias is not None:
        scores = scores + bias.reshape((1,) * (scores.ndim - 3) + bias.shape)
    if mask is not None:
        scores = jnp.where(mask[..., None, :, :], scores, -jnp.inf)
    largest = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    return weights, weights.sum(-1)


def _tiles(a, chunks):
    """Cut the query axis ("... q s") into chunks, stacked in front."""
    return jnp.moveaxis(a.reshape(*a.shape[:-2], chunks, CHUNK, a.shape[-1]), -3, 0)


def _cudnn_takes(q, bias, mask):
    """cuDNN's flash kernel: half precision, head sizes in eights up to 128, plain patterns."""
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    plain = bias is None and mask is None
    return half and plain and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128


def _attend_cpu(q, k, v, bias, mask):
    rows, keys = q.shape[-3], k.shape[-3]
    if rows > CHUNK and rows % CHUNK == 0 and keys > CHUNK:
        return attend_chunked(q, k, v, bias, mask)
    return attend_einsum(q, k, v, bias, mask)


def _attend_tpu(q, k, v, bias, mask):
    if max(q.shape[-3], k.shape[-3]) <= SHORT:
        return attend_products(q, k, v, bias, mask)
    return attend_fused(q, k, v, bias, mask)


FORMS = {"cpu": _attend_cpu, "gpu": attend_fused, "tpu": _attend_tpu}


def joint_mask(image_only: Bool[Array, "b t"]) -> Bool[Array, "b t t"]:
    """Who may look at whom in time: video frames at each other, a picture only at itself.

    Block-diagonal: the video's block, then one identity entry per picture (Ho et al. 2022,
    section 3.1).
    """
    video = ~image_only
    alone = jnp.eye(image_only.shape[1], dtype=bool)[None]
    return (video[:, :, None] & video[:, None, :]) | alone


class Frames(NamedTuple):
    """How the frames of a video may look at each other: a bias, and who sees whom (None: all)."""

    bias: Float[Array, "n t t"]
    mask: Bool[Array, "b t t"] | None


class Mixer(nnx.Module):
    """Self-attention along one axis of a video, added to its input.

    Norm, joint query-key-value projection, and an output projection that starts at zero. A
    subclass says which axis is the sequence.
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
        self.norm = GroupNorm(channels, groups, rngs=rngs)
        self.qkv = nnx.LinearGeneral(
            channels,
            (3, heads, head_size),
            use_bias=False,
            dtype=dtype,
            rngs=rngs,
            kernel_metadata={"out_sharding": ("embed", None, "heads", None)},
        )
        self.out = nnx.LinearGeneral(
            (heads, head_size),
            channels,
            axis=(-2, -1),
            dtype=dtype,
            rngs=rngs,
            kernel_init=nnx.initializers.zeros,
            kernel_metadata={"out_sharding": ("heads", None, "embed")},
        )

    @abstractmethod
    def __call__(self, x: Float[Array, "b t h w c"], frames: Frames) -> Float[Array, "b t h w c"]:
        """The video with its positions mixed."""

    def project(self, x):
        """q, k and v, each "b t s n k" with the pixels of a frame as s."""
        b, t, h, w, c = x.shape
        normed = self.norm(x.reshape(b * t, h, w, c)).reshape(b, t, h * w, c)
        qkv = self.qkv(normed)
        return qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :]


class SpaceAttention(Mixer):
    """Every pixel attends to the pixels of its own frame; added to the input."""

    def __call__(self, x: Float[Array, "b t h w c"], frames: Frames) -> Float[Array, "b t h w c"]:
        del frames  # each one is alone
        q, k, v = self.project(x)
        return x + self.out(attend(q, k, v)).reshape(x.shape)


class TimeAttention(Mixer):
    """Every pixel attends to its own place in the other frames; added to the input."""

    def __call__(self, x: Float[Array, "b t h w c"], frames: Frames) -> Float[Array, "b t h w c"]:
        mask = None if frames.mask is None else frames.mask[:, None]
        q, k, v = (jnp.swapaxes(a, 1, 2) for a in self.project(x))  # b s t n k
        mixed = attend(q, k, v, bias=frames.bias, mask=mask)
        return x + self.out(jnp.swapaxes(mixed, 1, 2)).reshape(x.shape)


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
        init = nnx.initializers.normal(1.0)
        self.token_width = token_width
        self.norm = nnx.LayerNorm(token_width, rngs=rngs)
        self.null = nnx.Param(init(rngs.params(), (1, 1, token_width)))
        self.query = nnx.Param(init(rngs.params(), (1, 1, heads, head_size)))
        self.key_value = nnx.LinearGeneral(
            token_width,
            (2, heads, head_size),
            rngs=rngs,
            kernel_metadata={"out_sharding": ("embed", None, "heads", None)},
        )
        self.out = nnx.LinearGeneral(
            (heads, head_size),
            width,
            axis=(-2, -1),
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
        pooled = attend(query, kv[:, :, 0], kv[:, :, 1], mask=keep[:, None])
        return self.out(pooled)[:, 0]
