"""Formulations of attention with one value and one gradient, and which platform takes which.

Where the matrix of scores is large nobody makes it whole: a kernel of cuDNN (GPU) or splash
attention (TPU) keeps a tile of it on chip; what these do not take, and a CPU, goes through the
queries a tile at a time. Every form takes q "*batch n q k", k and v "*batch n s k", bias "n q s"
or None, mask "*#batch q s" or None, as `nn.attention.attend` does.
"""

import math
from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array

from vdm_jax.core.mesh import ACTIVATION_AXES, frames_apart, frames_together
from vdm_jax.nn.platform import alone

SHORT = 32  # sequences up to here need no matrix unit on TPU
LONG = 512  # from here a kernel pays on TPU
LANES = 128  # splash attention works on blocks in multiples of these
BLOCK = 1024  # longest block of splash attention: a tile of 4 MB of scores in fast memory
KERNEL_BATCH = 1 << 16  # cuDNN counts the sequences of a batch in 16 bits
TILE = 128 << 20  # bytes of scores that an accelerator holds at once
CACHE = 2 << 20  # bytes of scores that a CPU works on without going to memory
WHOLE = 8 << 20  # a CPU's scores up to here are faster at once than in tiles
ROWS = 128  # queries of a tile on CPU, at least: fewer make its matrix products slow


def attend_einsum(q, k, v, bias, mask):
    """All scores at once; the weights are normalised after the product with v."""
    return _at_once(q, k, v, *_ports(q, bias, mask))


