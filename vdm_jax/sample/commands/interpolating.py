"""More frames a second: those between the frames of a video."""

from dataclasses import dataclass
from pathlib import Path

from vdm_jax.core.refusal import Refusal
from vdm_jax.sample import load, long
from vdm_jax.sample.bar import Steps
from vdm_jax.sample.commands import asked
from vdm_jax.sample.commands.asked import Asked
from vdm_jax.sample.long import Film
from vdm_jax.tasks.long_video import interpolation
from vdm_jax.tasks.task import Denoising, Pretrained, tuned


@dataclass(frozen=True, kw_only=True)
class Interpolate(Asked):
    """Make more frames a second: those given come out exactly as they went in."""

    prompt: str = ""
    """What happens in the video."""
    video: str = ""
    """The video, or a folder of pictures."""
    factor: int = 2
    """Times the frames a second: between n frames lie factor (n - 1) + 1 with them."""


def run(request: Interpolate) -> int:
    """Exit code 0, and a line for the file that was written."""
    request.check()
    settings = request.changes()
    settings.pop("num_frames", None)
    there = load.describe(Path(request.model))
    task = tuned(there.task, settings)
    if not isinstance(task, Denoising):
        raise Refusal(f"--model {request.model}: {type(task).__name__} draws no videos from noise")
    long.check_between(request.model, Pretrained(there.model, task))
    frames = asked.read(request.video, "--video", task.video)
    if len(frames) < 2:
        raise Refusal(f"--video {request.video}: there is nothing between {len(frames)} frames")
    windows = interpolation(len(frames), task.video.num_frames, request.factor)
    film = Film(request.factor * (len(frames) - 1) + 1, (request.prompt,))
    given = {request.factor * i: frame for i, frame in enumerate(frames)}
    with Steps("loading the model") as bar:
        pipeline = long.opener(
            request.model, dtype=request.dtype, mesh=request.mesh.build(), on_step=bar.step,
            **settings,
        )(adapt=long.told)  # fmt: skip
        bar.begin(len(windows) * long.steps(task))
        drawn = long.in_windows(pipeline, windows, film, request.seed, given)
    asked.write(request.output, drawn.video, request.factor * task.video.fps, request.seed)
    return 0
