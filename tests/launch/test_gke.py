"""gke_xpk.sh with recorders in place of xpk and kubectl."""

import pytest
from launch.fakes import TRAINING, Fakes

SETTINGS = {"PROJECT": "p", "ZONE": "us-east5-b", "CLUSTER": "c", "IMAGE": "image:1"}
WHERE = ["--workload", "vdm", "--cluster", "c", "--project", "p", "--zone", "us-east5-b"]


@pytest.fixture
def fakes(tmp_path):
    return Fakes(tmp_path, "xpk", "kubectl")


def test_up_creates_a_workload_in_which_sigterm_reaches_the_training(fakes):
    settings = SETTINGS | {"STORAGE": "runs,data", "TPU_TYPE": "v5litepod-16", "SLICES": "2"}
    ended = fakes.run("gke_xpk.sh", "up", *TRAINING, "--note", "it's", **settings)
    assert ended.returncode == 0, ended.stderr
    (create,) = fakes.called("xpk")
    assert create == [
        "xpk", "workload", "create", *WHERE, "--tpu-type", "v5litepod-16", "--num-slices", "2",
        "--docker-image", "image:1", "--max-restarts", "100", "--restart-on-exit-codes", "75",
        "--termination-grace-period-seconds", "300", "--storage", "runs", "--storage", "data",
        "--command", "exec bash /app/launch/_entry.sh --config configs/quickstart.py "
        r"--workdir /runs/x --note it\'s",
    ]  # fmt: skip


def test_a_workload_that_runs_is_left_alone(fakes):
    fakes.answers({"kubectl get jobset": ["vdm "]})
    ended = fakes.run("gke_xpk.sh", "up", *TRAINING, **SETTINGS)
    assert ended.returncode == 0 and ended.stdout == "vdm runs already\n"
    assert not fakes.called("xpk")


@pytest.mark.parametrize("state", ["Failed", "Completed"])
def test_a_workload_that_ended_is_made_anew(fakes, state):
    fakes.answers({"kubectl get jobset": [f"vdm {state}"]})
    assert fakes.run("gke_xpk.sh", "up", *TRAINING, **SETTINGS).returncode == 0
    assert [call[2] for call in fakes.called("xpk")] == ["delete", "create"]
    assert fakes.called("xpk workload delete") == [["xpk", "workload", "delete", *WHERE, "--quiet"]]


def test_a_cluster_out_of_reach_makes_nothing(fakes):
    fakes.answers({"kubectl": [1]})
    ended = fakes.run("gke_xpk.sh", "up", *TRAINING, **SETTINGS)
    assert ended.returncode == 75 and "does not reach c" in ended.stderr
    assert not fakes.called("xpk")


def test_delete_of_nothing_is_nothing(fakes):
    fakes.answers({"kubectl get jobset": [""]})
    assert fakes.run("gke_xpk.sh", "delete", **SETTINGS).returncode == 0
    assert not fakes.called("xpk")
