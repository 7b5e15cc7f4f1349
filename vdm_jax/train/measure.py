"""Where a run's time goes, and how much of the devices' peak its steps reach.

Every second since the start belongs to one of: taking steps, waiting for data, saving, or what else
a run does between steps (compiling, drawing). Goodput is the part that steps took of all the time
since the run first began, what was lost between its restarts included.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from vdm_jax.core import devices
from vdm_jax.core.refusal import Refusal
from vdm_jax.train.log import Record

STEPS, DATA, SAVE, ELSE = "steps", "data", "save", "else"
WORTH_SAYING = 0.05  # part of a step's time from which waiting and saving are told


class Meter:
    """Sorts the seconds of a run. flops: operations of a step on one device, once it is compiled.

    records: of the run so far, by which goodput counts on. device_kind: None is that of the first
    device here.
    """

    flops: float | None = None

    def __init__(
        self,
        records: Sequence[Record] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        device_kind: str | None = None,
    ):
        self._clock, self._wall = clock, wall
        self._doing, self._since = STEPS, clock()
        self._seconds = dict.fromkeys((STEPS, DATA, SAVE, ELSE), 0.0)
        self._reported = dict(self._seconds)
        timed = [record for record in records if "run_seconds" in record]
        last = timed[-1] if timed else {"time": wall(), "run_seconds": 0.0, "step_seconds": 0.0}
        self._began = last["time"] - last["run_seconds"]
        self._before = last["step_seconds"]
        self._device = devices.known(device_kind or jax.local_devices()[0].device_kind)

    @contextmanager
    def fetching(self, pending: Any) -> Iterator[None]:
        """Around taking a batch while the devices work on `pending`, the results of a step.

        It counts as waiting only where they were done before the batch was there.
        """
        doing = self._switch(DATA)
        before = self._seconds[DATA]
        try:
            yield
        finally:
            self._switch(doing)
            if not all(leaf.is_ready() for leaf in jax.tree.leaves(pending)):
                self._seconds[STEPS] += self._seconds[DATA] - before
                self._seconds[DATA] = before

    def saving(self) -> Any:
        """Around what a save keeps the run from going on for."""
        return self._while(SAVE)

    def pausing(self) -> Any:
        """Around compiling, drawing and grading."""
        return self._while(ELSE)

    def report(self, steps: int) -> dict[str, float]:
        """Of the last `steps` steps: their seconds each by kind, and the speed; then goodput.

        mfu: part of the peak, of a device that `core.devices` knows; else gflops, of one device.
        """
        self._switch(self._doing)
        new = {kind: self._seconds[kind] - self._reported[kind] for kind in (STEPS, DATA, SAVE)}
        self._reported = dict(self._seconds)
        values = {f"{kind}_seconds": each / steps for kind, each in new.items()}
        values["compute_seconds"] = values.pop("steps_seconds")
        now, useful = self._wall(), self._before + self._seconds[STEPS]
        run = max(now - self._began, 1e-9)
        values |= {"time": now, "run_seconds": run, "step_seconds": useful}
        values["goodput"] = min(1.0, useful / run)
        return values | self._speed(sum(new.values()) / steps)

    def _speed(self, seconds: float) -> dict[str, float]:
        if self.flops is None or seconds <= 0:
            return {}
        reached = self.flops / seconds
        if self._device is None:
            return {"gflops": reached / 1e9}
        return {"mfu": reached / self._device.flops}

    @contextmanager
    def _while(self, doing: str) -> Iterator[None]:
        before = self._switch(doing)
        try:
            yield
        finally:
            self._switch(before)

    def _switch(self, doing: str) -> str:
        """Book the time up to now; returns what it was spent on."""
        now, before = self._clock(), self._doing
        self._seconds[before] += now - self._since
        self._doing, self._since = doing, now
        return before


def told(values: Mapping[str, float]) -> str:
    """A report of `Meter` in a few words: "41% MFU  goodput 97%  waiting for data 12%"."""
    words = []
    if "mfu" in values:
        words.append(f"{values['mfu']:.0%} MFU")
    elif "gflops" in values:
        words.append(f"{values['gflops']:.3g} GFLOP/s")
    words.append(f"goodput {values['goodput']:.0%}")
    kinds = {"waiting for data": "data_seconds", "saving": "save_seconds"}
    whole = values["compute_seconds"] + sum(values[name] for name in kinds.values())
    for kind, name in kinds.items():
        if values[name] > WORTH_SAYING * whole:
            words.append(f"{kind} {values[name] / whole:.0%}")
    return "  ".join(words)


@dataclass
class Profile:
    """A trace of what host and devices do in some steps, for people to look at.

    first, last: numbers of the steps, counted from 1.
    """

    first: int
    last: int
    _folder: Path | None = field(default=None, init=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> "Profile":
        """ "10:15" is steps 10 to 15, both included."""
        first, colon, last = text.partition(":")
        if not (colon and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
            raise Refusal(f"--profile {text} is no range of steps; say e.g. 10:15")
        return cls(int(first), int(last))

    def check(self, steps: int) -> None:
        """Refuse steps that a run of `steps` does not take."""
        if self.last > steps:
            raise Refusal(f"--profile {self.first}:{self.last}: the run has {steps} steps")

    def at(self, step: int, results: Any, folder: Path) -> str | None:
        """Called when `step` steps are taken: begins or ends the trace where that is its place.

        results: of the last step, which is waited for. Returns what to say about a finished trace.
        """
        if step + 1 == self.first:
            jax.block_until_ready(results)
            jax.profiler.start_trace(str(folder))
            self._folder = folder
        if step != self.last or self._folder is None:
            return None
        jax.block_until_ready(results)
        self.close()
        return (
            f"profile of steps {self.first} to {self.last}: {folder}\n"
            f"  pip install xprof && xprof --logdir {folder}\n"
            f"  or open the *.trace.json.gz within at https://ui.perfetto.dev"
        )

    def close(self) -> None:
        """End a trace that the run's end cuts short."""
        if self._folder is not None:
            jax.profiler.stop_trace()
            self._folder = None
