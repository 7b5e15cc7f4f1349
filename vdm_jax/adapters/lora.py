"""LoRA: a change of low rank beside each chosen matrix (Hu et al. 2021, arXiv:2106.09685).

    W' = W + (alpha / rank) * A B        A "i r" Gaussian, B "r o" zero: at first, no change

A kernel of attention is a matrix too: its heads and their sizes together are one side of it.
Only A and B are trained, averaged and saved; `LoRA.join` is also how they are merged for good.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vdm_jax.adapters.trainable import Selected, dotted
from vdm_jax.core.mesh import unplaced
from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.init import lecun_normal, normal

ATTENTION = ("network.*.attn?.to_*.kernel",)
"""Every projection of every attention, in space and in time: what the field's trainers adapt."""

TIME_ATTENTION = ("network.*.time.*.attn?.to_*.kernel",)
"""Those between frames: what SVD's camera-motion LoRAs adapt (arXiv:2311.15127, section 4.5)."""

INWARD = ("to_out",)  # kernels whose last axis alone is the output; others have one input axis


class LoRAParam(nnx.Variable):
    """A factor of a change of low rank; no `nnx.Param`, so that none is mistaken for a weight."""


class Sides(NamedTuple):
    """How a kernel is a matrix: the axes that go in, then those that come out."""

    inward: int
    """Number of its leading axes."""
    rows: int
    columns: int


@dataclass(frozen=True)
class LoRA:
    """rank: of each change. alpha: its scale is alpha / rank; None is the rank, a scale of 1.

    targets: the kernels that are changed: paths with dots, in which "*" stands for anything.
    """

    rank: int = 16
    alpha: float | None = None
    targets: tuple[str, ...] = ATTENTION

    def __post_init__(self) -> None:
        if self.rank < 1 or not (self.alpha is None or 0 < self.alpha < math.inf):
            raise Refusal(
                f"rank must be at least 1 and alpha above 0, got {self.rank} and {self.alpha}"
            )

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def split(self, params: nnx.State, key: Array) -> tuple[nnx.State, nnx.State]:
        """Trained are the factors, under the paths of their kernels; frozen is all of `params`."""
        targets, _ = Selected(self.targets).split(params, key)
        factors = []
        for index, (path, kernel) in enumerate(nnx.to_flat_state(targets)):
            drawn = self._factors(path, kernel, jax.random.fold_in(key, index))
            factors += [((*path, name), factor) for name, factor in drawn.items()]
        return nnx.from_flat_state(factors), params

    def join(self, trained: nnx.State, frozen: nnx.State) -> nnx.State:
        factors = dict(nnx.to_flat_state(trained))
        joined = []
        for path, weight in nnx.to_flat_state(frozen):
            if (*path, "a") in factors:
                a, b = (factors[(*path, side)].get_value() for side in "ab")
                weight = weight.replace(self.changed(weight.get_value(), a, b))
            joined.append((path, weight))
        return nnx.from_flat_state(joined)

    def changed(
        self, weight: Float[Array, "*shape"], a: Float[Array, "i r"], b: Float[Array, "r o"]
    ) -> Float[Array, "*shape"]:
        """The weight with its change, in the weight's own type; summed in that of the factors."""
        delta = jnp.matmul(self.scale * a, b, precision="highest")
        return (weight.astype(delta.dtype) + delta.reshape(weight.shape)).astype(weight.dtype)

    def _factors(self, path: tuple, kernel: nnx.Variable, key: Array) -> dict[str, LoRAParam]:
        shape = kernel.get_value().shape
        inward, rows, columns = sides(path, shape)
        if self.rank > min(rows, columns):
            raise Refusal(
                f"rank {self.rank} is no low rank for {dotted(path)}, a matrix {rows}x{columns}"
            )
        axes = kernel.get_metadata().get("out_sharding") or (None,) * len(shape)
        first = axes[0] if inward == 1 else None  # several axes become one, which stays whole
        last = axes[-1] if len(shape) - inward == 1 else None
        a = normal(rows**-0.5)(key, (rows, self.rank), "float32")
        b = jnp.zeros((self.rank, columns))
        with unplaced():
            return {
                "a": LoRAParam(a, out_sharding=(first, None)),
                "b": LoRAParam(b, out_sharding=(None, last)),
            }


def sides(path: tuple, shape: tuple[int, ...]) -> Sides:
    """How the kernel at `path` is a matrix; refuses one that is not."""
    if path[-1] != "kernel" or len(shape) not in (2, 3):
        raise Refusal(
            f"LoRA changes matrices; {dotted(path)} is {'x'.join(map(str, shape))}: name kernels "
            "of linear layers and of attention in its targets"
        )
    inward = len(shape) - 1 if path[-2] in INWARD else 1
    return Sides(inward, math.prod(shape[:inward]), math.prod(shape[inward:]))


def awake(model: nnx.Module) -> nnx.Module:
    """A fresh model whose kernels of zeros are drawn like the others, in place.

    A LoRA is for a model that was trained. Beside a last layer of zeros, with which one begins that
    is to be trained whole, it would have no gradient.
    """
    drawn = []
    for index, (path, leaf) in enumerate(nnx.to_flat_state(nnx.state(model, nnx.Param))):
        value = leaf.get_value()
        if path[-1] == "kernel" and not value.any():
            key = jax.random.fold_in(jax.random.key(0), index)
            leaf = leaf.replace(lecun_normal(key, value.shape, value.dtype))
        drawn.append((path, leaf))
    nnx.update(model, nnx.from_flat_state(drawn))
    return model
