"""Checkpoints: bitwise, whole or absent, never silently wrong; with real disks and real kills."""

import contextlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vdm_jax.core import manifest
from vdm_jax.core.checkpoint import Checkpoints, load_config, load_weights, save_weights
from vdm_jax.core.refusal import Refusal

SEED = int(os.environ.get("VDM_SEED", "0"))
TX = optax.adamw(1e-2)


class Net(nnx.Module):
    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.up = nnx.Linear(8, width, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(width, 8, rngs=rngs, param_dtype=jnp.bfloat16)])


class Training(NamedTuple):
    step: jax.Array
    params: nnx.State
    opt_state: optax.OptState
    ema: nnx.State


def training(seed: int = 0, width: int = 16) -> Training:
    params = nnx.state(Net(width, rngs=nnx.Rngs(seed)), nnx.Param)
    return Training(jnp.int32(seed), params, TX.init(params), jax.tree.map(jnp.copy, params))


def abstract(state, mesh=None):
    sharding = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def equal(a, b) -> bool:
    same = jax.tree.map(lambda x, y: x.dtype == y.dtype and np.array_equal(x, y), a, b)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(jax.tree.leaves(same))


def numbered(n: int):
    """A state all of whose arrays are told by `n`, so that a wrong step cannot pass."""
    return {"a": jnp.arange(600, dtype=jnp.float32) * n, "b": {"c": jnp.int32(n)}}


def saved(directory: Path, *steps: int, keep: int = 3) -> None:
    with Checkpoints(directory, keep) as checkpoints:
        for n in steps:
            checkpoints.save(n, numbered(n), {"position": 10 * n})


def restored(directory: Path, state=None):
    with Checkpoints(directory) as checkpoints:
        return checkpoints.restore(abstract(numbered(0) if state is None else state))


def test_a_training_state_comes_back_bit_by_bit(tmp_path):
    state = training(3)
    with Checkpoints(tmp_path / "new" / "checkpoints") as checkpoints:
        assert checkpoints.restore(abstract(state)) is None
        checkpoints.save(3, state, {"position": 48, "fingerprint": "abc"})
        found = checkpoints.restore(abstract(state))
    assert found.step == 3 and found.meta == {"position": 48, "fingerprint": "abc"}
    assert isinstance(found.state, Training) and equal(found.state, state)


def test_buffers_may_be_donated_as_soon_as_save_returns(tmp_path):
    step = partial(jax.jit, donate_argnums=0)(lambda s: jax.tree.map(lambda x: x * -3 + 1, s))
    state = {str(i): jax.random.normal(jax.random.key(i), (1 << 20,)) for i in range(6)}
    with Checkpoints(tmp_path) as checkpoints:
        for n in range(3):
            wanted = jax.tree.map(lambda x: np.array(x, copy=True), state)
            checkpoints.save(n, state, {})
            for _ in range(3):
                before, state = state, step(state)
            assert before["0"].is_deleted()
            found = checkpoints.restore(abstract(state))
            assert found.step == n and equal(found.state, wanted)


@pytest.mark.parametrize("count", [1, 4, 8])
def test_restores_onto_another_mesh(tmp_path, count):
    def mesh(n):
        axes = (AxisType.Auto,)
        return jax.make_mesh((n,), ("x",), axis_types=axes, devices=jax.devices()[:n])

    whole = {"w": jax.random.normal(jax.random.key(1), (16, 24)), "n": jnp.int32(5)}
    eight = NamedSharding(mesh(8), PartitionSpec())
    state = jax.tree.map(lambda x: jax.device_put(x, eight), whole)
    state["w"] = jax.device_put(whole["w"], NamedSharding(mesh(8), PartitionSpec(None, "x")))
    target = abstract(whole, mesh(count))
    rows = NamedSharding(mesh(count), PartitionSpec("x"))
    target["w"] = jax.ShapeDtypeStruct((16, 24), jnp.float32, sharding=rows)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        found = checkpoints.restore(target).state
    assert equal(jax.device_get(found), jax.device_get(whole))
    assert found["w"].sharding == rows and len(found["n"].sharding.device_set) == count


