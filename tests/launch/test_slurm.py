"""slurm.sbatch: what it asks of srun; and two real processes, found by SLURM's variables alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launch.fakes import LAUNCH, ROOT, TRAINING, Fakes
from topology.run import BAR, FLAGS, apart, losses

SRUN = """\
#!{python}
# Two tasks here, with what srun tells each; signals are passed on, the worst code is its own.
import json, os, signal, subprocess, sys, time
with open(os.environ["FAKES"] + "/calls", "a") as calls:
    calls.write(json.dumps(["srun", *sys.argv[1:]]) + "\\n")
command = sys.argv[sys.argv.index("bash"):]
tasks = [
    subprocess.Popen(
        command,
        env=os.environ | {{
            "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_PROCID": str(index),
            "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "localhost",
            "SLURM_TASKS_PER_NODE": "1(x2)",
        }},
        stdout=open(os.environ["FAKES"] + f"/out.{{index}}", "a"),
        stderr=subprocess.STDOUT,
    )
    for index in range(2)
]
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
PATIENCE = 600  # seconds
SMOKE = ["--config", "configs/quickstart.py:smoke", "--preview-every", "6"]


class Cluster(Fakes):
    def __init__(self, folder):
        super().__init__(folder, "scontrol")
        path = self.bin / "srun"
        path.write_text(SRUN.format(python=sys.executable))
        path.chmod(0o755)

    def environment(self, **settings):
        job = str(os.getpid() * 7 % 4096)  # the port of process 0 follows from it
        own = {"SLURM_JOB_ID": job, "SLURM_SUBMIT_DIR": str(ROOT)}
        return super().environment(**own | settings)

    def said(self):
        return "".join(path.read_text() for path in sorted(self.folder.glob("out.*")))


@pytest.fixture
def recorded(tmp_path):
    return Fakes(tmp_path, "srun", "scontrol")


JOB = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(ROOT)}


def test_each_machine_runs_the_entry_script(recorded):
    assert recorded.run("slurm.sbatch", *TRAINING, **JOB).returncode == 0
    assert recorded.calls == [["srun", "--wait=60", "bash", f"{LAUNCH}/_entry.sh", *TRAINING]]


@pytest.mark.parametrize("code", [75, 78, 1, 2])
def test_only_what_was_stopped_before_its_last_step_is_queued_again(recorded, code):
    recorded.answers({"srun": [code]})
    assert recorded.run("slurm.sbatch", *TRAINING, **JOB).returncode == code
    again = [["scontrol", "requeue", "7"]] if code == 75 else []
    assert recorded.called("scontrol") == again


def test_outside_a_checkout_it_refuses(recorded, tmp_path):
    done = recorded.run("slurm.sbatch", *TRAINING, SLURM_SUBMIT_DIR=str(tmp_path))
    assert done.returncode == 2 and "is no checkout" in done.stderr and not recorded.calls


def trained(cluster, workdir, **settings):
    """The job, as sbatch runs it: from a copy of the script that lies elsewhere."""
    script = cluster.folder / "slurm_script"
    script.write_text((LAUNCH / "slurm.sbatch").read_text())
    return subprocess.Popen(
        ["bash", str(script), *SMOKE, "--workdir", str(workdir)],
        env=cluster.environment(**settings),
        cwd="/",
        stdout=subprocess.PIPE,
        text=True,
    )


def until(reached, process, cluster):
    end = time.monotonic() + PATIENCE
    while not reached():
        assert process.poll() is None and time.monotonic() < end, cluster.said()[-3000:]
        time.sleep(0.02)


@pytest.mark.long
def test_two_processes_train_stop_go_on_and_end_as_one_does(tmp_path):
    cluster, workdir = Cluster(tmp_path), tmp_path / "runs/two"
    settings = {
        "VDM_JAX_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": FLAGS,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    metrics = workdir / "metrics.jsonl"
    with trained(cluster, workdir, **settings) as job:
        until(lambda: metrics.exists() and '"loss"' in metrics.read_text(), job, cluster)
        srun = children(job.pid)[-1]
        os.kill(srun, signal.SIGTERM)  # the tasks only: the end of its time is near
        assert job.wait(PATIENCE) == 75, cluster.said()[-3000:]
        assert "queued again" in job.stdout.read()
    assert cluster.called("scontrol") == [["scontrol", "requeue", str(os.getpid() * 7 % 4096)]]
    stopped = newest(workdir)
    assert 0 < stopped < 6
    with trained(cluster, workdir, **settings) as job:
        assert job.wait(PATIENCE) == 0, cluster.said()[-3000:]
    assert newest(workdir) == 6 and len(cluster.called("srun")) == 2
    writers = {p.name for p in (workdir / "checkpoints/6").rglob("ocdbt.process_*")}
    assert writers == {"ocdbt.process_0", "ocdbt.process_1"}  # both hold a part of the state
    alone = tmp_path / "runs/one"
    command = ["bash", str(LAUNCH / "_entry.sh"), *SMOKE]
    env = cluster.environment(**settings)
    del env["SLURM_JOB_ID"]
    subprocess.run([*command, "--workdir", str(alone)], env=env, check=True, capture_output=True)
    one, two = losses(alone), losses(workdir)
    assert len(one) == len(two) == 6 and apart(two[:, 0], one[:, 0]) <= BAR


def children(pid):
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def newest(workdir):
    return max(int(f.name) for f in (workdir / "checkpoints").iterdir() if f.name.isdecimal())
