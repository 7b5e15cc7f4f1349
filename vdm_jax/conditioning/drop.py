"""Nulls of the conditioning ports, and their random use in training.

Classifier-free guidance needs a model that also works without a condition: each port is replaced
by its null for a random part of the training samples (Ho and Salimans 2022, section 3.2).
"""

from collections.abc import Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from vdm_jax.models.cond import Cond

SVD_NULL_PORTS = ("tokens", "concat")
"""What the unconditional half of Stable Video Diffusion's guidance does not see: the picture's
token and its latents, zeros both. vec (frame rate, motion, noise) is kept, as is image_only."""


def null(cond: Cond, ports: tuple[str, ...], *, where: Bool[Array, " b"] | None = None) -> Cond:
    """`cond` with the named ports at their null, for the samples in `where` (None: for all)."""
    for port in ports:
        value = getattr(cond, port)
        cond = replace(cond, **{port: jax.tree.map(lambda leaf: _clear(leaf, where), value)})
    return cond


def _clear(leaf: Array, where: Bool[Array, " b"] | None) -> Array:
    """Zeros, which is False for a mask: the null of every port (see `Cond`)."""
    if where is None:
        return jnp.zeros_like(leaf)
    return jnp.where(where.reshape(-1, *(1,) * (leaf.ndim - 1)), jnp.zeros_like(leaf), leaf)


def drop(cond: Cond, key: Array, probability: Mapping[str, float]) -> Cond:
    """Each named port of each sample set to its null with its own probability, independently."""
    for port, chance in probability.items():
        key, port_key = jax.random.split(key)
        leaves = jax.tree.leaves(getattr(cond, port))
        if leaves:
            hit = jax.random.bernoulli(port_key, chance, leaves[0].shape[:1])
            cond = null(cond, (port,), where=hit)
    return cond
