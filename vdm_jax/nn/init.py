"""Initial weights drawn on the host: the same on every platform and mesh, and nothing to compile.

XLA compiles a random generator for every shape it draws, which takes longer than the first
hundred steps of a small model; NumPy draws a billion weights in seconds.
"""

import math

import jax
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

TRUNCATED_STD = 0.87962566103423978  # of a unit normal cut at two standard deviations


def lecun_normal(key: Array, shape: tuple[int, ...], dtype: DTypeLike = "float32") -> Array:
    """Normal cut at two standard deviations, variance 1 / fan_in (LeCun et al. 1998, section 4.6).

    fan_in is the product of all axes but the last: that of kernels "... i o".
    """
    scale = math.sqrt(1 / math.prod(shape[:-1])) / TRUNCATED_STD
    return _drawn(key, shape, dtype, lambda rng: scale * _truncated(rng, shape))


def normal(key: Array, shape: tuple[int, ...], dtype: DTypeLike = "float32") -> Array:
    """Unit normal."""
    return _drawn(key, shape, dtype, lambda rng: rng.standard_normal(shape))


def _drawn(key, shape, dtype, draw):
    def on_host(data):
        rng = np.random.Generator(np.random.Philox(key=np.asarray(data, np.uint64)))
        return draw(rng).astype(dtype)

    result = jax.ShapeDtypeStruct(shape, dtype)
    return jax.pure_callback(on_host, result, jax.random.key_data(key))


def _truncated(rng, shape):
    """Redraws what lies outside; about one in twenty."""
    x = rng.standard_normal(shape)
    while (outside := np.abs(x) > 2).any():
        x[outside] = rng.standard_normal(int(outside.sum()))
    return x
