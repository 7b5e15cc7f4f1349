"""Which sets are compared: opened, sized and numbered before anything expensive begins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import Clips, Windowed, opened
from vdm_jax.data.transform import Windows
from vdm_jax.evaluate import sets
from vdm_jax.evaluate.config import EvaluateConfig
from vdm_jax.evaluate.draw import Drawn
from vdm_jax.evaluate.protocol import Protocol, sides
from vdm_jax.evaluate.sets import (
    BASELINES,
    OTHER,
    REAL,
    RESERVED,
    ClipSet,
    Given,
    Taken,
    bare,
    name_of,
    video_of,
)
from vdm_jax.sample import load
from vdm_jax.sample.pipeline import default_dtype
from vdm_jax.tasks.task import Task, tuned

FRAMES = 16  # of a clip, where neither the protocol nor a model says
LEAST = 4  # clips that are compared


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line names. fake, models: folders by the titles they get in tables."""

    real: Path | None = None
    split: str | None = None
    fake: Mapping[str, Path]
    models: Mapping[str, Path]
    baselines: Sequence[str]

    def __post_init__(self) -> None:
        if not (self.fake or self.models or self.baselines):
            raise Refusal("nothing is evaluated: give --model DIR, --fake DIR or --baseline copy")
        if both := self.fake.keys() & self.models.keys():
            raise Refusal(f"--fake and --model both name {sorted(both)[0]!r}; name them apart")
        if taken := RESERVED & (self.fake.keys() | self.models.keys()):
            raise Refusal(f"{sorted(taken)[0]!r} is a title of this evaluation's own; name another")
        if wrong := [name for name in self.baselines if name not in BASELINES]:
            raise Refusal(f"--baseline {wrong[0]}: there are {', '.join(BASELINES)}")


@dataclass(frozen=True, kw_only=True)
class Model:
    """One that is evaluated: its directory and the task that it does, as it will draw.

    settings: of the task, changed for this evaluation.
    """

    title: str
    path: Path
    task: Task
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """The sets of an evaluation.

    real: what all are compared with. fakes: by title; several where a model draws repeatedly.
    other: further real clips, of other videos than the first `fair` ones of `real`, for what a
    perfect model would get. paired: titles whose clips belong beside the real ones. notes: what
    must be known of how clips were taken, a line each.
    """

    protocol: Protocol
    real: Taken
    other: Taken
    fakes: Mapping[str, Sequence[ClipSet]]
    paired: frozenset[str]
    models: Sequence[Model]
    credit: str
    notes: Sequence[str]

    @property
    def fair(self) -> int:
        """Clips on each side where real ones are beside real ones."""
        return len(self.other)


class Order(NamedTuple):
    """Windows to take, further ones of other videos, and how many of the first those are apart
    from. beside: titles of given sets that lie clip by clip beside the first."""

    real: Sequence[int]
    other: Sequence[int]
    apart: int
    beside: frozenset[str] = frozenset()


def planned(config: EvaluateConfig, asked: Asked, output: Path) -> Plan:
    """Opens everything, reads hardly anything. Raises Refusal for what cannot be compared."""
    models = [_model(title, path, config) for title, path in asked.models.items()]
    storages = {title: sets.opened(path, None) for title, path in asked.fake.items()}
    protocol = _completed(config.protocol, models, storages)
    source = _source(config, asked, protocol, models)
    order = _order(source, protocol, storages)
    count = _count(protocol, len(order.real), storages)
    windows = source.windows
    protocol = replace(
        protocol, num_clips=count, every=windows.every, step=windows.step, fps=source.fps
    )
    real = Taken(REAL, source, order.real[:count])
    fakes: dict[str, Sequence[ClipSet]] = {}
    for title, clips in storages.items():
        places = np.arange(len(clips.infos))
        if title not in order.beside:
            np.random.default_rng(protocol.seed).shuffle(places)
        fakes[title] = [_given(title, clips, protocol, places[:count].tolist())]
    for model in models:
        fakes[model.title] = _runs(model, source, order.real[:count], protocol, config, output)
    for name in asked.baselines:
        fakes[BASELINES[name].title] = [BASELINES[name](real)]
    fair = min(count, order.apart, len(order.other))
    names = ", ".join(sorted(order.beside))
    return Plan(
        protocol=protocol,
        real=real,
        other=Taken(OTHER, source, order.other[:fair]),
        fakes=fakes,
        paired=frozenset(fakes) - (storages.keys() - order.beside),
        models=models,
        credit=source.credit,
        notes=[f"the real clips are those that the videos of {names} are named after"]
        if names
        else [],
    )


def _given(title: str, clips: Clips, protocol: Protocol, places: Sequence[int]) -> Given:
    frames, size = protocol.num_frames, protocol.size
    assert frames is not None and size is not None, "completed"
    return Given(title, clips, places, num_frames=frames, size=size, resampling=protocol.resampling)


def _runs(
    model: Model,
    source: Windowed,
    places: Sequence[int],
    protocol: Protocol,
    config: EvaluateConfig,
    output: Path,
) -> list[Drawn]:
    """What a model draws, as often as the protocol says, from clips at the model's own size."""
    assert protocol.size is not None, "completed"
    video, folder = model.task.video, output / "clips" / model.title
    own = source.sized((video.height, video.width))
    return [
        Drawn(
            title=model.title,
            model=model.path,
            task=model.task,
            dtype=config.dtype or default_dtype(),
            folder=folder if protocol.repeats == 1 else folder / f"run-{run + 1:02d}",
            given=Taken(model.title, own, places),
            size=protocol.size,
            resampling=protocol.resampling,
            settings=model.settings,
            seed=protocol.seed,
            run=run,
        )
        for run in range(protocol.repeats)
    ]


