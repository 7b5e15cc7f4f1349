"""What a run shows while it goes: progress, curves, previews, held-out loss, and its report."""

import json
import math
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar

import jax
from flax import nnx
from jax.sharding import Mesh

from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Unavailable
from vdm_jax.data.loader import Source
from vdm_jax.train import log, report
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.heartbeat import pulse
from vdm_jax.train.held_out import HeldOut
from vdm_jax.train.measure import Meter, Profile, told
from vdm_jax.train.preview import Previews
from vdm_jax.train.progress import Progress, duration
from vdm_jax.train.state import Built, TrainState
from vdm_jax.train.step import Scalars
from vdm_jax.train.stop import interruptible

T = TypeVar("T")

METRICS = "metrics.jsonl"
LOG = "log.txt"
PROFILE = "profile"
FINISHED = "finished"
ENDS = Path("samples", "first_frame.png"), Path("samples", "last_frame.png")
PACKAGES = ("vdm-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


class Observer:
    """Writes all of the run directory but config and checkpoints. Use as a context manager.

    Every process of a run calls it alike, since previews are drawn on the whole mesh; process 0
    alone writes and prints.
    """

    def __init__(
        self,
        config: TrainConfig,
        workdir: Path,
        built: Built,
        mesh: Mesh,
        sources: tuple[Source, Source],
        stop: threading.Event,
        restored: TrainState | None,
        profile: Profile | None = None,
    ):
        """sources: what is trained on, what is held out. restored: what the run goes on from.

        profile: the steps that a trace is made of.
        """
        step = 0 if restored is None else int(restored.step)
        self._config, self._workdir, self._stop = config, workdir, stop
        self._join, self._profile = built.trainable.join, profile
        self._chief = jax.process_index() == 0
        self._begin = self._then = time.monotonic()
        self._first = self._before = step
        self._skipped = 0 if restored is None else int(restored.skipped)
        self._scores = ""
        self._weights, self._num_samples = _weights(built), len(sources[0])
        self._credit = getattr(sources[1], "credit", "")
        self._held_out = HeldOut(config, mesh, *sources)
        self._previews = Previews(config, mesh, sources[1])
        self._open = ExitStack()
        console, self._log, self._metrics = None, None, None
        if self._chief:
            self._log = self._open.enter_context(log.DatedLines(workdir / LOG))
            self._open.enter_context(log.warnings_kept(self._log))
            self._metrics = self._open.enter_context(log.MetricsLog(workdir / METRICS, step))
        else:
            console = self._open.enter_context(_appended(Path(os.devnull)))
        self.meter = Meter(log.read(workdir / METRICS) if self._chief else ())
        self._writers = []
        for tracker in config.trackers if self._chief else ():
            writer = tracker.open(workdir, step, json.loads(configs.to_json(config)))
            self._open.callback(writer.close)
            self._writers.append(writer)
        if profile is not None:
            self._open.callback(profile.close)
        self._progress = Progress(
            config.steps,
            frames_per_step=self._frames,
            start=step,
            stream=console,
            log=self._log,
        )
        self._open.callback(self._progress.close)

    @property
    def _frames(self) -> int:
        return self._config.batch_size * self._config.task.video.num_frames

    def __enter__(self) -> "Observer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.close()

    def say(self, line: str) -> None:
        self._progress.say(line)

    def compile(self, work: Callable[[], T]) -> T:
        """`work()`, which makes XLA compile the training step; says so meanwhile."""
        with pulse().resting(), self.meter.pausing(), self._progress.compiling():
            compiled = interruptible(work, self._stop)
        self._then = time.monotonic()
        return compiled

    def report(self, step: int, scalars: Scalars) -> None:
        """A record of metrics.jsonl, and the progress line."""
        values = {name: float(value) for name, value in scalars.items()}  # waits for the step
        now, steps = time.monotonic(), max(1, step - self._before)
        pace = (now - self._then) / steps
        self._count_skips(step, int(values["skipped"]), steps)
        self._then, self._before = now, step
        rates = {"seconds_per_step": pace, "frames_per_second": self._frames / max(pace, 1e-9)}
        measured = self.meter.report(steps)
        self._record(step, values | rates | measured)
        self._progress.update(step, values["loss"], told(measured))

    def trace(self, step: int, scalars: Scalars | None) -> None:
        """Called when `step` steps are taken: begins or ends the profile where it is time."""
        if self._profile is not None:
            finished = self._profile.at(step, scalars, self._workdir / PROFILE)
            if finished is not None:
                self.say(finished)

    def _count_skips(self, step: int, skipped: int, steps: int) -> None:
        new, self._skipped = skipped - self._skipped, skipped
        if new > 0:
            self.say(
                f"step {step}: skipped {new} of {steps} steps, not finite or far off all others"
            )

    def went_back(self, step: int, to: int, skipped: int) -> None:
        """After `step` the run took the weights of step `to`."""
        self._skipped = skipped
        self.say(
            f"step {step}: too many steps in a row were skipped; the weights are those of step "
            f"{to} again, the data goes on"
        )

    @contextmanager
    def enduring(self, what: str) -> Iterator[None]:
        """Around writing what a run can do without: a disk that does not take it is told of."""
        try:
            yield
        except (OSError, Unavailable) as fault:
            reason = fault.strerror if isinstance(fault, OSError) else fault
            self.say(f"{what} not written: {reason}; training goes on")

    def preview(self, step: int, state: TrainState, frozen: nnx.State) -> None:
        """Held-out loss and preview videos with the averaged weights; then curves and report."""
        with pulse().resting(), self.meter.pausing(), self._progress.busy("drawing previews"):
            params = self._join(state.ema, frozen)
            loss = interruptible(lambda: self._held_out.loss(params), self._stop)
            mean = interruptible(lambda: self._held_out.mean_predictor_loss(params), self._stop)
            videos = interruptible(lambda: self._previews.draw(params), self._stop)
            self._record(step, {"held_out_loss": loss, "mean_predictor_loss": mean})
            if self._chief:
                with self.enduring("previews"):
                    self._previews.write(videos, self._workdir / "samples", step)
                    self._publish(step)
        self._then, self._before = time.monotonic(), step
        self.say(f"step {step}: held-out loss {loss:.4g} (constant answer {mean:.4g})")

    def finish(self, state: TrainState, frozen: nnx.State) -> None:
        """The judge's table, the final report, and what to try next."""
        step, took = self._config.steps, time.monotonic() - self._begin
        with pulse().resting(), self.meter.pausing(), self._progress.busy("grading"):
            params = self._join(state.ema, frozen)
            verdict = interruptible(lambda: self._previews.judge(params), self._stop)
        if verdict is not None:
            self._scores = verdict.table
            self.say(verdict.table)
        self._record(step, {FINISHED: 1.0} | ({} if verdict is None else verdict.scores))
        if self._chief:
            with self.enduring("the report"):
                self._publish(step)
        self.say(f"trained steps {self._first} to {step} in {duration(took)}: {self._workdir}")
        self.say(f"look at {self._workdir / 'report.html'} and {self._workdir / 'samples'}")
        for purpose, command in self._commands().items():
            self.say(f"{purpose}:\n  {command}")

    def is_finished(self, step: int) -> bool:
        """Whether an earlier call came to its end at this step."""
        records = log.read(self._workdir / METRICS)
        return any(record["step"] == step and FINISHED in record for record in records)

    def _record(self, step: int, values: dict[str, float]) -> None:
        if self._metrics is not None:
            self._metrics.write(step, values)
        for writer in self._writers:
            writer.write(step, values)

    def sync(self) -> None:
        """Records of metrics.jsonl are on the disk; called before a checkpoint is saved."""
        if self._metrics is not None:
            self._metrics.sync()

    def _publish(self, step: int) -> None:
        self._previews.write_ends(*(self._workdir / end for end in ENDS))
        records = log.read(self._workdir / METRICS)
        name = self._workdir.resolve().name
        grids = sorted((self._workdir / "samples").glob("step_*.webp"))
        report.write_loss_picture(self._workdir / "loss.png", records, name)
        report.Report(
            name=name,
            facts=self._facts(step, records),
            scores=self._scores,
            records=records,
            samples={int(path.stem.removeprefix("step_")): path for path in grids},
            commands=self._commands(),
            config=json.loads(configs.to_json(self._config)),
            versions={"python": sys.version.split()[0]}
            | {package: metadata.version(package) for package in PACKAGES},
            events=log.events(self._workdir / LOG),
            credit=self._credit,
        ).write(self._workdir / "report.html")

    def _facts(self, step: int, records: Sequence[log.Record]) -> dict[str, str]:
        """The top of the report: what was trained on what, how far it came, and what it took."""
        config, devices = self._config, jax.devices()
        last = {name: value for record in records for name, value in record.items()}
        frames, height, width, _ = config.task.video.sizes
        facts = {
            "step": f"{step} of {config.steps}",
            "task": f"{type(config.task).__name__}, {frames} x {height} x {width}",
            "trained weights": self._weights,
            "begun from": config.init_from or "new weights",
            "training samples": f"{self._num_samples:,}",
            "samples a step": str(config.batch_size),
            "steps skipped": f"{self._skipped}",
            "time": duration(last.get("run_seconds") or time.monotonic() - self._begin),
            "devices": f"{len(devices)} x {devices[0].device_kind}",
        }
        for name, called in (("goodput", "goodput"), ("mfu", "of the peak (MFU)")):
            if last.get(name) is not None:
                facts[called] = f"{100 * last[name]:.0f} %"
        for name, called in (("held_out_loss", "held-out loss"),
                             ("mean_predictor_loss", "of a constant answer")):  # fmt: skip
            if last.get(name) is not None:
                facts[called] = f"{last[name]:.4g}"
        return facts

    def _commands(self) -> dict[str, str]:
        task, caption = self._config.task, self._previews.first_caption
        run = shlex.quote(str(self._workdir))
        ends = ENDS[: task.pictures] if task.pictures <= len(ENDS) else ()
        paths = [shlex.quote(str(self._workdir / end)) for end in ends]
        picture = f" --image {' '.join(paths)}" if paths else ""
        prompt = f" --prompt {shlex.quote(caption)}" if self._config.model.text else ""
        sample = f"python -m vdm_jax.sample --model {run}{picture}{prompt} --output out.mp4"
        more = f"--workdir {run} --steps {2 * self._config.steps}"
        train = f"python -m vdm_jax.train --config {run}/config.json {more}"
        return {
            "Make a video with it": sample,
            "Train it on, at the learning rates of a longer run": train,
        }


def _weights(built: Built) -> str:
    """How many are trained, and of how many."""
    sizes = [
        sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part))
        for part in (built.abstract.params, built.frozen)
    ]
    return f"{sizes[0]:,}" + (f" (beside {sizes[1]:,} that are only read)" if sizes[1] else "")


def _appended(path: Path) -> IO[str]:
    return path.open("a", encoding="utf-8")
