"""Videos that go on: the next frames of one, and as many as are asked for."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from vdm_jax.core import video
from vdm_jax.core.refusal import Refusal
from vdm_jax.sample import load, long
from vdm_jax.sample.bar import Steps
from vdm_jax.sample.commands import asked
from vdm_jax.sample.commands.asked import Asked
from vdm_jax.sample.commands.comparing import Row, report
from vdm_jax.sample.long import Autoregressive, Film, FreeNoise, Hierarchical, Plan, Reuse
from vdm_jax.sample.memory import Watched
from vdm_jax.tasks import space
from vdm_jax.tasks.task import Denoising, Pretrained, tuned


@dataclass(frozen=True, kw_only=True)
class Extend(Asked):
    """Make a video longer than the model was trained on; `--num-frames` says how long."""

    prompt: tuple[str, ...] = ("",)
    """What should happen; of several prompts, each as long, one after another."""
    video: str = ""
    """A video that goes on. Without it, one is made from its beginning."""
    given: int | None = None
    """Frames of that video to begin with; None is all."""
    image: str = ""
    """A picture that the video begins with, for models that take one."""
    plan: tuple[str, ...] = ("ar",)
    """ar, hierarchical, reuse or freenoise. Of several plans a report compares the videos."""
    overlap: int | None = None
    """Frames that a window shares with the one before; None is what suits the plan. Like all
    numbers of a plan, of the space that the network works in: there one may stand for several."""
    every: int | None = None
    """Frames from one keyframe to the next (hierarchical); None is a third of a window."""
    stride: int | None = None
    """Frames from one window to the next (freenoise); None is a quarter of a window."""


@dataclass(frozen=True, kw_only=True)
class Predict(Asked):
    """Make the next frames of a video, as many as the model draws at once."""

    prompt: str = ""
    """What should happen."""
    video: str = ""
    """The video that goes on, by its last frames."""
    given: int = 4
    """Frames that the model is told, the last ones of the video."""


def extend(request: Extend) -> int:
    """Exit code 0, and a line for each file that was written."""
    request.check()
    plans = _plans(request)
    settings = request.changes()
    total = settings.pop("num_frames", None)
    made = _made(request.model, settings)
    if total is None:
        raise Refusal("--num-frames is missing: how many frames the video is to have")
    film = Film(total, request.prompt, _first(request, made), _picture(request))
    if film.first is not None and len(film.first) >= total:
        raise Refusal(
            f"--video has {len(film.first)} frames already; ask for more than that with "
            f"--num-frames, or begin with fewer with --given"
        )
    _check(film, made)
    for plan in plans.values():
        plan.evaluations(made, film)  # refuses what is no plan for this model
    shape = made.task.video
    rows = []
    for name, plan in plans.items():
        path = _path(request.output, name if len(plans) > 1 else "")
        video.check_target(path)
        begin = time.monotonic()
        with Watched() as memory:
            drawn = _drawn(request, settings, plan, made, film)
        asked.write(str(path), drawn.video, shape.fps, request.seed)
        rows.append(Row(name, path, drawn, time.monotonic() - begin, memory.most))
    if len(plans) > 1:
        page = Path(request.output).with_suffix(".html")
        report(page, rows, window=shape.num_frames, fps=shape.fps)
        print(f"{page}: the videos beside each other, their seams, drift and memory")
    return 0


def predict(request: Predict) -> int:
    """Exit code 0, and a line for the file that was written."""
    request.check()
    settings = request.changes()
    settings.pop("num_frames", None)
    made = _made(request.model, settings)
    size = made.task.video.num_frames
    if not 1 <= request.given < size:
        raise Refusal(f"--given: this model is told 1 to {size - 1} frames, got {request.given}")
    frames = asked.read(request.video, "--video", made.task.video)
    if len(frames) < request.given:
        raise Refusal(f"--given {request.given}: {request.video} has {len(frames)} frames")
    film = Film(size, (request.prompt,), frames[-request.given :])
    _check(film, made)
    drawn = _drawn(request, settings, Autoregressive(), made, film)
    asked.write(request.output, drawn.video, made.task.video.fps, request.seed)
    return 0


def _drawn(request: Asked, settings, plan: Plan, made: Pretrained, film: Film) -> long.Drawn:
    with Steps("loading the model") as bar:
        opened = long.opener(
            request.model, dtype=request.dtype, mesh=request.mesh.build(), on_step=bar.step,
            **settings,
        )  # fmt: skip
        bar.begin(plan.evaluations(made, film))
        return plan(opened, made, film, seed=request.seed)


def _made(directory: str, settings) -> Pretrained:
    there = load.describe(Path(directory))
    task = tuned(there.task, settings)
    if not isinstance(task, Denoising):
        raise Refusal(f"--model {directory}: {type(task).__name__} draws no videos from noise")
    return Pretrained(there.model, task)


def _check(film: Film, made: Pretrained) -> None:
    """Refuse frames that the model cannot be told."""
    span = space.span(made.model, made.task.video)
    if film.first is not None and len(film.first) % span:
        raise Refusal(
            f"--given: this model takes {span} frames at once; give a multiple of {span}, got "
            f"{len(film.first)}"
        )


def _plans(request: Extend) -> dict[str, Plan]:
    there: dict[str, Plan] = {
        "ar": Autoregressive(request.overlap),
        "hierarchical": Hierarchical(request.every, request.overlap),
        "reuse": Reuse(request.overlap),
        "freenoise": FreeNoise(request.stride),
    }
    unknown = [name for name in request.plan if name not in there]
    if unknown or not request.plan:
        raise Refusal(f"--plan {' '.join(unknown)}: there are {', '.join(there)}")
    return {name: there[name] for name in request.plan}


def _first(request: Extend, made: Pretrained) -> UInt8[np.ndarray, "t h w 3"] | None:
    if not request.video:
        return None
    frames = asked.read(request.video, "--video", made.task.video)
    if request.given is not None and not 1 <= request.given <= len(frames):
        raise Refusal(f"--given: {request.video} has {len(frames)} frames, got {request.given}")
    return frames[: request.given]


def _picture(request: Extend) -> UInt8[np.ndarray, "_ _ 3"] | None:
    return video.read_image(request.image) if request.image else None


def _path(output: str, name: str) -> Path:
    path = Path(output)
    return path.with_stem(f"{path.stem}_{name}") if name else path
