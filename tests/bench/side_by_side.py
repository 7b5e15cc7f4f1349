"""Two libraries side by side: each in a process of its own, which take turns on the same CPUs.

A benchmark gives `serve` a function for each library that returns a description and its calls,
starts a `Worker` for each, and prints `Row`s of what `measure` returns.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ALLOCATOR = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=34359738368:"
ALLOCATOR += "glibc.malloc.top_pad=268435456"
BURST = 3  # calls at a time
Calls = dict[str, Callable[[], Any]]
Library = Callable[[argparse.Namespace], tuple[dict[str, Any], Calls]]


def serve(args: argparse.Namespace, libraries: Mapping[str, Library]) -> None:
    """Be a worker: a line in names a call and how often, a line out tells its times."""
    import numpy as np

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to stderr

    def answer(what):
        print(json.dumps(what), file=answers, flush=True)

    description, calls = libraries[args.worker](args)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what building and compiling left goes back,
    Path("/proc/self/clear_refs").write_text("5")  # and the peak starts anew
    answer(description | {"calls": list(calls)})
    for line in sys.stdin:
        kind, name, count = line.rstrip("\n").split("\t")
        if kind == "save":
            np.save(args.folder / f"{args.worker}.npy", calls[name]())
            answer(None)
        elif kind == "peak":
            answer(_peak())
        else:
            answer(_timed(calls[name], int(count), args.boost))


def _timed(call, count, boost):
    times = []
    with _favoured() if boost else contextlib.nullcontext():
        for _ in range(count):
            begun = time.perf_counter()
            call()
            times.append(time.perf_counter() - begun)
    return times


@contextlib.contextmanager
def _favoured():
    """Linux's scheduler prefers this session's processes for a while."""
    group = Path("/proc/self/autogroup")
    group.write_text("-20")
    try:
        yield
    finally:
        group.write_text("0")


def _peak():
    """Most memory that this process held since it was ready, in bytes."""
    line = next(a for a in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in a)
    return 1024 * int(line.split()[1])


class Worker:
    """One library in a process of its own."""

    def __init__(self, name: str, shape: str, folder: Path, args: argparse.Namespace):
        cpus = sorted(os.sched_getaffinity(0))[: args.threads]
        environment = os.environ | {
            "GLIBC_TUNABLES": ALLOCATOR,
            "OMP_NUM_THREADS": str(args.threads),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = [sys.executable, *sys.argv, "--worker", name]
        self.process = subprocess.Popen(
            [*command, "--shape", shape, "--folder", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        )
        self.told = self._answer()

    def ask(self, kind: str, name: str = "", count: int = 1) -> Any:
        print(kind, name, count, sep="\t", file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with code {self.process.wait()}")
        return json.loads(line)

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


class Row(NamedTuple):
    """One line of the table; times in seconds."""

    what: str
    ours: list[float]
    theirs: list[float]
    bar: float | None = None

    def __str__(self):
        def ms(of):
            return f"{1e3 * of(self.ours):.1f} | {1e3 * of(self.theirs):.1f}"

        ratios = [of(self.ours) / of(self.theirs) for of in (statistics.median, min)]
        held = "" if self.bar is None else verdict(min(ratios), self.bar)
        medians, minima = (f"{ratio:.2f}" for ratio in ratios)
        times = f"{ms(statistics.median)} | {ms(min)}"
        return f"| {self.what} | {times} | {medians} | {minima} | {held} |"


HEADER = (
    "| | ours, median ms | theirs | ours, min ms | theirs | ratio of medians | of minima | bar |",
    "|---" * 8 + "|",
)


def verdict(value: float, bar: float) -> str:
    return f"{bar:g} {'held' if value <= bar else 'missed'}"


def measure(workers: dict[str, Worker], names: list[str], rounds: int) -> dict[str, Any]:
    """times[call][library], the libraries taking turns; the first round warms up.

    Calls come in bursts: threads that wake up on one core need a while to part.
    """
    times = {name: {side: [] for side in workers} for name in names}
    for turn in range(rounds + 1):
        for name, by_side in times.items():
            for side, worker in workers.items():
                if name in worker.told["calls"]:
                    took = worker.ask("time", name, BURST)
                    by_side[side] += took if turn else []
                    time.sleep(0.05)  # let the other's threads stop spinning
    return times


def add_options(parser: argparse.ArgumentParser) -> None:
    """What the workers are told, by the user and by the process that starts them."""
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--boost", action="store_true")
    for hidden in ("--worker", "--shape"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
