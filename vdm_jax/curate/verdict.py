"""The verdict on every clip and every file: which are kept, and why the others are not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from vdm_jax.curate import told
from vdm_jax.curate.config import CurateConfig
from vdm_jax.curate.inputs import UNREAD, File
from vdm_jax.curate.likeness import LIKENESS, copies
from vdm_jax.curate.rules import COPY, SAME, UNTOLD, judged
from vdm_jax.curate.similarity import CLIP
from vdm_jax.curate.stage import SIDECAR, Row, unpacked

TRAIN, TEST = "train", "test"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """clips: a row for each, in order of files and time; `rejected` is "" where one is kept, and
    `split` says in what; `told` are the numbers that go with it. files: a row for each. funnel:
    (reason, clips it took), in order.
    """

    clips: list[Row]
    files: list[Row]
    funnel: list[tuple[str, int]]
    cost: dict[str, float]

    @property
    def kept(self) -> list[Row]:
        return [clip for clip in self.clips if not clip["rejected"]]


def verdict(config: CurateConfig, files: Sequence[File], results: Mapping[str, Row]) -> Verdict:
    """Judge all clips of all spans together: percentiles and copies are of the whole."""
    captions = {file.name: file.caption for file in files}
    clips, seen = [], []
    for file in files:
        found, wrong = _of(file, results)
        clips += found
        seen.append(wrong)
    for clip in clips:
        given = captions[clip["file"]]
        clip["captions"] = ({SIDECAR: given} if given else {}) | clip["captions"]
        clip["caption"] = next(iter(clip["captions"].values()), "")
        clip["copy_of"] = clip["split"] = ""
    early = [clip["rejected"] for clip in clips if clip["rejected"]]
    funnel = [(reason, early.count(reason)) for reason in sorted(set(early))]
    columns = table(clips, config)
    for rule, gone in judged(config.rules, columns, [clip["rejected"] for clip in clips]):
        for index in gone:
            clips[index]["rejected"] = rule.reason
        funnel.append((rule.reason, len(gone)))
    if count := _untold(clips, told.incomplete(columns, config.told)):
        funnel.append((UNTOLD, count))
    funnel.append((COPY, _copies(clips, LIKENESS, config.alike, COPY)))
    if config.same is not None:
        funnel.append((SAME, _copies(clips, CLIP, config.same, SAME)))
    _split([clip for clip in clips if not clip["rejected"]], config.held_out)
    told.tell(clips, columns, config.told)
    return Verdict(clips=clips, files=seen, funnel=funnel, cost=_cost(clips, results))


def table(clips: Sequence[Row], config: CurateConfig) -> dict[str, np.ndarray]:
    """The numbers of all clips by column; NaN where a clip has none."""
    scores = [name for stage in config.build() for name in stage.columns]
    columns = {
        name: np.array([clip["scores"].get(name, np.nan) for clip in clips], float)
        for name in scores
    }
    for name in ("frames", "fps", "height", "width"):
        columns[name] = np.array([clip[name] for clip in clips], float)
    columns["seconds"] = columns["frames"] / columns["fps"]
    return columns


def _of(file: File, results: Mapping[str, Row]) -> tuple[list[Row], Row]:
    """The clips of a file, and a row about it: the first thing that is wrong with it, if any."""
    row: Row = {"file": file.name, "bytes": file.bytes, "frames": 0, "fps": 0.0}
    row |= {"height": 0, "width": 0, "reason": file.reason, "why": UNREAD.get(file.reason, "")}
    if file.reason:
        return [], row
    look = results[f"look {file.name}:0"]
    row |= {"reason": look.get("reason", ""), "why": look.get("why", "")}
    clips: list[Row] = []
    for span in look.get("spans", ()):
        row |= {"frames": span["end"], **{name: span[name] for name in ("fps", "height", "width")}}
        result = results[f"cut {file.name}:{span['start']}"]
        clips += [dict(clip, span=span["start"]) for clip in result.get("clips", ())]
        if "reason" in result and not row["reason"]:
            row |= {"reason": result["reason"], "why": result["why"]}
    return clips, row


def _cost(clips: Sequence[Row], results: Mapping[str, Row]) -> dict[str, float]:
    frames = max(1, sum(clip["frames"] for clip in clips))
    seconds: dict[str, float] = {}
    for result in results.values():
        for step, each in result.get("seconds", {}).items():
            seconds[step] = seconds.get(step, 0.0) + each
    return {step: 1000 * each / frames for step, each in seconds.items()}


def _untold(clips: list[Row], incomplete: Sequence[int]) -> int:
    gone = [clips[index] for index in incomplete if not clips[index]["rejected"]]
    for clip in gone:
        clip["rejected"] = UNTOLD
    return len(gone)


def _copies(clips: list[Row], vector: str, alike: float, reason: str) -> int:
    kept = [clip for clip in clips if not clip["rejected"] and vector in clip["vectors"]]
    if not kept:
        return 0
    vectors = np.array([unpacked(clip["vectors"][vector]) for clip in kept], np.float32)
    found = copies(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 0.5), alike)
    for copy, first in found.items():
        kept[copy]["rejected"], kept[copy]["copy_of"] = reason, kept[first]["key"]
    return len(found)


def _split(kept: list[Row], held_out: float) -> None:
    """The last clips of each file are the test split: about the same share of every file, and of
    several clips at least one."""
    seen = 0
    for _, group in groupby(kept, key=lambda clip: clip["file"]):
        clips = list(group)
        count = int((seen + len(clips)) * held_out) - int(seen * held_out)
        seen += len(clips)
        for number, clip in enumerate(clips):
            clip["split"] = TEST if number >= len(clips) - count else TRAIN
    if held_out and len(kept) > 1 and kept[-1]["split"] == TRAIN:
        kept[-1]["split"] = TEST
