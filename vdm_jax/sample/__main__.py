"""`python -m vdm_jax.sample --model runs/x --image a.png --prompt "…" --output out.mp4`."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from vdm_jax.core import command, video
from vdm_jax.core import config as configs
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.transform import cover
from vdm_jax.sample import load
from vdm_jax.sample.generate import Generator
from vdm_jax.tasks.task import Task

PROG = "python -m vdm_jax.sample"
DRAW_BATCH = 16  # videos drawn at once
SUFFIXES = (".mp4", ".gif", ".webp", "")


@dataclass(frozen=True, kw_only=True)
class Request:
    """Make videos with a trained model: from a caption, from a picture, or from both."""

    model: str = ""
    """Directory of a training run, or of a model."""
    output: str = "out.mp4"
    """File to write: .mp4, .gif, .webp, or a folder for PNG."""
    prompt: str = ""
    """What should happen."""
    image: str = ""
    """Picture that the video begins with; scaled and cropped to the model's size."""
    seed: int = 0
    """The same request with the same seed gives the same video."""
    num_videos: int = 1
    """Videos to make; if more than one, their numbers are added to the name of the output."""
    num_steps: int | None = None
    """Denoising steps; None takes the model's own."""
    guidance_scale: float | None = None
    """How hard the prompt is followed; None takes the model's own."""


def main(args: Sequence[str]) -> int:
    """Exit code 0, and a line for each file that was written."""
    logging.getLogger("vdm_jax").setLevel(logging.WARNING)
    request = configs.override(Request(), args, prog=PROG)
    _check(request)
    config = load.describe(Path(request.model))
    if request.prompt and config.model.text is None:
        raise Refusal("--prompt: this model was trained without captions")
    task = _tuned(config.task, request)
    picture = _picture(request, task)
    mesh = MeshConfig().build()
    params = load.weights(Path(request.model), config, mesh)
    with tqdm(desc="compiling, then drawing", unit=" evaluations", leave=False) as bar:
        generate = Generator(
            task,
            config.model,
            mesh,
            batch_size=min(request.num_videos, DRAW_BATCH),
            on_step=bar.update,
        )
        pictures = None if picture is None else np.stack([picture] * request.num_videos)
        captions = [request.prompt] * request.num_videos
        videos = generate(params, captions, pictures, seed=request.seed)
    for path, frames in zip(_paths(request), videos, strict=True):
        video.write(path, frames, task.video.fps)
        t, h, w, _ = frames.shape
        print(f"{path}: {t} frames of {w}x{h} at {task.video.fps:g} frames/s, seed {request.seed}")
    return 0


def _check(request: Request) -> None:
    if not request.model:
        raise Refusal(
            f"--model is missing: the directory of a run or of a model; see {PROG} --help"
        )
    if Path(request.output).suffix.lower() not in SUFFIXES:
        raise Refusal(f"--output {request.output}: write .mp4, .gif, .webp or a folder")
    if request.num_videos < 1:
        raise Refusal(f"--num-videos must be at least 1, got {request.num_videos}")
    if not 0 <= request.seed < 2**32:
        raise Refusal(f"--seed must lie in [0, 2^32), got {request.seed}")
    if not Path(request.output).name:
        raise Refusal(f"--output {request.output}: name a file or a new folder")
    for path in _paths(request):
        video.check_target(path)


def _tuned(task: Task, request: Request) -> Task:
    """The task with the sampling settings that the request names."""
    sampling = task.sampling
    if request.num_steps is not None:
        sampling = replace(sampling, num_steps=request.num_steps)
    if request.guidance_scale is not None:
        sampling = replace(sampling, guidance_scale=request.guidance_scale)
    return task.resampled(sampling)


def _picture(request: Request, task: Task) -> UInt8[np.ndarray, "h w 3"] | None:
    if not request.image:
        return None
    if not task.takes_picture:
        raise Refusal("--image: this model makes videos from captions only")
    size = (task.video.height, task.video.width)
    return cover(video.read_image(request.image)[None], size)[0]


def _paths(request: Request) -> list[Path]:
    path = Path(request.output)
    if request.num_videos == 1:
        return [path]
    return [path.with_stem(f"{path.stem}_{i}") for i in range(request.num_videos)]


if __name__ == "__main__":
    command.run(main)