def test_keeps_the_newest_and_reads_them_from_the_disk(tmp_path):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for n in (5, 7, 10, 12):
            checkpoints.save(n, numbered(n), {})
        checkpoints.wait()
        assert checkpoints.steps() == [7, 10, 12]
        shutil.rmtree(tmp_path / "12")
        assert checkpoints.restore(abstract(numbered(0))).step == 10
    with pytest.raises(Refusal, match="keep is 1; at least 2"):
        Checkpoints(tmp_path, keep=1)


def test_pruning_does_not_count_damaged_steps(tmp_path):
    saved(tmp_path, 1, 2, 3)
    for n in (2, 3):
        os.truncate(tmp_path / str(n) / "_METADATA", 3)
    saved(tmp_path, 4, keep=2)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1, 4]
    assert sorted(f.name for f in (tmp_path / "quarantine").iterdir()) == ["2", "3"]


def test_a_saved_or_restored_step_is_not_written_again(tmp_path):
    saved(tmp_path, 1)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(Refusal, match="already holds step 1"):
            checkpoints.save(1, numbered(1), {})
        checkpoints.restore(abstract(numbered(0)))
        checkpoints.save(1, numbered(9), {})
        assert checkpoints.restore(abstract(numbered(0))).state["b"]["c"] == 1


def test_only_one_process_saves_in_a_folder(tmp_path):
    program = (
        "import sys; from vdm_jax.core.checkpoint import Checkpoints\n"
        f"held = Checkpoints({str(tmp_path)!r}); print('open', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(Refusal, match="another process is saving in"):
            Checkpoints(tmp_path)
        other.kill()
    saved(tmp_path, 1)


# ---- Damage --------------------------------------------------------------------------------------


def damage(path: Path, how: str, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if how == "delete" or not content:
        path.unlink()
        return
    if how == "truncate":
        del content[rng.randrange(len(content)) :]
    elif how == "zero":
        start = rng.randrange(len(content))
        content[start : start + 64] = bytes(b ^ 0xFF for b in content[start : start + 64])
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def test_no_damage_to_any_file_is_restored_silently(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    saved(tmp_path / "good", 1, 2)
    rng = random.Random(SEED)
    files = [f.relative_to(tmp_path / "good") for f in (tmp_path / "good" / "2").rglob("*")]
    files = sorted(f for f in files if (tmp_path / "good" / f).is_file())
    cases = [(f, how) for f in files for how in ("flip", "flip", "truncate", "zero", "delete")]
    assert len(cases) >= 40
    fell_back = 0
    for file, how in cases:
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "good", copy)
        damage(copy / file, how, rng)
        caplog.clear()
        found = restored(copy)
        assert equal(found.state, numbered(found.step)), (file, how)
        assert found.meta == {"position": 10 * found.step}, (file, how)
        if found.step == 1:
            fell_back += 1
            assert (copy / "quarantine" / "2").is_dir() and "checkpoint 2 is damaged" in caplog.text
        shutil.rmtree(copy)
    # Only a flip in the white space of the manifest may leave a step as good as it was.
    assert fell_back >= len(cases) - 2


def test_refuses_to_start_over_when_no_step_is_intact(tmp_path):
    saved(tmp_path, 1, 2)
    for n in (1, 2):
        (tmp_path / str(n) / manifest.NAME).unlink()
    for _ in range(2):  # quarantined steps still forbid a fresh start
        with pytest.raises(Refusal, match=r"none of the checkpoints in .* is intact"):
            restored(tmp_path)
    names = sorted(f.name for f in (tmp_path / "quarantine").iterdir())
    assert names == ["1", "2"]


def test_a_step_under_another_name_is_damaged(tmp_path):
    saved(tmp_path, 1, 2)
    (tmp_path / "2").rename(tmp_path / "7")
    assert restored(tmp_path).step == 1
    assert (tmp_path / "quarantine" / "7").is_dir()


def test_a_step_before_another_can_be_asked_for(tmp_path):
    saved(tmp_path, 1, 2, 3)
    os.truncate(tmp_path / "2" / manifest.NAME, 9)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(abstract(numbered(0)), before=3).state["b"]["c"] == 1
        assert checkpoints.restore(abstract(numbered(0)), before=1) is None
        assert checkpoints.steps() == [1, 3]  # the damaged one is set aside, the others stay


def test_quarantine_keeps_every_damaged_copy_of_a_step(tmp_path):
    saved(tmp_path, 1, 2)
    for _ in range(2):
        os.truncate(tmp_path / "2" / manifest.NAME, 9)
        assert restored(tmp_path).step == 1
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.restore(abstract(numbered(0)))
            checkpoints.save(2, numbered(2), {})
    names = sorted(f.name for f in (tmp_path / "quarantine").iterdir())
    assert names == ["2", "2-1"]


def test_another_models_checkpoint_is_one_clear_line(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, training(), {})
        with pytest.raises(Refusal) as refusal:
            checkpoints.restore(abstract(training(width=24)))
        text = str(refusal.value)
        assert "4 does not fit: ema/blocks/0/kernel is bfloat16[16,8] there, bfloat16[24,8]" in text
        assert "; and 8 more" in text and "\n" not in text
        other = training()._asdict()
        other["extra"] = other.pop("step").astype(jnp.float32)
        with pytest.raises(Refusal, match=r"extra is absent there, float32\[\] here; step"):
            checkpoints.restore(abstract(other))
        assert checkpoints.restore(abstract(training())).step == 4


# ---- The disk ------------------------------------------------------------------------------------

FULL = """
import resource, sys
import jax.numpy as jnp, jax
from vdm_jax.core.checkpoint import Checkpoints
from vdm_jax.core.command import run

def state(n):
    return {"a": jax.random.normal(jax.random.key(n), (1 << 18,)), "n": jnp.int32(n)}

def main(args):
    with Checkpoints(args[0]) as checkpoints:
        for n in (1, 2):
            checkpoints.save(n, state(n), {})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            checkpoints.save(3, state(3), {})
            checkpoints.wait()
        finally:
            print(checkpoints.steps(), flush=True)
            if args[1:]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
                checkpoints.save(4, state(4), {})
                print(checkpoints.restore(state(0)).step)

run(main)
"""


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (os.EX_TEMPFAIL, "[1, 2]\n"), done.stderr
    assert done.stderr.startswith("error: the last save in") and done.stderr.count("\n") == 1
    assert sorted(f.name for f in tmp_path.iterdir()) == [".lock", "1", "2"]


def test_saving_goes_on_when_the_space_returns(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), "go on"], capture_output=True, text=True
    )
    assert done.stdout == "[1, 2]\n4\n", done.stderr


