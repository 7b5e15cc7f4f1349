"""A film that walks between prompts and seeds.

From one prompt to the next the embeddings of captions are joined by straight lines, the noise that
is drawn from by ways on the sphere (the idea of stable-diffusion-videos). Each step is a picture,
or a clip of a model of videos. At its points the walk shows what the prompt and the seed show by
themselves; a sampler that draws noise on its way draws that of the first seed everywhere.

A prompt that has more words than its neighbour joins the walk at once, with embeddings that grow
from zero, where the text encoder masks the words that are not there.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vdm_jax import __version__
from vdm_jax.core import config as configs
from vdm_jax.core import sound, video
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.interpolate import lerp, slerp
from vdm_jax.sample import load
from vdm_jax.sample.bar import Steps
from vdm_jax.sample.kept import Kept
from vdm_jax.sample.load import Described
from vdm_jax.sample.pipeline import Dtype, Pipeline, default_dtype
from vdm_jax.sample.settings import Settings
from vdm_jax.sample.timing import Beats, Even, Timing
from vdm_jax.tasks import denoising
from vdm_jax.tasks.task import Denoising, Task, tuned

PROG = "python -m vdm_jax.sample --task walk"
NOTE, FILM = "walk.json", "film.mp4"
STEPS = 24
"""From each prompt to the next where the request says neither steps nor seconds."""
PLACES = ("model", "output", "audio")
"""Of a request, what may lie elsewhere when it is gone on with."""


@dataclass(frozen=True, kw_only=True)
class Walk(Settings):
    """Make a film that walks between prompts and seeds; run again, it is gone on with."""

    model: str = ""
    """Directory of a training run, or of a model."""
    output: str = "walk"
    """Folder for the film (film.mp4), its steps and the request (walk.json)."""
    prompts: tuple[str, ...] = ()
    """What is passed through, in order; one may stand for all."""
    seeds: tuple[int, ...] = (0,)
    """Of the noise at each prompt; one may stand for all."""
    steps: tuple[int, ...] = ()
    """Steps from each prompt to the next; one number may stand for all."""
    seconds: tuple[float, ...] = ()
    """The same as times, in place of steps."""
    audio: str = ""
    """Sound to walk by and to put into the film: the beats of a file, wav, mp3, m4a, mp4, …"""
    audio_offset: float = 0.0
    """Where in the sound the film begins, in seconds."""
    smooth: float = 0.0
    """Share of the way that is walked evenly, whatever is heard; 1 takes no notice of the beats."""
    frames_of_each: Literal["first", "all"] = "first"
    """What the film shows of each step of a model of videos: the first frame, or the whole clip."""
    batch_size: int = 4
    """Steps drawn at once."""
    dtype: Dtype | None = None
    """What to compute in; None is float32 on CPU, bfloat16 elsewhere."""
    mesh: MeshConfig = MeshConfig()
    """How the devices share the work."""


class Plan(NamedTuple):
    """A walk through points, each a prompt and a seed.

    points: numbers of the steps that lie at the points. places: of each step, between the points.
    duration: seconds that a step is shown.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    points: Int[np.ndarray, " k"]
    places: Float[np.ndarray, " n"]
    duration: float


def run(request: Walk) -> int:
    """Draw what is missing, then the film. Exit code 0."""
    _check(request)
    config = load.describe(Path(request.model))
    task = tuned(config.task, request.changes())
    plan = planned(request, task, config)
    clips = request.frames_of_each == "all" and task.video.num_frames > 1
    kept = Kept(Path(request.output), NOTE, ".mp4" if clips else ".png", len(plan.places))
    places = {f"--{name}": getattr(request, name) for name in PLACES}
    with kept.begun(_note(request, config), places):
        if kept.missing():
            _draw(request, plan, kept, task)
        film = Path(request.output) / FILM
        rate, length = task.video.fps, len(plan.places) * plan.duration
        heard = None
        if request.audio:
            heard = sound.read(request.audio, start=request.audio_offset, seconds=length)
        count = video.write_film(film, kept.frames(), rate, sound=heard)
    size = f"{task.video.width}x{task.video.height}"
    print(f"{film}: {count} frames of {size} at {rate:g} frames/s, {length:.1f} s")
    return 0


def planned(request: Walk, task: Task, config: Described) -> Plan:
    """Where the walk is at each step. Refuses what the model cannot walk, before it is loaded."""
    if not isinstance(task, Denoising):
        raise Refusal(f"a walk is drawn from noise; {type(task).__name__} draws none")
    if request.prompts and config.model.text is None:
        raise Refusal("--prompts: this model was trained without captions; walk between --seeds")
    if not request.prompts and config.model.text is not None:
        raise Refusal("--prompts is missing: two or more to walk between")
    count = max(len(request.prompts), len(request.seeds))
    if count < 2:
        raise Refusal("a walk needs two prompts or two seeds, got one of each")
    prompts = _for_each("--prompts", request.prompts or ("",), count)
    seeds = _for_each("--seeds", request.seeds, count)
    task.request(config.model, prompts, None)  # refuses tasks that need pictures
    shown = task.video.num_frames if request.frames_of_each == "all" else 1
    duration = shown / task.video.fps
    points = _points(request, count - 1, duration)
    times = np.arange(points[-1] + 1) * duration
    return Plan(prompts, seeds, points, _timing(request)(times[points], times), duration)


