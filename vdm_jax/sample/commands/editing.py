"""A video made another by noise: part of the way up and down again, or all of the way by DDIM."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.schedule import Remaining
from vdm_jax.sample import load, long
from vdm_jax.sample.bar import Steps
from vdm_jax.sample.commands import asked
from vdm_jax.sample.commands.asked import Asked
from vdm_jax.sample.pipeline import Pipeline
from vdm_jax.tasks import denoising
from vdm_jax.tasks.task import Denoising, Pretrained, tuned


@dataclass(frozen=True, kw_only=True)
class Edit(Asked):
    """Draw a video anew from itself: by noising it (SDEdit), or by inverting it (DDIM)."""

    prompt: str = ""
    """What the new video should show."""
    video: str = ""
    """The video to begin with; as many of its frames as the model draws."""
    strength: float = 0.6
    """How much of the way to noise and back it goes: 0 changes nothing, 1 keeps nothing."""
    original: str | None = None
    """What the video shows. With it the video is inverted, all of the way, and drawn again from
    its own noise; `--strength` is not used."""


def run(request: Edit) -> int:
    """Exit code 0, and a line for the file that was written."""
    request.check()
    if not 0 <= request.strength <= 1:
        raise Refusal(f"--strength must lie in [0, 1], got {request.strength}")
    settings = request.changes()
    task = tuned(load.describe(Path(request.model)).task, settings)
    if not isinstance(task, Denoising):
        raise Refusal(f"--model {request.model}: {type(task).__name__} draws no videos from noise")
    frames = asked.read(request.video, "--video", task.video)[: task.video.num_frames]
    if len(frames) < task.video.num_frames:
        raise Refusal(
            f"--video {request.video} has {len(frames)} frames; this model draws "
            f"{task.video.num_frames}"
        )
    steps = round(request.strength * task.sampling.num_steps)
    video = frames.astype(np.float32) / 255
    if steps or request.original is not None:
        video = _edited(request, task, frames, settings)
    asked.write(request.output, video, task.video.fps, request.seed)
    return 0


def _edited(
    request: Edit, task: Denoising, frames: np.ndarray, settings: Mapping[str, Any]
) -> Float[np.ndarray, "t h w 3"]:
    inverting = request.original is not None
    share = 1.0 if inverting else request.strength
    with Steps("loading the model") as bar:
        pipeline = long.opener(
            request.model, dtype=request.dtype, mesh=request.mesh.build(), on_step=bar.step,
            **settings,
        )(adapt=lambda made: partly(made, share))  # fmt: skip
        each = max(1, round(share * task.sampling.num_steps))
        bar.begin(each * (task.sampling.sampler.evaluations + inverting))
        x0 = pipeline.encode(frames[None])
        pictures = [frames[0]] if task.pictures == 1 else None
        if request.original is None:
            noise = noised(pipeline, x0, request.seed)
        else:
            noise = pipeline.invert(x0, [request.original], pictures)
        given = {denoising.NOISE: noise}
        drawn = pipeline.draw([request.prompt], pictures, given=given, seed=request.seed)
        return pipeline.decode(drawn)[0]


def partly(made: Pretrained, share: float) -> Pretrained:
    """The same model and task, of whose noise levels the last ones are walked down."""
    task = made.task
    assert isinstance(task, Denoising)
    if share == 1:
        return made
    process = replace(task.process, schedule=Remaining(task.process.schedule, share))
    return replace(made, task=tuned(task, {"process": process}))


def noised(
    pipeline: Pipeline, x0: Float[np.ndarray, "n t h w c"], seed: int
) -> Float[np.ndarray, "n t h w c"]:
    """What a pipeline of `partly` draws from, to begin with `x0`."""
    assert isinstance(pipeline.task, Denoising)
    eps = np.asarray(jax.random.normal(jax.random.key(seed), x0.shape))
    return denoising.partly_noised(pipeline.task, x0, eps)
