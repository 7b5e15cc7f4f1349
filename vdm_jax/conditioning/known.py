"""Which frames of a video are known: drawn for training, and how they are told to a network.

Known frames stand beside the noisy ones as channels, each with one more that says how much of it
is signal: 1 for a frame as it is, less for one that is noised, 0 where nothing is known
(Blattmann et al. 2023, arXiv:2304.08818, section 3.2; noised: He et al. 2022, arXiv:2211.13221,
section 3.3). Zeros in all of them is the null of the port `concat`: a network
trained with some videos of which nothing is known makes videos from nothing as well, and can be
guided by what is known (context guidance, arXiv:2304.08818, equation 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.level import Level


@runtime_checkable
class KnownFrames(Protocol):
    """A law of which frames are known."""

    def sample(self, key: Array, shape: tuple[int, int]) -> Bool[Array, "b t"]:
        """Of b videos of t frames; at least one frame of each stays unknown."""
        ...


@dataclass(frozen=True)
class NoFrames:
    """None: videos from noise."""

    def sample(self, key: Array, shape: tuple[int, int]) -> Bool[Array, "b t"]:
        return jnp.zeros(shape, bool)


@dataclass(frozen=True)
class FirstFrames:
    """The first 1 to `most`, each number as likely: prediction."""

    most: int

    def __post_init__(self) -> None:
        _check_count("most", self.most)

    def sample(self, key: Array, shape: tuple[int, int]) -> Bool[Array, "b t"]:
        most = min(self.most, shape[1] - 1)
        count = jax.random.randint(key, (shape[0], 1), min(1, most), most + 1)
        return jnp.arange(shape[1])[None] < count


@dataclass(frozen=True)
class LastFrames:
    """The last 1 to `most`, each number as likely: what came before."""

    most: int

    def __post_init__(self) -> None:
        _check_count("most", self.most)

    def sample(self, key: Array, shape: tuple[int, int]) -> Bool[Array, "b t"]:
        return FirstFrames(self.most).sample(key, shape)[:, ::-1]


@dataclass(frozen=True)
class EndFrames:
    """The first and the last: interpolation."""

    def sample(self, key: Array, shape: tuple[int, int]) -> Bool[Array, "b t"]:
        index = jnp.arange(shape[1])
        ends = (index == 0) | (index == shape[1] - 1)
        return jnp.broadcast_to(ends[None] & (shape[1] > 2), shape)


@dataclass(frozen=True)
class EveryFrame:
    """Every `stride`-th from the first: more frames a second."""

    stride: int

    def __post_init__(self) -> None:
        if self.stride < 2:
            raise Refusal(f"every {self.stride}-th frame leaves none unknown; 2 is the least")

    def sample(self, key: Array, shape: tuple[int, int]) -> Bool[Array, "b t"]:
        known = (jnp.arange(shape[1]) % self.stride == 0) & (shape[1] > 1)
        return jnp.broadcast_to(known[None], shape)


@dataclass(frozen=True)
class AnyFrames:
    """Any: each with the same chance, which is drawn for each video."""

    def sample(self, key: Array, shape: tuple[int, int]) -> Bool[Array, "b t"]:
        share_key, frame_key, spare_key = jax.random.split(key, 3)
        share = jax.random.uniform(share_key, (shape[0], 1))
        known = jax.random.uniform(frame_key, shape) < share
        spared = jax.random.randint(spare_key, (shape[0], 1), 0, shape[1])
        return known & (jnp.arange(shape[1])[None] != spared)


@dataclass(frozen=True)
class OneOf:
    """One of several laws for each video, by `shares` of any sum."""

    laws: tuple[KnownFrames, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.laws or len(self.laws) != len(self.shares) or min(self.shares) <= 0:
            raise Refusal(f"each law needs a share above 0, got {self.shares} of {self.laws}")

    def sample(self, key: Array, shape: tuple[int, int]) -> Bool[Array, "b t"]:
        choice_key, *keys = jax.random.split(key, len(self.laws) + 1)
        chances = jnp.log(jnp.array(self.shares))
        choice = jax.random.categorical(choice_key, chances, shape=shape[:1])
        drawn = [law.sample(key, shape) for law, key in zip(self.laws, keys, strict=True)]
        return jnp.stack(drawn)[choice, jnp.arange(shape[0])]


def at(frames: Sequence[int], num_frames: int, count: int) -> Bool[np.ndarray, "count t"]:
    """The frames of these numbers, in each of some videos; negative ones count from the end.

    Raises Refusal for a number that the video has not, or twice the same.
    """
    known = np.zeros(num_frames, bool)
    for frame in frames:
        if not -num_frames <= frame < num_frames or known[frame]:
            raise Refusal(f"frames {tuple(frames)} of {num_frames}: each there, and named once")
        known[frame] = True
    return np.repeat(known[None], count, axis=0)


def nearest(known: Bool[Array, "b t"]) -> Int[Array, "b t"]:
    """The known frame next to each frame, the earlier of two; its own where none is known."""
    index = jnp.arange(known.shape[1])
    apart = jnp.abs(index[:, None] - index[None])[None]
    return jnp.argmin(apart + known.shape[1] * ~known[:, None], axis=-1)


def beside(
    x0: Float[Array, "b t h w c"],
    known: Bool[Array, "b t"],
    level: Level,
    eps: Float[Array, "b t h w c"],
) -> Float[Array, "b t h w _"]:
    """The channels that tell of the known frames, which are at `level` by the noise `eps`.

    They are scaled to alpha^2 + sigma^2 = 1.
    """
    alpha, sigma = level.broadcast(x0)
    norm = jnp.hypot(alpha, sigma)
    signal = jnp.broadcast_to(alpha / norm, (*x0.shape[:-1], 1))
    channels = jnp.concatenate([level.noised(x0, eps) / norm, signal], axis=-1)
    return jnp.where(known[..., None, None, None], channels, 0)


def told(concat: Float[Array, "b t h w _"]) -> Bool[Array, "b t"]:
    """The frames of which `beside` told."""
    return concat[:, :, 0, 0, -1] > 0


def _check_count(name: str, count: int) -> None:
    if count < 1:
        raise Refusal(f"{name} must be at least 1 frame, got {count}")