def attend_chunked(q, k, v, bias, mask):
    """Some queries of every sequence at a time, a tile of at most `TILE` bytes of scores.

    The backward pass computes the scores again instead of storing them.
    """
    each = 4 * math.prod(q.shape[:-2]) * k.shape[-2]  # bytes of one query's scores
    return _by_rows(q, k, v, *_ports(q, bias, mask), rows=max(1, TILE // each))


def attend_each(q, k, v, bias, mask):
    """A few sequences at a time, and of long ones some queries: the tile stays in a CPU's cache."""
    if bias is None and mask is None:
        return _plain(*(a.reshape(-1, *a.shape[-2:]) for a in (q, k, v))).reshape(q.shape)
    bias, mask = _ports(q, bias, mask)
    (*batch, heads, rows), keys = q.shape[:-1], k.shape[-2]
    group = _together(math.prod(batch) * heads, rows, keys, CACHE)

    def groups(a):
        return a.reshape(-1, group, 1, *a.shape[-2:])

    if bias is not None:
        bias = bias.reshape(heads, 1, rows, keys)
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*batch, 1, rows, keys)).reshape(-1, 1, rows, keys)

    @jax.checkpoint
    def attend_group(part):
        q, k, v, index = part
        of_head = None if bias is None else bias[index % heads]
        of_batch = None if mask is None else mask[index // heads]
        return _by_rows(q, k, v, of_head, of_batch, rows=max(ROWS, CACHE // (4 * keys)))

    index = jnp.arange(math.prod(batch) * heads).reshape(-1, group)
    return jax.lax.map(attend_group, (groups(q), groups(k), groups(v), index)).reshape(q.shape)


def attend_products(q, k, v, bias, mask):
    """Broadcast, multiply and sum: no matrix unit, no layout change; for short sequences."""
    q = q * q.shape[-1] ** -0.5
    scores = (q[..., :, None, :] * k[..., None, :, :]).sum(-1, dtype=jnp.float32)
    weights, total = _exponentials(scores, *_ports(q, bias, mask))
    out = (weights[..., None].astype(v.dtype) * v[..., None, :, :]).sum(-2)
    return out / total.astype(v.dtype)


def attend_fused(q, k, v, bias, mask):
    """JAX's own attention, which XLA fuses on accelerators."""
    if bias is not None:
        bias = bias[None].astype(q.dtype)
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*q.shape[:-3], *mask.shape[-2:]))
        mask = frames_together(mask) if mask.ndim == 4 else mask.reshape(-1, *mask.shape[-2:])
        mask = mask[:, None]
    return _dot_product_attention(q, k, v, bias, mask, implementation="xla")


def attend_cudnn(q, k, v, bias, mask):
    """cuDNN's flash attention; see `_cudnn_takes`."""
    del bias, mask
    return _dot_product_attention(q, k, v, None, None, implementation="cudnn")


def attend_splash(q, k, v, bias, mask, *, interpret=False):
    """Splash attention, the kernel for TPU; see `_splash_takes`. `interpret` runs it anywhere.

    Sequences are padded to whole blocks, and the keys of the padding belong to another segment.
    On a mesh each device attends for its own rows and heads.
    """
    del bias, mask
    local = partial(_splash, interpret=interpret)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return local(q, k, v)
    spec = _split(q.shape, mesh)
    return jax.shard_map(local, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)(q, k, v)


def _at_once(q, k, v, bias, mask):
    """Attention with a bias and a mask that broadcast against the scores "... n q s"."""
    scores = _product("...qk,...sk->...qs", q * q.shape[-1] ** -0.5, k)
    weights, total = _exponentials(scores, bias, mask)
    out = _product("...qs,...sk->...qk", weights.astype(v.dtype), v)
    return (out / total).astype(v.dtype)


_product = partial(jnp.einsum, preferred_element_type=jnp.float32)


def _by_rows(q, k, v, bias, mask, *, rows):
    """`_at_once` for pieces of at most `rows` queries; the last one is padded to the others'."""
    total = q.shape[-2]
    count = -(-total // rows)
    if count == 1:
        return _at_once(q, k, v, bias, mask)
    rows = -(-total // count)

    def cut(a):
        """Pieces of the last axis but one, stacked in front."""
        if a is None:
            return None
        edges = [(0, 0)] * (a.ndim - 2) + [(0, count * rows - total), (0, 0)]
        pieces = jnp.pad(a, edges, constant_values=a.dtype.type(1))
        return jnp.moveaxis(pieces.reshape(*a.shape[:-2], count, rows, a.shape[-1]), -3, 0)

    @jax.checkpoint
    def tile(part):
        q, bias, mask = part
        return _at_once(q, k, v, bias, mask)

    out = jnp.moveaxis(jax.lax.map(tile, (cut(q), cut(bias), cut(mask))), 0, -3)
    return out.reshape(*q.shape[:-2], count * rows, q.shape[-1])[..., :total, :]


@jax.custom_vjp
def _plain(q, k, v):
    """Attention of sequences "a n k", neither bias nor mask, by tiles that fit a CPU's cache.

    Its gradient makes each tile of weights once more, from the logarithm of their sum, and adds up
    those of keys and values as "k s", which XLA's CPU compiler multiplies three times as fast as
    "s k". Dao et al. 2022 (arXiv:2205.14135), algorithm 4.
    """
    return _plain_forward(q, k, v)[0]


def _plain_forward(q, k, v):
    (total, rows, _), keys = q.shape, k.shape[1]
    group = _together(total, rows, keys, CACHE)

    def attend_group(part):
        q, k, v = part

        def attend_rows(q):
            scores = _product("aqk,ask->aqs", q * q.shape[-1] ** -0.5, k)
            weights, sums, largest = _softmax_parts(scores)
            out = _product("aqs,ask->aqk", weights.astype(v.dtype), v) / sums
            return out.astype(v.dtype), (largest + jnp.log(sums))[..., 0]

        out, logs = jax.lax.map(attend_rows, _rows(q, _pieces(rows, keys, CACHE)))
        return _joined(out, rows), _joined(logs, rows)

    parts = (a.reshape(-1, group, *a.shape[1:]) for a in (q, k, v))
    out, logs = jax.lax.map(attend_group, tuple(parts))
    out = out.reshape(q.shape)
    return out, (q, k, v, out, logs.reshape(q.shape[:-1]))


def _plain_backward(saved, dout):
    q, k = saved[:2]
    (total, rows, size), keys = q.shape, k.shape[1]
    limit = CACHE // 2  # two tiles of scores at once
    group, pieces = _together(total, rows, keys, limit), _pieces(rows, keys, limit)

    def of_group(part):
        q, k, v, out, logs, dout = part
        dots = (dout * out).sum(-1, dtype=jnp.float32)

        def of_rows(sums, part):
            q, logs, dots, dout = part
            q = q * size**-0.5
            weights = jnp.exp(_product("aqk,ask->aqs", q, k) - logs[..., None])
            dweights = _product("aqk,ask->aqs", dout, v)
            dscores = (weights * (dweights - dots[..., None])).astype(q.dtype)
            dk = sums[0] + _product("aqk,aqs->aks", q, dscores)
            dv = sums[1] + _product("aqk,aqs->aks", dout, weights.astype(dout.dtype))
            return (dk, dv), _product("aqs,ask->aqk", dscores, k) * size**-0.5

        zeros = jnp.zeros((group, size, keys), jnp.float32)
        given = tuple(_rows(a, pieces) for a in (q, logs, dots, dout))
        (dk, dv), dq = jax.lax.scan(of_rows, (zeros, zeros), given)
        return _joined(dq, rows), dk.swapaxes(1, 2), dv.swapaxes(1, 2)

    parts = (a.reshape(-1, group, *a.shape[1:]) for a in (*saved, dout))
    gradients = jax.lax.map(of_group, tuple(parts))
    return tuple(
        g.reshape(a.shape).astype(a.dtype) for g, a in zip(gradients, saved[:3], strict=True)
    )


_plain.defvjp(_plain_forward, _plain_backward)


def _together(total, rows, keys, limit):
    """How many of `total` sequences have scores within `limit` bytes; at least one."""
    fits = (n for n in range(total, 0, -1) if total % n == 0 and 4 * n * rows * keys <= limit)
    return next(fits, 1)


def _pieces(rows, keys, limit):
    """How many pieces the queries of a sequence are cut into, for scores of `limit` bytes."""
    return -(-rows // max(ROWS, limit // (4 * keys)))


def _rows(a, pieces):
    """Pieces of the queries "a n ...", stacked in front; the last is padded with zeros."""
    each = -(-a.shape[1] // pieces)
    edges = [(0, 0), (0, pieces * each - a.shape[1]), *[(0, 0)] * (a.ndim - 2)]
    return jnp.moveaxis(jnp.pad(a, edges).reshape(len(a), pieces, each, *a.shape[2:]), 1, 0)


def _joined(a, rows):
    """The inverse of `_rows`."""
    a = jnp.moveaxis(a, 0, 1)
    return a.reshape(len(a), -1, *a.shape[3:])[:, :rows]


def _ports(q, bias, mask):
    """Bias and mask in the rank of the scores "*batch n q s"."""
    if bias is not None:
        bias = bias.reshape((1,) * (q.ndim - 3) + bias.shape)
    return bias, None if mask is None else mask[..., None, :, :]


def _exponentials(scores, bias, mask):
    """exp(score - max), "... n q s", and its sum over the keys, "... n q 1"; both float32."""
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    return _softmax_parts(scores)[:2]


def _softmax_parts(scores):
    """exp(score - max), its sum over the keys, and the max."""
    largest = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    return weights, weights.sum(-1, keepdims=True), largest


def _dot_product_attention(q, k, v, bias, mask, *, implementation):
    """One axis of sequences: those of a device beside each other, so that none has to move."""
    cut = q.ndim == 5  # videos, and their frames or pixels

    def flat(a):
        whole = frames_together(a) if cut else a.reshape(-1, *a.shape[-3:])
        return jnp.swapaxes(whole, 1, 2)

    out = jax.nn.dot_product_attention(
        flat(q), flat(k), flat(v), bias, mask, implementation=implementation
    )
    out = jnp.swapaxes(out, 1, 2)
    return frames_apart(out, len(q)) if cut else out.reshape(q.shape)


def _splash(q, k, v, *, interpret):
    heads, rows, size = q.shape[-3:]
    keys = k.shape[-2]
    (block_q, pad_q), (block_kv, pad_kv) = _blocks(rows), _blocks(keys)
    mask = splash_mask.FullMask((rows + pad_q, keys + pad_kv))
    kernel = splash.make_splash_mha(
        splash_mask.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(
            block_q=block_q,
            block_kv=block_kv,
            block_q_dkv=block_q,
            block_kv_dkv=block_kv,
            block_q_dq=block_q,
            block_kv_dq=block_kv,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )

    def padded(a, rows):
        return jnp.pad(a.reshape(-1, *a.shape[-3:]), ((0, 0), (0, 0), (0, rows), (0, 0)))

    segments = None
    if pad_kv:
        outside = (jnp.arange(keys + pad_kv) >= keys).astype(jnp.int32)
        segments = splash.SegmentIds(jnp.zeros(rows + pad_q, jnp.int32), outside)
    scaled = (q * size**-0.5).astype(q.dtype)
    attend = jax.vmap(lambda q, k, v: kernel(q, k, v, segments))
    out = cast(Array, attend(padded(scaled, pad_q), padded(k, pad_kv), padded(v, pad_kv)))
    return out[:, :, :rows].reshape(q.shape)


def _blocks(length: int) -> tuple[int, int]:
    """Size of the blocks that a sequence is cut into, and how much it is padded for them."""
    count = -(-length // BLOCK)
    block = -(-length // (count * LANES)) * LANES
    return block, count * block - length


def _split(shape: tuple[int, ...], mesh: AbstractMesh) -> PartitionSpec:
    """ "batch frames n q k" over the mesh; an axis that does not divide its dimension is left out.

    One axis of batch is taken for "batch", of more than two the rest is whole.
    """
    names = ("batch", "frames")[: len(shape) - 3]
    named = dict(enumerate(names)) | {len(shape) - 3: "heads"}
    axes = [ACTIVATION_AXES[named[i]] if i in named else () for i in range(len(shape))]
    return PartitionSpec(
        *(
            axis if axis and size % math.prod(mesh.shape.get(a, 1) for a in axis) == 0 else None
            for axis, size in zip(axes, shape, strict=True)
        )
    )


def _half(q):
    return q.dtype in (jnp.bfloat16, jnp.float16)


def _cudnn_takes(q, bias, mask):
    """Half precision, head sizes in eights up to 128, all keys for all queries."""
    size, batch = q.shape[-1], math.prod(q.shape[:-3])
    plain = bias is None and mask is None
    return plain and _half(q) and size % 8 == 0 and size <= 128 and batch < KERNEL_BATCH


def _splash_takes(q, bias, mask):
    """Half precision (its products are), head sizes up to 256, all keys for all queries.

    XLA does not partition the kernel: on several devices it needs the mesh of `jax.set_mesh`.
    """
    plain = bias is None and mask is None
    placed = alone() or not jax.sharding.get_abstract_mesh().empty
    return plain and placed and _half(q) and q.shape[-1] <= 256


def _scores(q, k):
    """Bytes of all scores in float32."""
    return 4 * math.prod(q.shape[:-1]) * k.shape[-2]


def _attend_cpu(q, k, v, bias, mask):
    form = attend_einsum if _scores(q, k) <= WHOLE else attend_each
    return form(q, k, v, bias, mask)


def _attend_gpu(q, k, v, bias, mask):
    if _cudnn_takes(q, bias, mask):
        return attend_cudnn(q, k, v, bias, mask)
    form = attend_fused if _scores(q, k) <= TILE else attend_chunked
    return form(q, k, v, bias, mask)


def _attend_tpu(q, k, v, bias, mask):
    longest = max(q.shape[-2], k.shape[-2])
    if longest <= SHORT:
        return attend_products(q, k, v, bias, mask)
    if longest >= LONG and _splash_takes(q, bias, mask):
        return attend_splash(q, k, v, bias, mask)
    form = attend_fused if _scores(q, k) <= TILE else attend_chunked
    return form(q, k, v, bias, mask)


FORMS = {"cpu": _attend_cpu, "gpu": _attend_gpu, "tpu": _attend_tpu}
