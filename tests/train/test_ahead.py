"""The training step compiled ahead: what it tells is true of the step that runs."""

import os
import subprocess
import sys
from dataclasses import replace

import jax
import pytest

from vdm_jax.core import config as configs
from vdm_jax.core.absent import Absent
from vdm_jax.core.devices import Accelerator
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.loader import stack
from vdm_jax.train import ahead, begin
from vdm_jax.train.ahead import Ahead
from vdm_jax.train.collectives import Exchange
from vdm_jax.train.operations import operations
from vdm_jax.train.traced import traced_step

TOY = Accelerator("toy", ("toy",), tflops=1e-3, memory_gb=1.0, terabytes_per_second=1e-3)
ELSEWHERE = {  # what a program for other hardware is compiled under
    "JAX_PLATFORMS": "cpu",
}
OF_TESTS = {"XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"}  # settings of conftest.py


@pytest.fixture(scope="module")
def config():
    tiny = configs.load("tests/train/tiny.py")
    return replace(tiny, batch_size=8, mesh=MeshConfig(fsdp=4))


@pytest.fixture(scope="module")
def hardware():
    """The eight devices here, as if they were elsewhere."""
    return Absent("toy:8", tuple(jax.devices()), "cpu", "cpu", TOY)


@pytest.fixture(scope="module")
def found(config, hardware):
    return ahead.check(config, hardware)


def test_memory_is_that_of_the_arrays_on_one_device(config, found):
    """Weights are cut into four where they divide; besides, XLA counts little more than health."""
    mesh = config.mesh.build()
    state, _ = begin.build(config, mesh).init()
    on_first = sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(state.params)
        for shard in leaf.addressable_shards
        if shard.device == jax.devices()[0]
    )
    assert found.memory["weights"] == found.memory["average"] == on_first
    assert on_first < sum(leaf.nbytes for leaf in jax.tree.leaves(state.params)) / 2
    assert found.memory["moments"] == pytest.approx(2 * on_first, abs=64)
    health = sum(leaf.nbytes for leaf in state.health)
    assert health <= found.memory["padding"] < health + 100 and found.memory["temporaries"] > 0
    assert found.needed == sum(found.memory.values())


def test_operations_and_exchanges_are_those_of_the_step(config, found):
    mesh, sample = config.mesh.build(), ahead.blank(config)
    traced = traced_step(config, begin.build(config, mesh), mesh, sample)
    assert found.flops >= operations(traced.jaxpr) / 8 > 0
    assert {"all-gather", "all-reduce"} <= set(found.exchanges)
    assert found.exchanges["all-gather"].bytes > found.memory["weights"]


def test_shapes_of_a_batch_are_those_of_the_data_which_is_not_read(config):
    source = config.data.build()
    real = config.task.prepare(config.model, stack([source[0]]))
    blank = ahead.blank(config)
    assert {name: (a.shape, a.dtype) for name, a in blank.items()} == {
        name: (a.shape, a.dtype) for name, a in real.items()
    }
    assert not blank["video"].any()


def test_the_table_says_what_fits_and_what_bounds_the_step(found):
    shown = found.table()
    assert shown.startswith("toy:8: 8 x cpu, data 2 x fsdp 4 x context 1 x tensor 1; 8 samples")
    assert "of 1.00: fits, 1.00 to spare" in shown
    compute, memory = found.bound
    assert compute == pytest.approx(found.flops / 1e9)
    assert memory == pytest.approx(found.moved / 1e9)
    assert f"{8 / max(compute, memory):.3g} samples/s" in shown


def test_the_table_of_a_step_that_is_too_large_says_by_how_much():
    large = Ahead(
        title="toy", memory={"weights": 3 * 10**9, "all else": 2 * 10**9}, needed=5 * 10**9,
        limit=4 * 10**9, flops=2e12, moved=None, exchanges=None, peak=1e12, bandwidth=1e12,
        samples=4, seconds=3.0,
    )  # fmt: skip
    assert large.fits is False
    assert "of 4.00: does NOT fit, 1.00 over" in large.table()
    assert "at best 2e+03 ms a step (operations 2e+03 ms), 2 samples/s" in large.table()
    told = replace(large, exchanges={"all-gather": Exchange(7, 3 * 10**6)}).table()
    assert "  all-gather              7       3.0\n" in told


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 37.50G of 31.25G hbm.",
         37.5 * 2**30),
        ("the total memory required for HLO temporaries (2.5T) exceeds available HBM (7.48G).",
         2.5 * 2**40),
        ("INTERNAL: Mosaic failed to compile", None),
    ],
)  # fmt: skip
def test_what_a_program_needs_is_read_from_the_compilers_complaint(words, size):
    assert ahead.too_large(words) == size


def test_a_batch_that_the_hardware_cannot_share_is_refused_before_compiling(config, hardware):
    with pytest.raises(Refusal, match="batch_size 4 must be a multiple of 8"):
        ahead.check(replace(config, batch_size=4), hardware)
    with pytest.raises(Refusal, match="does not cover the 8 devices"):
        ahead.check(replace(config, mesh=MeshConfig(fsdp=3)), hardware)


def test_the_command_compiles_for_tpu():
    """By XLA's own compiler for it; the data of the config is not opened."""
    pytest.importorskip("libtpu")
    environment = {k: v for k, v in os.environ.items() if k not in OF_TESTS} | ELSEWHERE
    options = ["--compile-only", "v5e:2x4", "--batch-size", "8", "--mesh.fsdp", "4"]
    command = [sys.executable, "-m", "vdm_jax.train", "--config", "tests/train/tiny.py", *options]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "8 x TPU v5 lite, data 2 x fsdp 4" in run.stdout
    assert "of 16.91: fits" in run.stdout
    for word in ("temporaries", "TFLOP a device and step", "all-reduce", "samples/s"):
        assert word in run.stdout