@contextlib.contextmanager
def small_disk(path: Path, size: str):
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk here")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_really_full_disk(tmp_path):
    big = {"a": jax.random.normal(jax.random.key(0), (1 << 20,))}
    with small_disk(tmp_path / "disk", "6m") as disk, Checkpoints(disk) as checkpoints:
        checkpoints.save(1, big, {})
        checkpoints.wait()
        with pytest.raises(Refusal, match=r"needs 4\.2 MB in .*, 2\.\d MB are free"):
            checkpoints.save(2, big, {})
        assert sorted(f.name for f in disk.iterdir()) == [".lock", "1"]
        small = {"a": jnp.ones(8)}
        checkpoints.save(3, small, {})
        assert checkpoints.restore(abstract(small)).step == 3


def test_an_unwritable_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(Refusal, match="cannot be written: Not a directory"):
        Checkpoints(tmp_path / "file" / "checkpoints")


KILLED = """
import sys
import jax, jax.numpy as jnp
from vdm_jax.core.checkpoint import Checkpoints

def state(n):
    return {str(i): jax.random.normal(jax.random.key(n), (1 << 15,)) for i in range(20)}

with Checkpoints(sys.argv[1], keep=2) as checkpoints:
    found = checkpoints.restore(state(0))
    start = 0 if found is None else found.step
    if found is not None:
        wanted = state(start)
        assert all((found.state[k] == wanted[k]).all() for k in wanted) and found.meta["n"] == start
    print(start, flush=True)
    for n in range(start + 1, 1000):
        checkpoints.save(n, state(n), {"n": n})
"""


def steps_in(directory: Path) -> list[int]:
    return [int(f.name) for f in directory.iterdir() if f.name.isdecimal()]


