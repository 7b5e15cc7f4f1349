"""Runs that are started, hurt and started again, and whether they end as if nothing had been."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from vdm_jax.core import manifest
from vdm_jax.train import log

HERE = Path(__file__).parent
CONFIG = HERE.parent / "train" / "tiny.py"
PATIENCE = 600  # seconds; a life that does nothing for so long has hung
FLAGS = (
    "--xla_backend_optimization_level=0 "  # the same program, sooner compiled
    "--xla_cpu_collective_call_terminate_timeout_seconds=600"
)


SUPERVISED = """
import sys
from vdm_jax.train.supervise import supervise
sys.exit(supervise(sys.argv[1:]))
"""


def environment(cache):
    """All processes of a harness share one cache of compiled programs: they start many times."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": FLAGS,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Run:
    """A run of one or more processes in a directory; each `start` is a life of it.

    faults: as `child.py` takes them; None: the command itself. supervised: by the command's own.
    """

    grace = 60  # seconds in which those die that another one's death leaves behind

    def __init__(self, workdir, cache, *, steps=40, processes=1, options=(), faults=None):
        self.workdir, self.cache, self.steps = Path(workdir), cache, steps
        self.processes, self.options, self.faults = processes, tuple(options), faults
        self.config = str(CONFIG)
        self.output = self.workdir.with_suffix(".out")
        self.workdir.parent.mkdir(parents=True, exist_ok=True)

    def command(self, place=()):
        program = ["-m", "vdm_jax.train"]
        if self.faults is not None:
            path = self.workdir.with_suffix(".faults.json")
            path.write_text(json.dumps(self.faults))
            program = [str(HERE / "child.py"), str(path)]
        args = ["--config", self.config, "--workdir", str(self.workdir)]
        args += ["--steps", str(self.steps), *self.options, *place]
        return [sys.executable, *program, *args]

    @contextmanager
    def start(self, *, supervised=False):
        """The processes of one life; none of them outlives the block."""
        place, port = (), free_port()
        processes = []
        with self.output.open("ab") as output:
            for index in range(self.processes):
                if self.processes > 1:
                    place = ("--processes", str(self.processes), "--process", str(index),
                             "--coordinator", f"127.0.0.1:{port}")  # fmt: skip
                command = self.command(place)
                if supervised:
                    command = [sys.executable, "-c", SUPERVISED, *command]
                processes.append(
                    subprocess.Popen(
                        command,
                        env=environment(self.cache),
                        stdout=output,
                        stderr=output,
                        stdin=subprocess.DEVNULL,
                    )
                )
            try:
                yield processes
            finally:
                for process in processes:
                    process.kill()
                    process.wait()

    def finish(self, *, supervised=False):
        """One life to its end; the exit codes."""
        with self.start(supervised=supervised) as processes:
            return [process.wait(PATIENCE) for process in processes]

    @property
    def newest(self):
        return newest(self.workdir)

    @property
    def reached(self):
        """Steps in metrics.jsonl."""
        return max((r["step"] for r in log.read(self.workdir / "metrics.jsonl")), default=0)

    def said(self):
        return self.output.read_text(errors="replace")


def newest(workdir):
    folder = Path(workdir) / "checkpoints"
    return max((int(f.name) for f in folder.glob("*") if f.name.isdecimal()), default=0)


def is_saving(workdir):
    return any((Path(workdir) / "checkpoints" / ".saving").glob("*"))


def wait_until(reached, processes, patience=PATIENCE):
    """Poll until `reached`; the processes must live, or have finished well, and not hang."""
    end = time.monotonic() + patience
    while not reached():
        codes = [process.poll() for process in processes]
        assert all(code in (None, 0) for code in codes), f"ended by themselves with {codes}"
        if all(code == 0 for code in codes):
            return
        assert time.monotonic() < end, "hangs"
        time.sleep(0.005)


def kill(processes, victims, grace):
    """SIGKILL some; returns seconds until all others were dead too (at most `grace`)."""
    for index in victims:
        processes[index].send_signal(signal.SIGKILL)
    begin = time.monotonic()
    for process in processes:
        try:
            process.wait(max(0.0, begin + grace - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return time.monotonic() - begin


def contents(folder):
    """All arrays of a checkpoint, as bytes on the disk say."""
    manifest.verify(folder)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
        metadata = orbax.metadata(folder).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
        tree = orbax.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def losses(workdir):
    """Loss and gradient norm of each step: equal only if each step saw the same data and noise."""
    records = log.read(Path(workdir) / "metrics.jsonl")
    pairs = [(r["step"], (r["loss"], r["grad_norm"])) for r in records if "loss" in r]
    assert len(pairs) == len(dict(pairs)), "a step is recorded twice"
    return dict(pairs)


def difference(run, clean):
    """None if both runs ended bit by bit alike, in all they saved and recorded; else the first."""
    if (run.newest, clean.newest) != (run.steps, run.steps):
        return f"ended at step {run.newest}, not {run.steps}"
    folders = [one.workdir / "checkpoints" / str(run.steps) for one in (run, clean)]
    one, other = map(contents, folders)
    if one.keys() != other.keys() or len(one) < 100:
        return "other arrays"
    for name, array in one.items():
        if array.dtype != other[name].dtype or array.tobytes() != other[name].tobytes():
            return f"array {name} differs"
    if manifest.read(folders[0])["meta"] != manifest.read(folders[1])["meta"]:
        return "another data position"
    mine, theirs = losses(run.workdir), losses(clean.workdir)
    if set(mine) != set(range(1, run.steps + 1)):
        return "steps are missing in the record"
    if mine != theirs:
        first = min(step for step in theirs if mine[step] != theirs[step])
        return f"loss or gradient norm differs from step {first} on"
    return None


def seeded(seed, *what):
    return random.Random(f"{seed}/{'/'.join(map(str, what))}")
