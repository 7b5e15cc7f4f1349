"""Memory of full-size draws, compiled for hardware that is not here; needs its compiler."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

GB = 10**9
ABSENT = {  # compile for hardware that is not here
    "JAX_PLATFORMS": "cpu",
    "JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1.0",  # several times faster; takes no less memory
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
OF_TESTS = {"XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"}  # settings of conftest.py


def compiled(name, frames, chunk, dtype, window, devices=1):
    if name.startswith("h100"):
        if find_spec("jax_cuda12_plugin") is None:
            pytest.skip("needs JAX's CUDA plugin")
    else:
        pytest.importorskip("libtpu")
    script = Path(__file__).with_name("draw.py")
    numbers = [str(frames), str(chunk), dtype, str(window), str(devices)]
    command = [sys.executable, str(script), name, *numbers]
    environment = {k: v for k, v in os.environ.items() if k not in OF_TESTS} | ABSENT
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "frames", "chunk", "dtype", "memory"),
    [
        ("v5e:2x2", 14, 4, "bfloat16", 16 * GB),
        ("v6e:2x2", 25, 8, "bfloat16", 24 * GB),
        ("h100:1", 14, 8, "bfloat16", 16 * GB),
        ("h100:1", 25, 8, "bfloat16", 24 * GB),
    ],
)
def test_a_full_size_draw_fits(name, frames, chunk, dtype, memory):
    """576x1024 pixels; and the estimate errs upwards, by at most a third."""
    got = compiled(name, frames, chunk, dtype, frames)
    assert got["taken"] <= memory
    assert got["taken"] <= got["estimate"] <= 4 / 3 * got["taken"]


@pytest.mark.parametrize(
    ("name", "devices", "memory"), [("h100:1", 1, 80 * GB), ("v5p:2x2x1", 4, 95 * GB)]
)
def test_four_times_the_frames_of_a_training_clip_fit(name, devices, memory):
    """100 frames of 576x1024 pixels, 25 at a time."""
    got = compiled(name, 100, 8, "bfloat16", 25, devices)
    print(f"{name}: {got['taken'] / GB:.1f} GB a device, {got['temporary'] / GB:.1f} temporary")
    assert got["taken"] <= memory
