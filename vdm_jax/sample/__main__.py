"""`python -m vdm_jax.sample --model runs/x --image a.png --prompt "…" --output out.mp4`."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from vdm_jax.core import command, video
from vdm_jax.core import config as configs
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.transform import centre_crop
from vdm_jax.nn.pieces import Chunked
from vdm_jax.sample import load, room
from vdm_jax.sample.bar import Steps
from vdm_jax.sample.pipeline import Dtype, Pipeline, default_dtype
from vdm_jax.sample.settings import Settings
from vdm_jax.tasks.stable_video import StableVideo
from vdm_jax.tasks.task import Task, tuned

PROG = "python -m vdm_jax.sample"
DRAW_BATCH = 16  # videos drawn at once
SUFFIXES = (".mp4", ".gif", ".webp", "")


@dataclass(frozen=True, kw_only=True)
class Request(Settings):
    """Make videos with a trained or converted model: from captions, from pictures, or from both."""

    model: str = ""
    """Directory of a training run, or of a model."""
    output: str = "out.mp4"
    """File to write: .mp4, .gif, .webp, or a folder for PNG. Several videos are numbered."""
    prompt: str = ""
    """What should happen."""
    image: tuple[str, ...] = ()
    """Pictures that the videos begin with; for interpolation the first and the last of each."""
    image_fit: Literal["crop", "stretch"] = "crop"
    """What becomes of a picture of another shape than the video; the original code of Stable Video
    Diffusion stretches it."""
    seed: int = 0
    """The same request with the same seed gives the same video."""
    num_videos: int = 1
    """Videos to make of each picture, or of the prompt."""
    dtype: Dtype | None = None
    """What to compute in; None is float32 on CPU, bfloat16 elsewhere."""
    mesh: MeshConfig = MeshConfig()
    """How the devices share the work."""


def main(args: Sequence[str]) -> int:
    """Exit code 0, and a line for each file that was written."""
    logging.getLogger("vdm_jax").setLevel(logging.WARNING)
    request = configs.override(Request(), args, prog=PROG)
    _check(request)
    config = load.describe(Path(request.model))
    if request.prompt and config.model.text is None:
        raise Refusal("--prompt: this model was trained without captions")
    settings = request.changes()
    task = tuned(config.task, settings)
    pictures, count = _pictures(request, task)
    paths = _paths(request, count)
    captions = [request.prompt] * count
    task.request(config.model, captions, pictures)  # refuses before anything is loaded
    mesh = request.mesh.build()
    dtype = request.dtype or default_dtype()
    batch_size = min(len(paths), DRAW_BATCH)
    if isinstance(task, StableVideo):
        model = load.in_dtype(config.model, dtype)
        if request.decode_chunk_size is None:
            chunk = room.chunk_that_fits(task, model, mesh, dtype)
            settings["decoding"] = Chunked(chunk)
            task = replace(task, decoding=settings["decoding"])
        batch_size = room.batch_that_fits(task, model, mesh, dtype, batch_size)
        print(room.announced(task, model, mesh, dtype, len(paths)), flush=True)
    with Steps(desc="loading the model", unit="step", leave=False, disable=None) as bar:
        pipeline = Pipeline(
            request.model,
            dtype=dtype,
            mesh=mesh,
            batch_size=batch_size,
            on_step=bar.step,
            **settings,
        )
        bar.reset(total=pipeline.evaluations(len(paths)))
        bar.set_description("compiling")
        videos = pipeline(pictures, captions, seed=request.seed)
    for path, frames in zip(paths, videos, strict=True):
        video.write(path, np.round(frames * 255).astype(np.uint8), task.video.fps)
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
    if Path(request.output).suffix:  # a folder of pictures may get a number yet
        video.check_target(Path(request.output))


def _pictures(request: Request, task: Task) -> tuple[list[UInt8[np.ndarray, "_ _ 3"]] | None, int]:
    """Those of each video, as often as it is made, and the number of videos.

    Says where a picture's shape is changed.
    """
    if not request.image:
        return None, request.num_videos
    if not task.pictures:
        raise Refusal("--image: this model makes videos from captions only")
    if len(request.image) % task.pictures:
        raise Refusal(
            f"--image: each video needs {task.pictures} pictures, got {len(request.image)}"
        )
    wanted = task.video.width / task.video.height
    pictures = []
    for path in request.image:
        picture = video.read_image(path)
        height, width, _ = picture.shape
        if request.image_fit == "crop":
            picture = centre_crop(picture, wanted)
        if picture.size < 0.98 * height * width * 3:
            h, w, _ = picture.shape
            print(f"{path}: {width}x{height} cropped to {w}x{h}, the shape of the video")
        pictures.append(picture)
    of_each = [pictures[i : i + task.pictures] for i in range(0, len(pictures), task.pictures)]
    made = [picture for one in of_each for picture in one * request.num_videos]
    return made, len(of_each) * request.num_videos


def _paths(request: Request, count: int) -> list[Path]:
    """The files to write; refuses those that cannot be."""
    path = Path(request.output)
    paths = [path] if count == 1 else [path.with_stem(f"{path.stem}_{i}") for i in range(count)]
    for each in paths:
        video.check_target(each)
    return paths


if __name__ == "__main__":
    command.run(main)
