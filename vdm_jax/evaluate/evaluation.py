"""One evaluation: what is missing is drawn and measured, then all is scored.

Everything that took time lies on disk, clip by clip or a few clips together, so that the same
command goes on after a kill. Several processes share the measuring by chunks, each on the devices
of its own; a model is drawn with by all of them together.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from vdm_jax import __version__
from vdm_jax.core import processes
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.weights import Weights
from vdm_jax.data.clips import About
from vdm_jax.evaluate import measures, scores
from vdm_jax.evaluate.config import EvaluateConfig
from vdm_jax.evaluate.draw import Drawn
from vdm_jax.evaluate.plan import LEAST, Plan
from vdm_jax.evaluate.rows import Batch, Measure, Rows
from vdm_jax.evaluate.scores import Metric
from vdm_jax.evaluate.sets import ClipSet
from vdm_jax.metrics import interval
from vdm_jax.metrics.interval import Estimate
from vdm_jax.sample.load import weights_of
from vdm_jax.sample.pipeline import Pipeline

STATISTICS = "statistics"


@dataclass(frozen=True)
class Row:
    """One line of the result: a set of clips, and its estimates by the metrics' names; None where
    a metric says nothing of it. runs: sets that the estimates are the means of."""

    title: str
    n: int
    runs: int
    estimates: Mapping[str, Estimate | None]


@dataclass(frozen=True)
class Result:
    """rows: of the table. notes: a line each, for what must be known beside the numbers. weights:
    digests of the networks that measured."""

    plan: Plan
    metrics: Mapping[str, Metric]
    rows: Sequence[Row]
    notes: Sequence[str]
    weights: Mapping[str, str]

    def json(self, heading: Sequence[str]) -> str:
        """For programs. heading: what was compared, in words."""
        plan = self.plan
        told = {
            "compared": list(heading),
            "protocol": asdict(plan.protocol),
            "real": {"from": str(plan.real.source), "fingerprint": plan.real.source.fingerprint},
            "models": {
                model.title: {
                    "directory": str(model.path),
                    "weights": weights_of(model.path),
                    "settings": {name: repr(value) for name, value in model.settings.items()},
                }
                for model in plan.models
            },
            "networks": dict(self.weights),
            "vdm_jax": __version__,
            "rows": [asdict(row) for row in self.rows],
            "notes": list(self.notes),
        }
        return json.dumps(told, indent=1)


@dataclass(frozen=True)
class Evaluation:
    config: EvaluateConfig
    plan: Plan
    weights: Mapping[str, Weights]
    statistics: Path
    """Folder where rows are kept; evaluations share it."""

    def run(self) -> Result | None:
        """The result; None in all processes but the first."""
        with processes.together("the evaluation failed"):
            for measure in self._measures.values():
                measure.check(self._one)
            self._draw()
            self._measure()
        return self._scored() if jax.process_index() == 0 else None

    @property
    def _one(self) -> Batch:
        """A black clip of the shape of all."""
        protocol = self.plan.protocol
        assert protocol.size is not None and protocol.num_frames is not None, "completed"
        clip = np.zeros((1, protocol.num_frames, *protocol.size, 3), np.uint8)
        return Batch(clip, [About("", "", self.plan.real.about(0).fps)], clip)

    # ---- Drawing ----

    def _draw(self) -> None:
        for model in self.plan.models:
            drawn = [d for d in self.plan.fakes[model.title] if isinstance(d, Drawn)]
            for run in drawn:
                run.begin()
            missing = sum(len(run.missing()) for run in drawn)
            if not missing:
                continue
            with _bar(f"loading {model.title}", missing) as bar:
                batch = self.config.draw_batch
                pipeline = Pipeline(
                    model.path,
                    dtype=drawn[0].dtype,
                    mesh=self.config.mesh.build(),
                    batch_size=batch,
                    **model.settings,
                )
                bar.set_description(f"{model.title} draws")
                for run in drawn:
                    run.draw(pipeline, batch, bar.update)

    # ---- Measuring ----

    @cached_property
    def metrics(self) -> Mapping[str, Metric]:
        names = self.plan.protocol.metrics
        return dict(zip(names, scores.known(names), strict=True))

    @cached_property
    def _measures(self) -> Mapping[str, Measure]:
        names = dict.fromkeys(metric.measure for metric in self.metrics.values())
        return {
            name: measures.FORMULAS[name]
            if name in measures.FORMULAS
            else measures.NETWORKS[name](self.weights[name])
            for name in names
        }

    @cached_property
    def _paired(self) -> frozenset[str]:
        """The measures that look at clips beside the true ones."""
        return frozenset(metric.measure for metric in self.metrics.values() if metric.paired)

    def _rows(self, measure: Measure, clips: ClipSet) -> Rows:
        truth = self.plan.real if measure.name in self._paired else None
        return Rows(self.statistics, measure, clips, truth)

    def _asked(self) -> Iterator[Rows]:
        """All rows that the scores are computed from."""
        for measure in self._measures.values():
            for title, several in self.plan.fakes.items():
                if measure.name not in self._paired or title in self.plan.paired:
                    yield from (self._rows(measure, clips) for clips in several)
            if measure.name not in self._paired:
                yield self._rows(measure, self.plan.real)
                yield self._rows(measure, self.plan.other)

    def _measure(self) -> None:
        todo = [(rows, chunk) for rows in self._asked() for chunk in rows.missing()]
        mine = todo[jax.process_index() :: jax.process_count()]
        with _bar("measuring", sum(len(chunk) for _, chunk in mine)) as bar:
            for rows, chunk in mine:
                bar.set_description(f"{rows.measure.name} of {rows.clips.title}")
                rows.compute(chunk, bar.update)

    # ---- Scoring ----

    def _scored(self) -> Result:
        plan, n = self.plan, len(self.plan.real)
        found = [self._row(title, several, n) for title, several in plan.fakes.items()]
        notes = [*plan.notes, *self._rates()]
        if plan.fair < LEAST:
            notes.append("too few real clips of other videos are left to compare real with real")
        else:
            if plan.fair < n:
                found += [self._row(t, several, plan.fair) for t, several in plan.fakes.items()]
            found.append(self._row(plan.other.title, [plan.other], plan.fair))
        if any(not metric.against_real for metric in self.metrics.values()):
            found.append(self._row(plan.real.title, [plan.real], n))
        for metric in self.metrics.values():
            if metric.against_real:
                rows = self._rows(self._measures[metric.measure], plan.real)
                notes += filter(None, [scores.singular(metric, rows, n)])
        weights = {name: each.digest for name, each in self.weights.items()}
        return Result(plan, self.metrics, found, notes, weights)

    def _rates(self) -> Iterator[str]:
        """A line for each set that is slower or faster than the real clips."""
        wanted = self.plan.real.about(0).fps
        for title, several in self.plan.fakes.items():
            fps = several[0].about(0).fps
            if fps != wanted:
                yield f"{title}: {fps:g} frames a second, the real clips {wanted:g}"

    def _row(self, title: str, several: Sequence[ClipSet], n: int) -> Row:
        estimates = {
            name: self._estimate(metric, title, several, n) for name, metric in self.metrics.items()
        }
        return Row(title, n, len(several), estimates)

    def _estimate(
        self, metric: Metric, title: str, several: Sequence[ClipSet], n: int
    ) -> Estimate | None:
        measure = self._measures[metric.measure]
        if (metric.paired and title not in self.plan.paired) or (
            metric.against_real and several[0] is self.plan.real
        ):
            return None
        real = self._rows(measure, self.plan.real)
        each = [metric.of(self._rows(measure, clips), real, n) for clips in several]
        told = [estimate for estimate in each if estimate is not None]
        return told[0] if len(told) == 1 else over_runs(told) if told else None


def over_runs(each: Sequence[Estimate]) -> Estimate:
    """The mean of several runs, and the interval that their deviation gives."""
    values = [estimate.value for estimate in each]
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return interval.estimate(float(np.mean(values)), error, each[0].n, len(values) - 1)


def needed(metrics: Sequence[Metric]) -> list[str]:
    """The networks that metrics ask for, by the names of --weights."""
    names = dict.fromkeys(metric.measure for metric in metrics)
    return [name for name in names if name in measures.NETWORKS]


def check(metrics: Sequence[Metric], plan: Plan) -> None:
    """Refuse metrics that nothing of the plan can be measured by."""
    for metric in metrics:
        if metric.paired and not plan.paired:
            raise Refusal(
                f"{metric.title} compares clip by clip: the videos of {', '.join(plan.fakes)} are "
                "not named as the real ones"
            )
        if metric.captions and not plan.real.about(0).caption:
            raise Refusal(
                f"{metric.title} reads captions, and {plan.real.source} has none: a caption is a "
                ".txt file beside its video"
            )


@contextmanager
def _bar(what: str, total: int) -> Iterator[tqdm]:
    """Progress with the time that is left, in the first process, where somebody looks."""
    quiet = True if jax.process_index() else None
    with tqdm(desc=what, total=total, unit="clip", leave=False, disable=quiet) as bar:
        yield bar
