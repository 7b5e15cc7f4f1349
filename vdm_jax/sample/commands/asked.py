"""What every request to draw says, and what is the same about carrying it out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from vdm_jax.core import video
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.transform import cover
from vdm_jax.sample.pipeline import Dtype
from vdm_jax.sample.settings import Settings
from vdm_jax.tasks.task import VideoShape

SUFFIXES = (".mp4", ".gif", ".webp", "")


@dataclass(frozen=True, kw_only=True)
class Asked(Settings):
    """Which model draws, and where to."""

    model: str = ""
    """Directory of a training run, or of a model: required."""
    output: str = "out.mp4"
    """File to write: .mp4, .gif, .webp, or a folder for PNG."""
    seed: int = 0
    """The same request with the same seed gives the same video."""
    dtype: Dtype | None = None
    """What to compute in; None is float32 on CPU, bfloat16 elsewhere."""
    mesh: MeshConfig = MeshConfig()
    """How the devices share the work."""

    def check(self) -> None:
        """Refuse, before anything is loaded, what cannot be done."""
        if not self.model:
            raise Refusal(
                "--model is missing: the directory of a run or of a model; see "
                "python -m vdm_jax.sample --help"
            )
        if Path(self.output).suffix.lower() not in SUFFIXES:
            raise Refusal(f"--output {self.output}: write .mp4, .gif, .webp or a folder")
        if not 0 <= self.seed < 2**32:
            raise Refusal(f"--seed must lie in [0, 2^32), got {self.seed}")
        if not Path(self.output).name:
            raise Refusal(f"--output {self.output}: name a file or a new folder")
        if Path(self.output).suffix:  # a folder of pictures may get a number yet
            video.check_target(Path(self.output))


def read(path: str, option: str, shape: VideoShape) -> UInt8[np.ndarray, "t h w 3"]:
    """A video of the size that the model draws. Raises Refusal naming the option."""
    if not path:
        raise Refusal(f"{option} is missing: a video file, or a folder of PNG files")
    return cover(video.read(path).frames, (shape.height, shape.width))


def write(path: str, frames: Float[np.ndarray, "t h w 3"], fps: float | int, seed: int) -> None:
    """The video in 0..1, and a line that says so."""
    video.write(path, np.round(frames * 255).astype(np.uint8), fps)
    t, h, w, _ = frames.shape
    print(f"{path}: {t} frames of {w}x{h} at {fps:g} frames/s, seed {seed}")
