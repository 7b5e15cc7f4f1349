"""What one worker does at a time: look at a file, or turn a span of it into clips.

A task is plain data and its result is plain data, so that any executor can carry both; the clips
themselves lie in a file of the span, beside the ledger, where the last step takes them from.
"""

import hashlib
import json
import math
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from vdm_jax.core import config as configs
from vdm_jax.core import video
from vdm_jax.core.refusal import Refusal, Unavailable
from vdm_jax.curate.clock import Clock
from vdm_jax.curate.stage import SIDECAR, Clip, Row, Span, Stage, chain, packed
from vdm_jax.curate.watch import Watch
from vdm_jax.data.record import RECORD_FRAMES, pack, storing
from vdm_jax.data.transform import short_side

LEAST = 20.0
"""Seconds that any task may take."""
DAMAGED, CRASHED, TIMED_OUT = "damaged", "crashed", "timed_out"
REASONS = {
    "failed": r"a stage failed on it",
    "no_video": r"is not a video by its contents|has no video stream|no pictures|states no picture",
    "empty": r"is empty$",
    "too_small": r"frames of at least",
    "cut_short": r"is cut short|breaks off",
    "over_limits": r"over the limit|at most|not between|over \d+$|lasts longer|more than the al"
    r"|allocate|MemoryError",
    "animation": r"is an animated picture",
    "unreadable": r"cannot be read|no such file",
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """kind: "look" at a file, or "cut" a span of it. patience: seconds until it is given up."""

    kind: str
    span: Span
    root: str
    folder: str
    config: str
    patience: float

    @property
    def key(self) -> str:
        return f"{self.kind} {self.span.key}"


def done(task: Task) -> Row:
    """The result of a task: {"spans": [...]}, or {"clips": [...], "seconds": {...}}, or
    {"reason": ..., "why": ...}.

    Raises Refusal on a machine that does not see the folders, or lacks what a stage needs, and
    Unavailable where the disk is full: that is no fault of a file.
    """
    for folder in (task.root, task.folder):
        if not Path(folder).is_dir():
            raise Refusal(
                f"{folder}: is not there on {platform.node()}; put the folders of --input and "
                "--output on a disk that all machines share, under the same path"
            )
    prepared(task.config)
    try:
        return _look(task) if task.kind == "look" else _cut(task)
    except Unavailable:
        raise
    except Refusal as refusal:
        why = str(refusal)
        told = why.replace(str(Path(task.root) / task.span.file), "").replace(task.span.file, "")
        return {"reason": reason(told), "why": why}
    except MemoryError:
        return {"reason": "over_limits", "why": f"{task.span.file}: takes too much memory"}


def reason(why: str) -> str:
    """The code of what is wrong with a file; why: without its name, which may say anything."""
    return next((code for code, words in REASONS.items() if re.search(words, why)), DAMAGED)


def _look(task: Task) -> Row:
    """Spans of about equal length that cover a video."""
    config, _ = prepared(task.config)
    path = Path(task.root) / task.span.file
    with _blamed(task.span.file), Watch() as watch:
        video.probe(path)
        first = next(video.frames(path, stop=1, alive=watch.alive))
        extent = video.measure(path, alive=watch.alive)
    height, width, _ = first.shape  # as shown, rotated if it says so
    count = min(extent.frames, math.ceil(extent.frames / extent.fps / config.span))
    borders = [round(extent.frames * n / count) for n in range(count + 1)]
    size = short_side(height, width, min(config.size, height, width))
    spans = [
        Span(
            file=task.span.file, start=a, stop=b, fps=extent.fps, end=extent.frames,
            height=size[0], width=size[1], caption=task.span.caption,
        )
        for a, b in pairwise(borders)
    ]  # fmt: skip
    return {"spans": [asdict(span) for span in spans]}


def _cut(task: Task) -> Row:
    """The clips of a span: their records in a file, what is known of them in rows, and the seconds
    that each step took."""
    target = Path(task.folder) / name(task.span)
    part = target.with_suffix(f".{os.getpid()}.part")
    with storing(part):
        writer = ArrayRecordWriter(str(part), "group_size:1,uncompressed")
    rows, records, clock = [], 0, Clock()
    try:
        for clip in _clips(task, clock):
            row = told(clip)
            if not clip.rejected:
                row["record"] = records
                for start in range(0, len(clip.frames), RECORD_FRAMES):
                    block = clip.frames[start : start + RECORD_FRAMES]
                    with storing(part):
                        writer.write(pack(clip.key, start, block))
                    records += 1
            rows.append(row)
        with storing(part):
            writer.close()
        os.replace(part, target)
    finally:
        if writer.is_open():
            with suppress(RuntimeError):
                writer.close()
        part.unlink(missing_ok=True)
    return {"clips": rows, "seconds": clock.rest("writing")}


def _captioned(clip: Clip, span: Span) -> Clip:
    return replace(clip, captions={SIDECAR: span.caption}) if span.caption else clip


def _clips(task: Task, clock: Clock) -> Iterator[Clip]:
    """The clips of a span, through all stages."""
    config, stages = prepared(task.config)
    span, path = task.span, Path(task.root) / task.span.file
    longest = min(span.stop - span.start, config.shots.most(span))
    watch = Watch(3 * longest * span.height * span.width * 3)  # frames, a clip of them, another
    frames = video.frames(
        path, start=span.start, stop=span.stop, size=(span.height, span.width), alive=watch.alive
    )
    shots = config.shots.clips(span, clock.over("decoding", watch.over(frames)))
    clips = (_captioned(clip, span) for clip in clock.over("shots", shots))
    with _blamed(span.file):
        yield from chain(stages, clips, clock)


@contextmanager
def _blamed(file: str) -> Iterator[None]:
    """What goes wrong inside is the fault of the file, and costs no other."""
    try:
        yield
    except (Refusal, MemoryError):
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise Refusal(f"{file}: a stage failed on it: {why}") from error


def name(span: Span) -> str:
    """Of the file that holds the records of a span."""
    return f"{digest(span.key)}.array_record"


def told(clip: Clip) -> Row:
    """What is known of a clip, without its frames."""
    frames, height, width, _ = clip.frames.shape
    return {
        "key": clip.key,
        "file": clip.file,
        "start": clip.start,
        "frames": frames,
        "fps": clip.fps,
        "height": height,
        "width": width,
        "rejected": clip.rejected,
        "scores": clip.scores,
        "captions": clip.captions,
        "vectors": {name: packed(vector) for name, vector in clip.vectors.items()},
    }


@cache
def prepared(config: str) -> tuple[Any, list[Stage]]:
    """The config and its stages, set up: once in each worker."""
    parsed = configs.from_json(config)
    stages = parsed.build()
    for stage in stages:
        stage.setup()
    return parsed, stages


def digest(value: Any) -> str:
    """24 hexadecimal digits of anything that JSON holds."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]
