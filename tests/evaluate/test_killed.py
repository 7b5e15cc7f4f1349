"""An evaluation that is killed goes on with what lies on disk."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from evaluate import parts

from vdm_jax.core import video

COUNT = 12


def evaluation(folder, output):
    args = ["--real", "real", "--model", "ours=model", "--draw-batch", "2", "--output", output]
    command = [sys.executable, "-m", "vdm_jax.evaluate", *args, "--protocol.metrics", "flicker"]
    plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.Popen(command, cwd=folder, env=plain, stderr=subprocess.DEVNULL)


@pytest.mark.long
def test_a_killed_evaluation_draws_nothing_twice(tmp_path):
    parts.model(tmp_path / "model", parts.MODEL)
    parts.shards(tmp_path / "real", COUNT)
    assert evaluation(tmp_path, "whole").wait() == 0
    for wanted in (2, 6):
        child = evaluation(tmp_path, "killed")
        drawn = tmp_path / "killed/clips/ours"
        while len(list(drawn.glob("*.mp4"))) < wanted and child.poll() is None:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
        there = {path: path.stat().st_mtime_ns for path in drawn.glob("*.mp4")}
        assert len(there) >= wanted
        for path in there:
            assert len(video.read(path).frames) == parts.FRAMES  # whole, or not there
    assert evaluation(tmp_path, "killed").wait() == 0
    after = {path: path.stat().st_mtime_ns for path in drawn.glob("*.mp4")}
    assert len(after) == COUNT and {path: after[path] for path in there} == there
    one, other = (
        json.loads((tmp_path / name / "results.json").read_text())["rows"]
        for name in ("whole", "killed")
    )
    assert one == other
