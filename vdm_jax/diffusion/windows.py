"""A long video through a denoiser of short ones: window by window, at every noise level.

`windowed` turns a denoiser of `size` frames into one of any number. The windows of one step see
the same noisy frames where they overlap, so neighbours agree on how each frame has come so far.

Taking every frame from the first window that has it (`FIRST`) is the reuse of trajectories: the
frames that a window shares with the one before stand in it, at every level, as that one had them.
Averaging the windows (`TRIANGLE`) is joint denoising: Bar-Tal et al. 2023 (MultiDiffusion,
arXiv:2302.08113, equation 5), over time. Either costs as many windows a step as there are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.denoiser import Denoiser
from vdm_jax.diffusion.level import Level

Video = Float[Array, "b t h w c"]
Cut = Callable[[PyTree, Int[Array, " size"]], PyTree]
"""The frames of these numbers, of a cond."""


@runtime_checkable
class Merge(Protocol):
    """How much each window counts in each frame."""

    def weights(self, starts: tuple[int, ...], size: int) -> Float[np.ndarray, "n size"]:
        """Those of one frame sum to one."""
        ...


@dataclass(frozen=True)
class First:
    """A frame is what the first window that has it says: the reuse of trajectories."""

    def weights(self, starts: tuple[int, ...], size: int) -> Float[np.ndarray, "n size"]:
        frames = np.array(starts)[:, None] + np.arange(size)
        before = np.array([0, *(start + size for start in starts[:-1])])
        return (frames >= before[:, None]).astype(np.float32)


@dataclass(frozen=True)
class Triangle:
    """A window counts most in its middle: joint denoising."""

    def weights(self, starts: tuple[int, ...], size: int) -> Float[np.ndarray, "n size"]:
        rise = np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)).astype(np.float64)
        total = np.zeros(starts[-1] + size)
        for start in starts:
            total[start : start + size] += rise
        return np.stack([rise / total[s : s + size] for s in starts]).astype(np.float32)


FIRST, TRIANGLE = First(), Triangle()


def starts(num_frames: int, size: int, overlap: int) -> tuple[int, ...]:
    """Where windows begin that share `overlap` frames, the last as many as it takes to end well.

    Raises Refusal for windows that share none, or all.
    """
    if not 0 < overlap < size:
        raise Refusal(f"windows of {size} frames share from 1 to {size - 1}, got {overlap}")
    if num_frames <= size:
        return (0,)
    regular = range(0, num_frames - size, size - overlap)
    return (*regular, num_frames - size)


def windowed(denoise: Denoiser, size: int, overlap: int, merge: Merge, cut: Cut) -> Denoiser:
    """`denoise` of videos of any length, of which it sees `size` frames at a time.

    A video of at most `size` frames passes through as it is. The windows run one after another
    in one compiled loop: memory is that of one.
    """

    def long(z: Video, level: Level, cond: PyTree) -> Video:
        num_frames = z.shape[1]
        if num_frames <= size:
            return denoise(z, level, cond)
        begin = starts(num_frames, size, overlap)
        level = level.frames(z)

        def one(total: Video, window: tuple[Array, Array]) -> tuple[Video, None]:
            start, weight = window
            frames = start + jnp.arange(size)
            seen = Level(*(part[:, frames] for part in level))
            x0 = denoise(z[:, frames], seen, cut(cond, frames))
            return total.at[:, frames].add(weight[None, :, None, None, None] * x0), None

        weights = jnp.asarray(merge.weights(begin, size), z.dtype)
        total, _ = jax.lax.scan(one, jnp.zeros_like(z), (jnp.array(begin), weights))
        return total

    return long
