"""What the backward pass computes again instead of keeping it in memory.

A block is what a U-Net repeats at one resolution; a layer is a part of it: a residual block or a
transformer block, in space or in time. Chen et al. 2016 (arXiv:1604.06174), section 3.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class Remat:
    """Everything is kept: the fastest, where memory allows."""

    def block(self, block: Callable) -> Callable:
        """The same function, of which less may be kept."""
        return block

    def layer(self, layer: Callable) -> Callable:
        """The same function, of which less may be kept."""
        return layer


KEEP_ALL = Remat()


@dataclass(frozen=True)
class RematBlocks(Remat):
    """Only what enters a block is kept: the least in all, but a whole block while it is redone."""

    def block(self, block: Callable) -> Callable:
        return jax.checkpoint(block)


@dataclass(frozen=True)
class RematLayers(Remat):
    """What enters each layer is kept: a lower peak than that of `RematBlocks` for large frames."""

    def layer(self, layer: Callable) -> Callable:
        return jax.checkpoint(layer)