def test_kill_9_while_saving_leaves_a_newest_intact_step(tmp_path):
    """Every start finds the step it should, proves it bit by bit, and sweeps what the dead left."""
    rng = random.Random(SEED)
    starts = []
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        with process:
            starts.append(int(process.stdout.readline()))
            left = sorted(f.name for f in tmp_path.iterdir() if f.name == ".deleting")
            assert not left
            goal = starts[-1] + rng.randint(1, 4)
            while max(steps_in(tmp_path), default=0) < goal:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.15))
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    assert starts == sorted(set(starts))
    assert not (tmp_path / "quarantine").exists()


# ---- Model directories ---------------------------------------------------------------------------


def test_a_model_directory_holds_its_config_and_weights(tmp_path):
    weights = training(2).ema
    save_weights(tmp_path / "model", '{"a": 1}', weights)
    assert load_config(tmp_path / "model") == '{"a": 1}'
    assert equal(load_weights(tmp_path / "model", abstract(weights)), weights)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["model"]
    with pytest.raises(Refusal, match="exists and is not empty"):
        save_weights(tmp_path / "model", "{}", weights)
    with pytest.raises(Refusal, match="does not fit: blocks/0/kernel is"):
        load_weights(tmp_path / "model", abstract(training(width=24).ema))
    (tmp_path / "model" / "config.json").write_text('{"a": 2}')
    with pytest.raises(Refusal, match=r"is damaged: config\.json has other bytes"):
        load_weights(tmp_path / "model", abstract(weights))


def test_a_run_gives_the_averaged_weights_of_its_newest_intact_step(tmp_path):
    states = {n: training(n)._replace(ema=training(n + 50).ema) for n in (1, 2)}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for n, state in states.items():
            checkpoints.save(n, state, {})
    target = abstract(states[1].ema)
    assert equal(load_weights(tmp_path, target), states[2].ema)
    os.truncate(tmp_path / "checkpoints" / "2" / "_METADATA", 3)
    assert equal(load_weights(tmp_path, target), states[1].ema)
    assert not (tmp_path / "checkpoints" / "quarantine").exists()  # a reader moves nothing
    os.truncate(tmp_path / "checkpoints" / "1" / "_METADATA", 3)
    with pytest.raises(Refusal, match="none of its 2 checkpoints is intact"):
        load_weights(tmp_path, target)
    with pytest.raises(Refusal, match="it has no checkpoint"):
        load_weights(tmp_path / "nowhere", target)
    with pytest.raises(Refusal, match=r"has no readable config\.json"):
        load_config(tmp_path)


# ---- Two processes -------------------------------------------------------------------------------

PROCESS = """
import sys
from vdm_jax.core import processes
processes.join("2", sys.argv[3], sys.argv[2])
import jax
import jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from vdm_jax.core.checkpoint import Checkpoints

mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,))
rows = NamedSharding(mesh, PartitionSpec("x"))
make = lambda n: {"w": jax.make_array_from_callback(
    (8, 4), rows, lambda i: np.arange(32, dtype=np.float32).reshape(8, 4)[i] * n)}
with Checkpoints(sys.argv[1]) as checkpoints:
    assert checkpoints.restore(make(0)) is None
    for n in (1, 2, 3):
        checkpoints.save(n, make(n), {"n": n})
    found = checkpoints.restore(make(0))
    same = [np.array_equal(a.data, b.data) for a, b in zip(
        found.state["w"].addressable_shards, make(3)["w"].addressable_shards)]
    print(found.step, found.meta["n"], all(same), checkpoints.steps())
"""


def test_two_processes_save_one_checkpoint(tmp_path, two_processes):
    for told in two_processes(PROCESS, str(tmp_path)):
        assert told == ["3 3 True [1, 2, 3]"]
    with Checkpoints(tmp_path) as checkpoints:  # one process, one device
        found = checkpoints.restore({"w": jax.ShapeDtypeStruct((8, 4), jnp.float32)})
    assert np.array_equal(found.state["w"], np.arange(32).reshape(8, 4) * 3)
    assert json.loads((tmp_path / "3" / manifest.NAME).read_text())["content"]["meta"] == {"n": 3}
