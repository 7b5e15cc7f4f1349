"""Initial weights drawn on the host: the same on every platform and mesh, and nothing to compile.

XLA compiles a random generator for every shape it draws, which takes longer than the first steps
of a small model; NumPy draws a billion weights in seconds.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

Initializer = Callable[..., Array]
"""(key, shape, dtype) -> weights."""

TRUNCATED_STD = 0.87962566103423978  # of a unit normal cut at two standard deviations


class Stream(nnx.RngStream):
    """NNX's stream of keys, which replaces its count instead of writing into it.

    Where a count is traced, NNX asks it for its sharding at every write, and JAX answers with an
    error that names all that was traced before: to build an abstract model takes a time that
    grows with the square of the number of its weights, half a minute for a large one.
    """

    def __call__(self) -> Array:
        key = jax.random.fold_in(self.key[...], self.count[...])
        self.count.set_value(self.count[...] + 1)
        return key


def streamed(rngs: nnx.Rngs) -> nnx.Rngs:
    """New keys for the parameters of a large model, from the next of `rngs`; see `Stream`."""
    keys: Any = nnx.Rngs(params=rngs.params())
    keys.params = Stream(keys.params.key[...], tag="params")
    return keys


def lecun_normal(key: Array, shape: tuple[int, ...], dtype: DTypeLike = "float32") -> Array:
    """`truncated` with variance 1 / fan_in (LeCun et al. 1998, section 4.6).

    fan_in is the product of all axes but the last: that of kernels "... i o".
    """
    return truncated(1 / math.prod(shape[:-1]))(key, shape, dtype)


def truncated(variance: float) -> Initializer:
    """A normal of this variance that is cut at two standard deviations."""
    return _drawn(lambda rng, shape: _within_two(rng, shape) * math.sqrt(variance) / TRUNCATED_STD)


def normal(std: float) -> Initializer:
    """A normal of this standard deviation."""
    return _drawn(lambda rng, shape: rng.standard_normal(shape) * std)


def _drawn(draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]) -> Initializer:
    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = "float32") -> Array:
        def on_host(data: Any) -> np.ndarray:
            seed = np.asarray(data, np.uint64)
            return draw(np.random.Generator(np.random.Philox(key=seed)), shape).astype(dtype)

        if not isinstance(key, jax.core.Tracer):
            return jnp.asarray(on_host(jax.random.key_data(key)))
        result = jax.ShapeDtypeStruct(shape, dtype)
        return jax.pure_callback(on_host, result, jax.random.key_data(key))

    return init


def _within_two(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Unit normal numbers; what lies outside -2..2, about one in twenty, is drawn again."""
    x = rng.standard_normal(shape)
    while (outside := np.abs(x) > 2).any():
        x[outside] = rng.standard_normal(int(outside.sum()))
    return x
