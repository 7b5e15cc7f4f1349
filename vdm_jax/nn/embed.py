"""Embeddings of scalars and of positions."""

import math

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from vdm_jax.nn.init import lecun_normal, normal


def sinusoid(
    x: Float[Array, "*batch"], width: int, slowest: float = 1 / 64, fastest: float = 16.0
) -> Float[Array, "*batch {width}"]:
    """cos and sin of x at width/2 frequencies, spaced geometrically (radians per unit of x).

    The default range suits a c_noise of order one, such as log(sigma) / 4: neighbouring levels
    0.05 apart differ clearly, and values up to 100 apart are still told apart. `width` is even.
    """
    frequencies = np.geomspace(fastest, slowest, width // 2, dtype=np.float32)
    angles = x[..., None].astype(jnp.float32) * frequencies.reshape((1,) * x.ndim + (-1,))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def timestep_embedding(x: Float[Array, "*batch"], width: int) -> Float[Array, "*batch {width}"]:
    """Stable Diffusion's `sinusoid`: cos first, frequencies 10000^(-2i/width); float32.

    Vaswani et al. 2017, section 3.5. `width` is even.
    """
    exponents = np.float32(-math.log(10_000)) * np.arange(width // 2, dtype=np.float32)
    frequencies = np.exp(exponents / np.float32(width // 2))
    angles = x[..., None].astype(jnp.float32) * frequencies.reshape((1,) * x.ndim + (-1,))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class EmbeddingMLP(nnx.Module):
    """Linear, SiLU, linear: what turns a sinusoid into features."""

    def __init__(
        self,
        in_width: int,
        hidden_width: int,
        out_width: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.linear_1 = nnx.Linear(
            in_width,
            hidden_width,
            kernel_init=lecun_normal,
            dtype=dtype,
            rngs=rngs,
            kernel_metadata={"out_sharding": ("embed", "mlp")},
        )
        self.linear_2 = nnx.Linear(
            hidden_width,
            out_width,
            kernel_init=lecun_normal,
            dtype=dtype,
            rngs=rngs,
            kernel_metadata={"out_sharding": ("mlp", "embed")},
        )

    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        return self.linear_2(nnx.silu(self.linear_1(x)))


def relative_buckets(
    num_frames: int, num_buckets: int = 32, max_distance: int = 128
) -> Int[np.ndarray, "{num_frames} {num_frames}"]:
    """T5's bucket of each (query, key) pair of positions (Raffel et al. 2020, section 2.1).

    Half of the buckets are for keys after the query. In each half, the first half of the buckets
    hold one distance each; the rest grow logarithmically up to max_distance, and beyond it
    everything falls into the last.
    """
    half = num_buckets // 2
    exact = half // 2
    position = np.arange(num_frames)
    offset = position[None, :] - position[:, None]
    distance = np.abs(offset)
    ratio = np.log(np.maximum(distance, 1) / exact) / math.log(max_distance / exact)
    far = np.minimum(exact + (ratio * (half - exact)).astype(int), half - 1)
    return np.where(distance < exact, distance, far) + half * (offset > 0)


class RelativeBias(nnx.Module):
    """A learned attention bias per head and relative position; one table serves every layer."""

    def __init__(self, heads: int, *, num_buckets: int = 32, rngs: nnx.Rngs):
        init = normal(0.02)
        self.num_buckets = num_buckets
        self.table = nnx.Param(
            init(rngs.params(), (num_buckets, heads)), out_sharding=(None, "heads")
        )

    def __call__(self, num_frames: int) -> Float[Array, "n {num_frames} {num_frames}"]:
        buckets = relative_buckets(num_frames, self.num_buckets)
        return jnp.moveaxis(self.table[...][buckets], -1, 0)