def _model(title: str, path: Path, config: EvaluateConfig) -> Model:
    settings = dict(config.draw.changes())
    if config.protocol.num_frames is not None:
        settings.setdefault("num_frames", config.protocol.num_frames)
    task = tuned(load.describe(path).task, settings)
    if task.video.num_frames != config.protocol.num_frames is not None:
        raise Refusal(
            f"{path}: draws {task.video.num_frames} frames, the protocol compares "
            f"{config.protocol.num_frames}"
        )
    return Model(title=title, path=path, task=task, settings=settings)


def _completed(
    protocol: Protocol, models: Sequence[Model], storages: Mapping[str, Clips]
) -> Protocol:
    """The protocol with the frames and the size that it leaves open."""
    shapes = {model.title: model.task.video.sizes[:3] for model in models}
    frames = protocol.num_frames
    for title, clips in storages.items():
        least = min(info.frames for info in clips.infos)
        shapes[title] = (frames or min(least, FRAMES), *sets.one_size(clips))
    found = {shape[0] for shape in shapes.values()} or {FRAMES}
    if frames is None and len(found) > 1:
        raise Refusal(f"videos of {_told(shapes, 0)} frames; say --protocol.num-frames")
    sizes = {shape[1:] for shape in shapes.values()}
    if protocol.size is None and len(sizes) != 1:
        which = _told(shapes, slice(1, 3)) if sizes else "no size is known"
        raise Refusal(f"{which}: say --protocol.height and --protocol.width")
    height, width = protocol.size or sizes.pop()
    for clips in storages.values():
        sets.check(clips, frames or max(found))
    return replace(protocol, num_frames=frames or found.pop(), height=height, width=width)


def _told(shapes: Mapping[str, Sequence[int]], part: Any) -> str:
    return ", ".join(f"{title}: {shape[part]}" for title, shape in shapes.items())


def _source(
    config: EvaluateConfig, asked: Asked, protocol: Protocol, models: Sequence[Model]
) -> Windowed:
    """The real clips: those named, or else those that the first model's run held out."""
    size, frames = protocol.size, protocol.num_frames
    assert size is not None and frames is not None, "completed"
    if asked.real is None and config.real is None:
        return _held_out(config, models).sized(size, protocol.resampling)
    if asked.real is not None:
        clips = sets.opened(asked.real, asked.split)
    else:
        assert config.real is not None
        clips = opened(config.real)
    windows = Windows(num_frames=frames, every=protocol.every, step=protocol.step)
    return Windowed(clips, windows, size, fps=protocol.fps, resampling=protocol.resampling)


def _held_out(config: EvaluateConfig, models: Sequence[Model]) -> Windowed:
    if not models:
        raise Refusal("--real is missing: a folder of real videos, or of shards")
    run: Any = load.describe(models[0].path)
    part = getattr(run, "held_out", None)
    if part is None:
        raise Refusal(
            f"--real is missing: a folder of real videos or shards; {models[0].path} is no run "
            "that held some out"
        )
    of_real = ("taking", "every", "step", "fps")
    default = Protocol()
    if set_ := [n for n in of_real if getattr(config.protocol, n) != getattr(default, n)]:
        raise Refusal(f"--protocol.{set_[0]} goes with --real: the run says how its clips are cut")
    source = part.build()
    if not isinstance(source, Windowed):
        raise Refusal(f"--real is missing: the run held out {type(part).__name__}, no videos")
    return source


def _order(source: Windowed, protocol: Protocol, storages: Mapping[str, Clips]) -> Order:
    """Random windows, or where given videos are named after real ones, those of these names."""
    one, other = sides(source, protocol)
    named = {title: _named_after(source, clips) for title, clips in storages.items()}
    beside = {title: places for title, places in named.items() if places}
    if not beside:
        return Order([*one, *other], other, len(one))
    places, *rest = beside.values()
    if any(each != places for each in rest):
        raise Refusal(
            f"--fake {', '.join(beside)}: are named after other real videos each; evaluate them "
            "one by one"
        )
    used = {video_of(source.about(place)) for place in places}
    free = [place for place in (*one, *other) if video_of(source.about(place)) not in used]
    return Order(places, free, len(places), frozenset(beside))


def _named_after(source: Windowed, clips: Clips) -> list[int]:
    """The window that each of these clips is named after; none where one is named otherwise.

    A clip drawn here has the name of its window; any other may have that of the video, and then is
    of its beginning.
    """
    windows = {name_of(source.about(place)): place for place in range(len(source))}
    ends = np.cumsum(source.per_clip)
    starts = [int(b) - n for b, n in zip(ends, source.per_clip, strict=True) if n]
    firsts = {bare(video_of(source.about(place))): place for place in starts}
    names = [bare(info.key) for info in clips.infos]
    for known in (windows, firsts):
        if all(name in known for name in names):
            return [known[name] for name in names]
    return []


def _count(protocol: Protocol, real: int, storages: Mapping[str, Clips]) -> int:
    """Clips on each side. Raises Refusal where there are fewer than asked for."""
    there = {REAL: real, **{title: len(clips.infos) for title, clips in storages.items()}}
    fewest = min(there, key=lambda title: there[title])
    wanted = protocol.num_clips
    if wanted is not None and there[fewest] < wanted:
        raise Refusal(
            f"{fewest}: {there[fewest]} clips are there, the protocol takes {wanted}; "
            f"--protocol.num-clips {there[fewest]} takes as many, and is no longer that protocol"
        )
    count = there[fewest] if wanted is None else wanted
    if count < LEAST:
        raise Refusal(f"{fewest}: {there[fewest]} clips; at least {LEAST} are compared")
    return count
