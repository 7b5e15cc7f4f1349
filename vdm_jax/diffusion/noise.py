"""Noise plans: how the noise of a video's frames is related.

A plan draws the unit noise of one video; each frame of it alone is standard normal, whatever the
plan. `unit_noise` draws those of a batch.

| plan | frames | source |
|---|---|---|
| Independent | unrelated | Ho et al. 2022 (arXiv:2204.03458) |
| Rescheduled | those of the first window, again and again in another order | Qiu et al. 2024 |
| Shared | correlated alike, each with each | Ge et al. 2023 (arXiv:2305.10474), section 4.1 |
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vdm_jax.core.refusal import Refusal

Shape = tuple[int, int, int, int]
ORDER = 0x6F726465  # folded into a video's key for the order of frames, whose noise takes the key


@runtime_checkable
class NoisePlan(Protocol):
    def __call__(self, key: Array, shape: Shape) -> Float[Array, "t h w c"]:
        """The noise of one video."""
        ...


def unit_noise(plan: NoisePlan, keys: Array, shape: Shape) -> Float[Array, "b t h w c"]:
    """The noise of a video for each key; what is drawn does not depend on its neighbours."""
    return jax.vmap(lambda key: plan(key, shape))(keys)


@dataclass(frozen=True)
class Independent:
    """Every frame its own, as training draws it."""

    def __call__(self, key: Array, shape: Shape) -> Float[Array, "t h w c"]:
        return jax.random.normal(key, shape)


@dataclass(frozen=True)
class Rescheduled:
    """Noise for videos longer than a network was trained on (FreeNoise; arXiv:2310.15169, 3.2).

    The first `window` frames are independent. Each further `stride` frames are those that lie one
    window earlier, shuffled; of the last, where fewer are left, as many. So each window that begins
    at a multiple of the stride, and the last, holds the same frames where the stride divides the
    window, and distant frames agree in what they begin with. A video of one window or less is as
    `Independent` draws it, bit for bit, and so is the first window of any.
    """

    window: int = 16
    stride: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.window:
            raise Refusal(
                f"stride is {self.stride}; frames one window of {self.window} earlier can be "
                "shuffled from 1 to all at a time"
            )

    def __call__(self, key: Array, shape: Shape) -> Float[Array, "t h w c"]:
        t, *frame = shape
        noise = jax.random.normal(key, (min(t, self.window), *frame))
        return noise if t <= self.window else noise[self._order(key, t)]

    def _order(self, key: Array, num_frames: int) -> Int[Array, " {num_frames}"]:
        """Which frame of the first window each frame takes."""
        order = jnp.zeros(num_frames, int).at[: self.window].set(jnp.arange(self.window))
        chunks, rest = divmod(num_frames - self.window, self.stride)
        keys = jax.random.split(jax.random.fold_in(key, ORDER), chunks + 1)

        def shuffled(order, key, start, count):
            earlier = jax.lax.dynamic_slice(order, (start - self.window,), (count,))
            moved = jax.random.permutation(key, earlier)
            return jax.lax.dynamic_update_slice(order, moved, (start,))

        def step(order, part):
            key, start = part
            return shuffled(order, key, start, self.stride), None

        starts = self.window + self.stride * jnp.arange(chunks)
        order, _ = jax.lax.scan(step, order, (keys[:-1], starts))
        return shuffled(order, keys[-1], num_frames - rest, rest) if rest else order


@dataclass(frozen=True)
class Shared:
    """A `share` of each frame's variance is one noise for all frames: "mixed noise".

    share: the correlation of any two frames, 0 to 1; alpha^2 / (1 + alpha^2) of the paper's alpha.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise Refusal(f"share is {self.share}; it must be from 0 to 1")

    def __call__(self, key: Array, shape: Shape) -> Float[Array, "t h w c"]:
        common_key, own_key = jax.random.split(key)
        common = jax.random.normal(common_key, (1, *shape[1:]))
        own = jax.random.normal(own_key, shape)
        return math.sqrt(self.share) * common + math.sqrt(1 - self.share) * own
