"""Exact resume: killed at random moments and started again, a run ends as if nothing had happened.

VDM_KILLS (how many times) and VDM_SEED (which moments) make a longer or another run of it:

    VDM_KILLS=50 VDM_SEED=7 pytest -n0 tests/train/test_resume.py
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from vdm_jax.core import manifest
from vdm_jax.train import log

KILLS = int(os.environ.get("VDM_KILLS", "10"))
SEED = int(os.environ.get("VDM_SEED", "0"))
STEPS = 2 * KILLS
CONFIG = str(Path(__file__).with_name("tiny.py"))
PATIENCE = 600  # seconds; a life that does nothing for so long has hung
COMPILE_FAST = "--xla_backend_optimization_level=0"  # the same program, sooner


def start(workdir: Path, *options: str, output: int | None = None) -> "subprocess.Popen[bytes]":
    """The training command itself, on one device."""
    command = [sys.executable, "-m", "vdm_jax.train", "--config", CONFIG]
    command += ["--workdir", str(workdir), "--steps", str(STEPS), *options]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": COMPILE_FAST}
    return subprocess.Popen(
        command, env=environment, stdout=output or subprocess.DEVNULL, stderr=subprocess.STDOUT
    )


def finish(process: "subprocess.Popen[bytes]") -> int:
    try:
        return process.wait(PATIENCE)
    finally:
        process.kill()


def newest(workdir: Path) -> int:
    folder = workdir / "checkpoints"
    steps = [int(f.name) for f in folder.glob("*") if f.name.isdecimal()]
    return max(steps, default=0)


def saving(workdir: Path) -> bool:
    return any((workdir / "checkpoints" / ".saving").glob("*"))


def arrays(workdir: Path) -> dict[str, np.ndarray]:
    """All arrays of the last checkpoint, as bytes on the disk say."""
    folder = workdir / "checkpoints" / str(STEPS)
    manifest.verify(folder)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
        metadata = orbax.metadata(folder).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
        tree = orbax.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def losses(workdir: Path) -> dict[int, tuple[float, float]]:
    """Loss and gradient norm of each step: equal only if each step saw the same data and noise."""
    records = log.read(workdir / "metrics.jsonl")
    pairs = [(r["step"], (r["loss"], r["grad_norm"])) for r in records if "loss" in r]
    assert len(pairs) == len(dict(pairs)), "a step is recorded twice"
    return dict(pairs)


def assert_same_run(workdir: Path, uninterrupted: Path) -> None:
    one, other = arrays(workdir), arrays(uninterrupted)
    assert one.keys() == other.keys() and len(one) > 100
    for part in ("params", "ema", "opt_state", "step"):
        assert any(part in name for name in one), part
    different = [
        name for name in one
        if one[name].dtype != other[name].dtype or one[name].tobytes() != other[name].tobytes()
    ]  # fmt: skip
    assert not different
    assert losses(workdir) == losses(uninterrupted)
    assert set(losses(workdir)) == set(range(1, STEPS + 1))
    last = f"checkpoints/{STEPS}"
    assert manifest.read(workdir / last)["meta"] == manifest.read(uninterrupted / last)["meta"]


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory):
    """All processes share one cache of compiled programs: they start many times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("xla")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, compiled_once: None) -> Path:
    workdir = tmp_path_factory.mktemp("run") / "uninterrupted"
    assert finish(start(workdir)) == 0
    return workdir


def live_until_killed(workdir: Path, rng: random.Random) -> bool:
    """One life: killed while it starts, or at some moment after its next few checkpoints.

    Returns whether a save was in flight.
    """
    before = newest(workdir)
    goal = min(before + rng.randint(0, 3) * (rng.random() < 0.8), STEPS)
    grace = rng.uniform(0, 4) if goal == before else rng.uniform(0, 0.3)
    process = start(workdir)
    try:
        wait_until(lambda: newest(workdir) >= goal, process)
        time.sleep(grace)
        in_flight = saving(workdir)
    finally:
        process.kill()
    assert process.wait() in (-signal.SIGKILL, 0)
    return in_flight


def wait_until(reached: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    """Poll until `reached`; the process must live, or have finished well, and not hang."""
    end = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() in (None, 0), f"ended by itself with {process.returncode}"
        assert time.monotonic() < end, "hangs"
        time.sleep(0.005)


def test_a_run_killed_again_and_again_ends_bitwise_equal(tmp_path, uninterrupted):
    rng = random.Random(SEED)
    workdir = tmp_path / "killed"
    in_flight = [live_until_killed(workdir, rng) for _ in range(KILLS)]
    assert any(in_flight)
    assert newest(workdir) > 0
    assert finish(start(workdir)) == 0
    assert_same_run(workdir, uninterrupted)
    assert not (workdir / "checkpoints" / "quarantine").exists()


def test_sigterm_saves_and_exits_zero_within_ten_seconds(tmp_path, uninterrupted):
    workdir = tmp_path / "stopped"
    process = start(workdir, "--save-every", "1000")
    wait_until(lambda: len(losses(workdir)) >= 2, process)
    process.terminate()
    asked = time.monotonic()
    assert finish(process) == 0
    assert time.monotonic() - asked < 10
    stopped_at = newest(workdir)
    assert 2 <= stopped_at < STEPS
    assert finish(start(workdir)) == 0
    assert_same_run(workdir, uninterrupted)


def test_sigterm_while_compiling_exits_zero_within_ten_seconds(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "empty"))
    process = start(tmp_path / "run", output=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as lines:
        assert any(b"compiling" in line for line in lines)
        process.terminate()
        asked = time.monotonic()
        assert finish(process) == 0
    assert time.monotonic() - asked < 10
    assert newest(tmp_path / "run") == 0


@pytest.mark.parametrize("option", [("--seed", "5"), ("--batch-size", "4")])
def test_a_run_of_something_else_is_refused_in_one_line(uninterrupted, option):
    process = start(uninterrupted, *option, output=subprocess.PIPE)
    text, _ = process.communicate(timeout=PATIENCE)
    line = text.decode()
    assert process.returncode == 2 and line.startswith("error: ") and line.count("\n") == 1
    assert option[0][2:].replace("-", "_") in line
