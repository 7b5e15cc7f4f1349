"""One host of two is taken away: the other waits for it, and both end with the last step."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from faults.lives import CONFIG, environment, free_port, newest

STEPS = 40
PATIENCE = 300  # seconds


@pytest.mark.slow
def test_the_other_host_saves_waits_and_goes_on_with_the_one_that_comes_back(tmp_path):
    workdir, port = tmp_path / "run", free_port()

    def host(index):
        command = [sys.executable, "-m", "vdm_jax.train", "--supervise", "--stopped-code", "75"]
        command += ["--config", str(CONFIG), "--workdir", str(workdir), "--steps", str(STEPS)]
        command += ["--processes", "2", "--process", str(index)]
        with (tmp_path / f"said.{index}").open("a") as said:
            return hosts.enter_context(
                subprocess.Popen(
                    [*command, "--coordinator", f"127.0.0.1:{port}"],
                    env=environment(os.environ["JAX_COMPILATION_CACHE_DIR"]),
                    stdout=said,
                    stderr=said,
                )
            )

    def until(reached):
        end = time.monotonic() + PATIENCE
        while not reached():
            assert time.monotonic() < end and first.poll() is None
            time.sleep(0.05)

    with ExitStack() as hosts:
        first, second = host(0), host(1)
        hosts.callback(first.terminate)
        metrics, said = workdir / "metrics.jsonl", tmp_path / "said.0"
        until(lambda: metrics.exists() and '"loss"' in metrics.read_text())
        second.send_signal(signal.SIGTERM)
        assert second.wait(PATIENCE) == 75
        until(lambda: "ended with code 75; it is started again" in said.read_text())
        saved = newest(workdir)
        assert 0 < saved < STEPS
        second = host(1)
        assert (first.wait(PATIENCE), second.wait(PATIENCE)) == (0, 0), said.read_text()[-2000:]
    assert newest(workdir) == STEPS and f"going on from step {saved}" in said.read_text()
