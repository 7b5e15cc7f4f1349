"""Larger videos: several times as high and as wide."""

from dataclasses import dataclass
from pathlib import Path

from vdm_jax.core import video
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.video import Clip
from vdm_jax.sample import load, long, upscale
from vdm_jax.sample.bar import Steps
from vdm_jax.sample.commands import asked
from vdm_jax.sample.commands.asked import Asked
from vdm_jax.sample.upscale import Enlarging
from vdm_jax.tasks.task import Pretrained, tuned


@dataclass(frozen=True, kw_only=True)
class Upscale(Asked):
    """Make a video larger: by a model of super-resolution, or by guidance of any that draws pixels.

    The result has the frames of the video, and its size times the factor.
    """

    prompt: str = ""
    """What happens in the video."""
    video: str = ""
    """The video, or a folder of pictures."""
    factor: int | None = None
    """Times as high and as wide; a model of super-resolution has its own."""
    noise_aug: float | None = None
    """Noise on the video, 0 to what the model was trained with: more forgives more that is wrong in
    it, and makes up more."""
    tile: int | None = None
    """Height and width, in pixels of the result, of what is drawn at once; None is the size of the
    videos that the model was trained on."""
    tile_overlap: int | None = None
    """Pixels that neighbouring tiles share; None is a quarter of one."""
    overlap: int | None = None
    """Frames that neighbouring windows share, where the video is longer than the model draws; None
    is a quarter of a window."""
    weight: float | None = None
    """How hard a model that was not trained to enlarge is pulled to the video; None is the factor
    squared."""


def run(request: Upscale) -> int:
    """Exit code 0, and a line for the file that was written."""
    request.check()
    settings, told = request.changes(), ("height", "width")
    if set(told) & set(settings):
        raise Refusal("--height, --width: the result is as large as --video times the factor")
    clip = _clip(request.video, settings.pop("num_frames", None), settings.get("fps"))
    if request.noise_aug is not None:
        settings["noise_aug"] = request.noise_aug
    config = load.describe(Path(request.model))
    made = Pretrained(config.model, tuned(config.task, settings))
    how = Enlarging(
        factor=request.factor,
        overlap=request.overlap,
        tile=request.tile,
        tile_overlap=request.tile_overlap,
        weight=request.weight,
    )
    task = upscale.check(made, how)
    if request.prompt and made.model.text is None:
        raise Refusal("--prompt: this model was trained without captions")
    with Steps("loading the model") as bar:
        opened = long.opener(
            request.model, dtype=request.dtype, mesh=request.mesh.build(), on_step=bar.step,
            **settings,
        )  # fmt: skip
        bar.begin(long.steps(task))
        large = upscale.enlarged(opened, made, clip, how, prompt=request.prompt, seed=request.seed)
    asked.write(request.output, large.frames / 255, large.fps, request.seed)
    return 0


def _clip(path: str, count: int | None, fps: float | None) -> Clip:
    """The first `count` frames of the video, at its own rate or as if it had another."""
    if not path:
        raise Refusal("--video is missing: a video file, or a folder of PNG files")
    if count is not None and count < 1:
        raise Refusal(f"--num-frames must be at least 1, got {count}")
    clip = video.read(path, stop=count)
    return Clip(clip.frames[:count], clip.fps if fps is None else fps)
