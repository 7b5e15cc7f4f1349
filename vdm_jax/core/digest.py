"""A short name of some weights, wherever they lie and in whatever float type.

Sums of scrambled numbers modulo 2^32, which come out the same in any order: the weights are not
brought together, and every process of a run finds the same name. It tells weights apart that were
mistaken for each other; it is no protection against someone who makes up weights on purpose.
"""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, UInt32

from vdm_jax.core.mesh import replicated

ODD = (0x9E3779B1, 0x85EBCA77)  # two scramblings, of the golden ratio and of Murmur's


def digest(params: nnx.State) -> str:
    """16 hexadecimal digits of the paths, the shapes and the values, rounded to bfloat16."""
    leaves = [(list(map(str, p)), leaf.get_value()) for p, leaf in nnx.to_flat_state(params)]
    values = [value for _, value in leaves]
    mesh = getattr(values[0].sharding, "mesh", None)
    everywhere = None if mesh is None else replicated(mesh)
    sums = jax.device_get(jax.jit(_sums, out_shardings=everywhere)(values))
    told = [
        (path, value.shape, numbers.tolist())
        for (path, value), numbers in zip(leaves, sums, strict=True)
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def _sums(arrays: list[Array]) -> list[UInt32[Array, "2"]]:
    return [jnp.stack([_sum(array, odd) for odd in ODD]) for array in arrays]


def _sum(array: Array, odd: int) -> UInt32[Array, ""]:
    bits = jax.lax.bitcast_convert_type(array.astype(jnp.bfloat16), jnp.uint16)
    mixed = (bits.astype(jnp.uint32) + _places(array.shape) * _word(odd)) * _word(odd)
    mixed = (mixed ^ (mixed >> _word(15))) * _word(0x2C1B3C6D)
    return jnp.sum(mixed ^ (mixed >> _word(13)), dtype=jnp.uint32)


def _places(shape: tuple[int, ...]) -> UInt32[Array, "*shape"]:
    """The number of each element, modulo 2^32."""
    places: Any = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        index = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        places = places * _word(size % 2**32) + index
    return places


def _word(number: int) -> Array:
    return jnp.uint32(number)
