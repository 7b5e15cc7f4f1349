"""Videos from captions, from pictures, or from both, as the model was trained to make them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from vdm_jax.core import video
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.video import Clip
from vdm_jax.data.transform import centre_crop
from vdm_jax.nn.pieces import Chunked
from vdm_jax.sample import embedding, load, room
from vdm_jax.sample.bar import Steps
from vdm_jax.sample.cascade import Cascade, Model
from vdm_jax.sample.commands.asked import Asked, write
from vdm_jax.sample.pipeline import Pipeline, default_dtype
from vdm_jax.tasks.denoising import EMBEDDED, check_embedded
from vdm_jax.tasks.stable_video import StableVideo
from vdm_jax.tasks.task import ModelConfig, Task, tuned

DRAW_BATCH = 16  # videos drawn at once


@dataclass(frozen=True, kw_only=True)
class Request(Asked):
    """Make videos with a trained or converted model: from captions, from pictures, or from both."""

    prompt: str = ""
    """What should happen."""
    embedding: str = ""
    """In place of --prompt: a .npy file of a caption that was embedded elsewhere, tokens by
    features, or of several, each for its own picture or for a video of its own."""
    image: tuple[str, ...] = ()
    """Pictures that the videos begin with; for interpolation the first and the last of each."""
    image_fit: Literal["crop", "stretch"] = "crop"
    """What becomes of a picture of another shape than the video; the original code of Stable Video
    Diffusion stretches it."""
    num_videos: int = 1
    """Videos to make of each picture, of the prompt, or of each embedding; several are numbered."""
    then: tuple[str, ...] = ()
    """Models that go on with each video, one after another: one that takes a picture begins a video
    with its first frame, one that is told frames makes them twice as many, one of super-resolution
    makes it larger."""

    def check(self) -> None:
        super().check()
        if self.num_videos < 1:
            raise Refusal(f"--num-videos must be at least 1, got {self.num_videos}")
        if self.prompt and self.embedding:
            raise Refusal("--prompt and --embedding both say what should happen: give one")


def from_captions(request: Request) -> int:
    """Refuses pictures."""
    if request.image:
        raise Refusal("--image: --task t2v makes videos of captions alone; use --task i2v")
    return run(request)


def from_pictures(request: Request) -> int:
    """Refuses to go without."""
    if not request.image:
        raise Refusal("--image is missing: --task i2v makes videos of pictures")
    return run(request)


def run(request: Request) -> int:
    """Exit code 0, and a line for each file that was written."""
    request.check()
    config = load.describe(Path(request.model))
    if request.prompt and config.model.text is None:
        raise Refusal("--prompt: this model was trained without captions")
    settings = request.changes()
    task = tuned(config.task, settings)
    pictures, count = _pictures(request, task)
    given = _embedded(request, config.model, count)
    count = len(given[EMBEDDED]) if given else count
    paths = _paths(request, count)
    captions = [request.prompt] * count
    reads = replace(config.model, text=None) if given else config.model
    task.request(reads, captions, pictures)  # refuses before anything is loaded
    for directory in request.then:
        Model(directory).check()
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
    with Steps("loading the model") as bar:
        pipeline = Pipeline(
            request.model,
            dtype=dtype,
            mesh=mesh,
            batch_size=batch_size,
            on_step=bar.step,
            **settings,
        )
        bar.begin(pipeline.evaluations(len(paths)))
        said = None if given else captions
        videos = pipeline(pictures, said, seed=request.seed, given=given)
        del pipeline  # its weights make room
        clips = [Clip(np.round(frames * 255).astype(np.uint8), task.video.fps) for frames in videos]
        if request.then:
            clips = [_gone_on(request, clip, n, mesh, bar) for n, clip in enumerate(clips)]
    for path, clip in zip(paths, clips, strict=True):
        write(str(path), clip.frames / 255, clip.fps, request.seed)
    return 0


def _gone_on(request: Request, clip: Clip, number: int, mesh: Mesh, bar: Steps) -> Clip:
    """What the models of --then make of video `number`; says what each does."""
    options = {"dtype": request.dtype, "mesh": mesh, "on_step": bar.step}
    stages = [
        Model(directory, request.prompt, options=options, begin=bar.begin)
        for directory in request.then
    ]

    def begun(clip: Clip | None, *, seed: int) -> Clip:
        del seed
        return given

    def said(stage: int, clip: Clip) -> None:
        (t, h, w, _), by = clip.frames.shape, (request.model, *request.then)[stage]
        bar.write(f"{by}: {t} frames of {w}x{h} at {clip.fps:g} frames/s")

    given, seed = clip, (request.seed + number) % 2**32
    return Cascade((begun, *stages))(seed=seed, on_stage=said)


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


def _embedded(request: Request, model: ModelConfig, count: int) -> dict[str, np.ndarray]:
    """Captions that are given as embeddings, one for each of `count` videos; where no pictures are
    given, they say how many videos there are."""
    if not request.embedding:
        return {}
    held = embedding.read(request.embedding)
    groups = count // request.num_videos if request.image else len(held)
    rows = embedding.spread(held, groups, request.num_videos)
    check_embedded(model, rows, len(rows))
    return {EMBEDDED: rows}