def _check(request: Walk) -> None:
    if not request.model:
        raise Refusal(
            f"--model is missing: the directory of a run or of a model; see {PROG} --help"
        )
    if request.steps and request.seconds:
        raise Refusal("give --steps or --seconds, not both")
    if request.batch_size < 1:
        raise Refusal(f"--batch-size must be at least 1, got {request.batch_size}")
    for seed in request.seeds:
        if not 0 <= seed < 2**32:
            raise Refusal(f"--seeds must lie in [0, 2^32), got {seed}")
    if not request.seeds:
        raise Refusal("--seeds: give one or more")
    video.check_target(Path(request.output) / FILM)


def _for_each(name: str, values: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    if len(values) not in (1, count):
        raise Refusal(f"{name}: give one, or one for each of {count}; got {len(values)}")
    return values if len(values) == count else values * count


def _points(request: Walk, sections: int, duration: float) -> Int[np.ndarray, " k"]:
    """The steps at which the walk is at its points."""
    if request.seconds:
        lengths = _for_each("--seconds", request.seconds, sections)
        ends = np.round(np.cumsum(lengths) / duration)
    else:
        ends = np.cumsum(_for_each("--steps", request.steps or (STEPS,), sections))
    points = np.concatenate([[0], ends])
    if not np.isfinite(points).all() or (np.diff(points) < 1).any():
        raise Refusal(
            f"each way needs a step of {duration:g} s or more; got --steps "
            f"{request.steps} and --seconds {request.seconds}"
        )
    return points.astype(int)


def _timing(request: Walk) -> Timing:
    if not request.audio:
        return Even()
    return Beats(path=request.audio, offset=request.audio_offset, smooth=request.smooth)


def _note(request: Walk, config: Described) -> dict[str, Any]:
    """The request, by the names of its options, and what the files hold that it names."""
    request = replace(request, dtype=request.dtype or default_dtype())
    asked = asdict(request)
    options = {f"--{name.replace('_', '-')}": asked[name] for name in asked if name not in PLACES}
    said = configs.to_json(config.task) + configs.to_json(config.model)
    return {
        **options,
        "weights in --model": load.weights_of(Path(request.model)),
        "config in --model": hashlib.sha256(said.encode()).hexdigest(),
        "sound in --audio": _hash(request.audio),
        "version of vdm_jax": __version__,
    }


def _hash(path: str) -> str | None:
    if not path:
        return None
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _draw(request: Walk, plan: Plan, kept: Kept, task: Task) -> None:
    """The missing steps, in batches that are the same whichever are missing."""
    with Steps("loading the model") as bar:
        pipeline = Pipeline(
            request.model,
            dtype=request.dtype,
            mesh=request.mesh.build(),
            batch_size=min(request.batch_size, len(plan.places)),
            on_step=bar.step,
            **request.changes(),
        )
        size, missing = pipeline.batch_size, kept.missing()
        batches = sorted({number // size for number in missing})
        if len(missing) < kept.count:
            bar.write(f"{kept.folder}: {kept.count - len(missing)} of {kept.count} steps are there")
        bar.begin(len(batches) * pipeline.evaluations(1))
        words = pipeline.embed(plan.prompts) if request.prompts else {}
        noise = [pipeline.noise(seed)[0] for seed in plan.seeds]
        for batch in batches:
            numbers = range(batch * size, min((batch + 1) * size, kept.count))
            given = stepped(plan.places[numbers.start : numbers.stop], words, noise)
            captions = [""] * len(numbers)  # the embeddings stand in their place
            said = None if denoising.EMBEDDED in given else captions
            videos = pipeline(None, said, seed=plan.seeds[0], given=given)
            for number in set(numbers) & set(missing):
                kept.keep(number, videos[number - numbers.start], task.video.fps)


def stepped(
    places: Float[np.ndarray, " n"],
    words: Mapping[str, np.ndarray],
    noise: Sequence[Float[np.ndarray, "t h w c"]],
) -> dict[str, np.ndarray]:
    """What a pipeline is given to draw the steps at `places`.

    words, noise: at each point, as `Pipeline.embed` and `Pipeline.noise` make them. All steps have
    the row of a request of one video.
    """
    ways = {denoising.NOISE: slerp, denoising.EMBEDDED: lerp}
    given = {
        name: np.stack([_between(ways[name], points, place) for place in places])
        for name, points in {denoising.NOISE: noise, **words}.items()
    }
    return {**given, "row": np.zeros(len(places), np.int32)}


def _between(way: Callable[[Any, Any, float], Array], points: Any, place: float) -> Array:
    """The way from the point before a place to the one after it, walked to there."""
    before = min(int(place), len(points) - 2)
    start, end = jnp.asarray(points[before]), jnp.asarray(points[before + 1])
    return way(start, end, place - before)
