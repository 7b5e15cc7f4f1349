"""Large frames through a denoiser of small ones: tile by tile, at every noise level.

`tiled` is the twin of `windows.windowed` in space. The tiles of one step see the same noisy pixels
where they overlap, and the next step begins from what they say together, so no seam can grow: what
one tile makes up at its edge, the next has seen before it goes on (Bar-Tal et al. 2023,
MultiDiffusion, arXiv:2302.08113, equation 5). With Gaussian weights (`GAUSSIAN`), as restoration
does it (Wang et al. 2023, StableSR, arXiv:2305.07015, section 3.4), a tile counts for next to
nothing at its edge, where it knows least of what is around.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.denoiser import Denoiser
from vdm_jax.diffusion.level import Level
from vdm_jax.diffusion.windows import Merge, starts

Video = Float[Array, "b t h w c"]
Corner = tuple[Int[Array, ""], Int[Array, ""]]
"""The first row and the first column of a tile."""
Cut = Callable[[PyTree, Corner, tuple[int, int]], PyTree]
"""The part of a cond that belongs to the tile at a corner, of so many rows and columns."""


@dataclass(frozen=True)
class Gaussian:
    """exp(-d^2 / 2 variance), with d the distance from the middle of a tile in its own lengths."""

    variance: float = 0.01

    def __post_init__(self) -> None:
        if not self.variance > 0:
            raise Refusal(f"variance must be above 0, got {self.variance}")

    def weights(self, starts: tuple[int, ...], size: int) -> Float[np.ndarray, "n size"]:
        distance = (np.arange(size) - (size - 1) / 2) / size
        bell = np.exp(-(distance**2) / (2 * self.variance))
        total = np.zeros(starts[-1] + size)
        for start in starts:
            total[start : start + size] += bell
        return np.stack([bell / total[s : s + size] for s in starts]).astype(np.float32)


GAUSSIAN = Gaussian()


class _Places(NamedTuple):
    """Every tile of a frame: where it begins, and how much its rows and its columns count."""

    top: Int[Array, " n"]
    left: Int[Array, " n"]
    rows: Float[Array, "n height"]
    columns: Float[Array, "n width"]


def tiled(
    denoise: Denoiser, height: int, width: int, overlap: int, merge: Merge, cut: Cut
) -> Denoiser:
    """`denoise` of frames of any size, of which it sees `height` x `width` at a time.

    Sizes are in positions of what is denoised, pixels or latents; neighbours share `overlap` rows
    or columns, or more. Frames that fit into one tile pass through as they are. The tiles run one
    after another in one compiled loop: memory is that of one.

    Raises Refusal for tiles that share nothing, or all.
    """

    def large(z: Video, level: Level, cond: PyTree) -> Video:
        frame = z.shape[2], z.shape[3]
        size = min(height, frame[0]), min(width, frame[1])
        if size == frame:
            return denoise(z, level, cond)
        tile = (*z.shape[:2], *size, z.shape[4])

        def one(total: Video, place: _Places) -> tuple[Video, None]:
            corner = (0, 0, place.top, place.left, 0)
            seen = jax.lax.dynamic_slice(z, corner, tile)
            x0 = denoise(seen, level, cut(cond, (place.top, place.left), size))
            weight = place.rows[:, None, None] * place.columns[None, :, None]
            so_far = jax.lax.dynamic_slice(total, corner, tile) + weight[None, None] * x0
            return jax.lax.dynamic_update_slice(total, so_far, corner), None

        places = _places(frame, size, overlap, merge, z.dtype)
        return jax.lax.scan(one, jnp.zeros_like(z), places)[0]

    return large


def _places(
    frame: tuple[int, int], size: tuple[int, int], overlap: int, merge: Merge, dtype: np.dtype
) -> _Places:
    """Row by row; along an axis that fits there is one tile, which counts whole."""
    begins, weights = [], []
    for length, part in zip(frame, size, strict=True):
        begin = (0,) if part == length else starts(length, part, overlap)
        begins.append(np.array(begin, np.int32))
        weights.append(merge.weights(begin, part))
    down, across = (len(begin) for begin in begins)
    row, column = np.divmod(np.arange(down * across), across)
    return _Places(
        jnp.asarray(begins[0][row]),
        jnp.asarray(begins[1][column]),
        jnp.asarray(weights[0][row], dtype),
        jnp.asarray(weights[1][column], dtype),
    )
