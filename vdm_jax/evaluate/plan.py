"""Which sets are compared: opened, sized and numbered before anything expensive begins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import Clips, Windowed, opened
from vdm_jax.data.transform import Windows
from vdm_jax.evaluate import sets
from vdm_jax.evaluate.config import EvaluateConfig
from vdm_jax.evaluate.draw import Drawn
from vdm_jax.evaluate.protocol import Protocol, places
from vdm_jax.evaluate.sets import BASELINES, ClipSet, Given, Taken
from vdm_jax.sample import load
from vdm_jax.tasks.task import Task, tuned

FRAMES = 16  # of a clip, where neither the protocol nor a model says


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
        if wrong := [name for name in self.baselines if name not in BASELINES]:
            raise Refusal(f"--baseline {wrong[0]}: there are {', '.join(BASELINES)}")


@dataclass(frozen=True, kw_only=True)
class Model:
    """One that is evaluated: its directory and the task that it does, as it will draw."""

    title: str
    path: Path
    task: Task


@dataclass(frozen=True)
class Plan:
    """The sets of an evaluation.

    real: what all are compared with. fakes: by title; several where a model draws repeatedly.
    other: further real clips, for what a perfect model would get. fair: how many clips of each
    side are left for that. paired: titles whose clips belong beside the real ones.
    """

    protocol: Protocol
    real: Taken
    other: Taken
    fair: int
    fakes: Mapping[str, Sequence[ClipSet]]
    paired: frozenset[str]
    models: Sequence[Model]
    credit: str


def planned(config: EvaluateConfig, asked: Asked, output: Path) -> Plan:
    """Opens everything, reads hardly anything. Raises Refusal for what cannot be compared."""
    models = [_model(title, path, config) for title, path in asked.models.items()]
    storages = {title: sets.opened(path, None) for title, path in asked.fake.items()}
    protocol = _completed(config.protocol, models, storages)
    size = protocol.size
    assert size is not None and protocol.num_frames is not None, "completed"
    given = {
        title: Given(title, clips, protocol.num_frames, size) for title, clips in storages.items()
    }
    source = _source(config, asked, protocol, models, size)
    order, beside = _order(source, protocol, given)
    count = _count(protocol, len(order), given)
    real = Taken("real clips", source, order[:count])
    fair = min(count, len(order) // 2)
    windows = source.windows
    protocol = replace(
        protocol, num_clips=count, every=windows.every, step=windows.step, fps=source.fps
    )
    fakes: dict[str, Sequence[ClipSet]] = {title: [s.first(count)] for title, s in given.items()}
    for model in models:
        video = model.task.video
        own = source.sized((video.height, video.width))
        fakes[model.title] = [
            Drawn(
                title=model.title, model=model.path, folder=output / "clips" / model.title,
                given=Taken(model.title, own, order[:count]), size=size,
                settings=config.draw.changes(), seed=protocol.seed, run=run,
            )
            for run in range(protocol.repeats)
        ]  # fmt: skip
    for name in asked.baselines:
        baseline = BASELINES[name](real)
        fakes[baseline.title] = [baseline]
    return Plan(
        protocol=protocol,
        real=real,
        other=Taken("other real clips", source, order[fair : 2 * fair] if fair < count
                    else order[count : 2 * count]),
        fair=fair,
        fakes=fakes,
        paired=frozenset(fakes) - (given.keys() - beside),
        models=models,
        credit=source.credit,
    )  # fmt: skip


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
    return Model(title=title, path=path, task=task)


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
    return replace(protocol, num_frames=frames or found.pop(), height=height, width=width)


def _told(shapes: Mapping[str, Sequence[int]], part: Any) -> str:
    return ", ".join(f"{title}: {shape[part]}" for title, shape in shapes.items())


def _source(
    config: EvaluateConfig,
    asked: Asked,
    protocol: Protocol,
    models: Sequence[Model],
    size: tuple[int, int],
) -> Windowed:
    """The real clips: those named, or else those that the first model's run held out."""
    if asked.real is None and config.real is None:
        return _held_out(config, models, size)
    if asked.real is not None:
        clips = sets.opened(asked.real, asked.split)
    else:
        assert config.real is not None
        clips = opened(config.real)
    assert protocol.num_frames is not None
    windows = Windows(num_frames=protocol.num_frames, every=protocol.every, step=protocol.step)
    return Windowed(clips, windows, size, fps=protocol.fps)


def _held_out(config: EvaluateConfig, models: Sequence[Model], size: tuple[int, int]) -> Windowed:
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
    return source.sized(size)


def _order(
    source: Windowed, protocol: Protocol, given: Mapping[str, Given]
) -> tuple[Sequence[int], frozenset[str]]:
    """Windows in the order they are taken, and which given sets lie clip by clip beside them."""
    order = places(source, protocol)
    ends = np.cumsum(source.per_clip)
    first = {
        Path(source.about(int(a)).key.rpartition(":")[0]).stem: int(a)
        for a, b in zip(ends - source.per_clip, ends, strict=True)
        if b > a
    }
    names = {
        title: [Path(s.about(i).key).stem for i in range(len(s))] for title, s in given.items()
    }
    beside = [title for title, stems in names.items() if all(stem in first for stem in stems)]
    if not beside or len({tuple(names[title]) for title in beside}) > 1:
        return order, frozenset()
    ours = [first[stem] for stem in names[beside[0]]]
    rest = set(ours)
    return [*ours, *(place for place in order if place not in rest)], frozenset(beside)


def _count(protocol: Protocol, real: int, given: Mapping[str, Given]) -> int:
    """Clips on each side. Raises Refusal where there are fewer than asked for."""
    there = {"real clips": real, **{title: len(clips) for title, clips in given.items()}}
    fewest = min(there, key=lambda title: there[title])
    wanted = protocol.num_clips
    if wanted is not None and there[fewest] < wanted:
        raise Refusal(
            f"{fewest}: {there[fewest]} clips are there, the protocol takes {wanted}; "
            f"--protocol.num-clips {there[fewest]} takes as many, and is no longer that protocol"
        )
    count = there[fewest] if wanted is None else wanted
    if count < 4:
        raise Refusal(f"{fewest}: {there[fewest]} clips; at least 4 are compared")
    return count
