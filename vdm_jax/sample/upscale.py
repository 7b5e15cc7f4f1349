"""A video of any size and length, larger.

By a model of super-resolution (`tasks.super_resolution`), or by any other that draws pixels, by
guidance (`tasks.reconstruction`). What is more than the model draws at once is drawn in tiles
(`diffusion.tiles`) and in windows of frames (`diffusion.windows`), all of them at every noise
level, so that neighbours agree; latents are decoded in the same tiles.
"""

from dataclasses import dataclass, replace
from math import lcm
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8

from vdm_jax.core.refusal import Refusal
from vdm_jax.core.video import Clip
from vdm_jax.diffusion.denoiser import Denoiser
from vdm_jax.diffusion.tiles import GAUSSIAN, tiled
from vdm_jax.diffusion.windows import TRIANGLE, windowed
from vdm_jax.models.cond import frames_of, region_of
from vdm_jax.nn.pieces import Tiled
from vdm_jax.sample.long import Open
from vdm_jax.tasks.reconstruction import SMALL, Reconstruction
from vdm_jax.tasks.super_resolution import SuperResolution
from vdm_jax.tasks.task import Denoising, ModelConfig, Pretrained, Task, tuned


class Tile(NamedTuple):
    """What is denoised at once, in positions of the space that the network works in."""

    height: int
    width: int
    overlap: int


@dataclass(frozen=True, kw_only=True)
class Enlarging:
    """How a model enlarges videos; None takes what suits the model.

    factor: times as high and as wide; a model of super-resolution has its own.
    overlap: frames that windows share; a quarter of a window.
    tile: height and width of a tile in pixels; those of the videos that the model was trained on.
    tile_overlap: pixels that tiles share; a quarter of one.
    weight: of the small video in guidance (w_r); the factor squared.
    """

    factor: int | None = None
    overlap: int | None = None
    tile: int | None = None
    tile_overlap: int | None = None
    weight: float | None = None

    def times(self, task: Task) -> int:
        """The factor by which this model enlarges. Raises Refusal where nothing says."""
        trained = task.degrade.factor if isinstance(task, SuperResolution) else None
        factor = trained if self.factor is None else self.factor
        if factor is None:
            raise Refusal(
                f"factor is missing: {type(task).__name__} was not trained to enlarge by one"
            )
        if trained not in (None, factor):
            raise Refusal(f"factor {factor}: this model enlarges {trained} times")
        if factor < 2:
            raise Refusal(f"factor must be at least 2, got {factor}")
        return factor

    def tiles(self, made: Pretrained) -> Tile:
        """Raises Refusal for tiles that the network cannot take, or that share none or all."""
        scale, video = _scale(made.model), made.task.video
        size = (video.height, video.width) if self.tile is None else (self.tile,) * 2
        stride = scale * _stride(made.model)
        if self.tile is not None and (self.tile < 1 or self.tile % stride):
            raise Refusal(f"tile must be a multiple of {stride} for this model, got {self.tile}")
        least = min(size)
        overlap = max(scale, least // 4) if self.tile_overlap is None else self.tile_overlap
        if not scale <= overlap < least:
            raise Refusal(f"tile_overlap must lie in {scale} to {least - 1}, got {overlap}")
        return Tile(-(-size[0] // scale), -(-size[1] // scale), overlap // scale)

    def shared(self, task: Task) -> int:
        """Frames that windows share. Raises Refusal for none, or all."""
        size = task.video.num_frames
        overlap = max(1, size // 4) if self.overlap is None else self.overlap
        if size > 1 and not 0 < overlap < size:
            raise Refusal(f"overlap must lie in 1 to {size - 1}, got {overlap}")
        return overlap


def check(made: Pretrained, how: Enlarging) -> Denoising:
    """The task; refuses what `enlarged` cannot do, before anything is loaded."""
    if not isinstance(made.task, Denoising):
        raise Refusal(f"{type(made.task).__name__} draws no videos from noise")
    if not isinstance(made.task, SuperResolution) and made.model.vae is not None:
        raise Refusal(
            f"{type(made.task).__name__} draws latents; only a model of super-resolution, or one "
            f"that draws pixels, enlarges a video"
        )
    how.times(made.task)
    how.tiles(made)
    how.shared(made.task)
    return made.task


def enlarged(
    opened: Open, made: Pretrained, clip: Clip, how: Enlarging, *, prompt: str = "", seed: int = 0
) -> Clip:
    """The clip `factor` times as high and as wide, of as many frames.

    made: what `opened` opens, with its settings.
    """
    check(made, how)
    factor, (t, h, w, _) = how.times(made.task), clip.frames.shape
    small = _padded(clip.frames, made, factor)
    size = {
        "num_frames": t, "height": factor * small.shape[1], "width": factor * small.shape[2],
        "fps": clip.fps,
    }  # fmt: skip
    tile, window, overlap = how.tiles(made), made.task.video.num_frames, how.shared(made.task)

    def around(denoise: Denoiser) -> Denoiser:
        denoise = tiled(jax.checkpoint(denoise), *tile, GAUSSIAN, region_of)
        return windowed(denoise, window, overlap, TRIANGLE, frames_of)

    def adapt(made: Pretrained) -> Pretrained:
        task = tuned(made.task, size)
        if not isinstance(task, SuperResolution):
            assert isinstance(task, Denoising)
            weight = float(factor**2 if how.weight is None else how.weight)
            task = Reconstruction(task=task, small_weight=weight)
        elif made.model.vae is not None:
            task = replace(task, decoding=Tiled(*tile, frames=task.decoding))
        return replace(made, task=task)

    pipeline = opened(adapt=adapt, around=around)
    if isinstance(made.task, SuperResolution):
        video = pipeline(list(small), [prompt], seed=seed)[0]
    else:
        known = {SMALL: small[None].astype(np.float32) / 127.5 - 1}
        video = pipeline(None, [prompt], seed=seed, given=known)[0]
    large = np.round(255 * video[:, : factor * h, : factor * w]).astype(np.uint8)
    return Clip(large, clip.fps)


def _padded(
    frames: UInt8[np.ndarray, "t h w 3"], made: Pretrained, factor: int
) -> UInt8[np.ndarray, "t H W 3"]:
    """With edges repeated below and to the right, so that the large video suits the network."""
    stride = _stride(made.model)
    multiple = lcm(stride * _scale(made.model) if stride > 1 else 1, factor) // factor
    spare = [-size % multiple for size in frames.shape[1:3]]
    return np.pad(frames, ((0, 0), (0, spare[0]), (0, spare[1]), (0, 0)), "edge")


def _scale(model: ModelConfig) -> int:
    """Pixels, each way, of one position of the space that the network works in."""
    return 1 if model.vae is None else model.vae.stride


def _stride(model: ModelConfig) -> int:
    """Heights and widths in that space must be multiples of this."""
    return 1 if model.network is None else model.network.stride
