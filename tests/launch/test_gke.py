"""gke_xpk.sh with recorders in place of xpk and kubectl."""

import pytest
from launch.fakes import TRAINING, Fakes, refused

SETTINGS = {"PROJECT": "p", "ZONE": "us-east5-b", "CLUSTER": "c", "IMAGE": "image:1"}
CLUSTER = {"clusters list": ["us-east5"]}
WHERE = ["--workload", "vdm", "--cluster", "c", "--project", "p", "--zone", "us-east5-b"]


@pytest.fixture
def fakes(tmp_path):
    fakes = Fakes(tmp_path, "xpk", "kubectl", "gcloud")
    fakes.answers(CLUSTER)
    return fakes


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
    fakes.answers(CLUSTER | {"get jobset": ["vdm "]})
    ended = fakes.run("gke_xpk.sh", "up", *TRAINING, **SETTINGS)
    assert ended.returncode == 0 and ended.stdout == "vdm runs already\n"
    assert not fakes.called("xpk")


@pytest.mark.parametrize("state", ["Failed", "Completed"])
def test_a_workload_that_ended_is_made_anew(fakes, state):
    fakes.answers(CLUSTER | {"get jobset": [f"vdm {state}"]})
    assert fakes.run("gke_xpk.sh", "up", *TRAINING, **SETTINGS).returncode == 0
    assert [call[2] for call in fakes.called("xpk")] == ["delete", "create"]
    assert fakes.called("xpk workload delete") == [["xpk", "workload", "delete", *WHERE, "--quiet"]]


def test_a_cluster_out_of_reach_makes_nothing(fakes):
    fakes.answers(CLUSTER | {"kubectl": [1]})
    ended = fakes.run("gke_xpk.sh", "up", *TRAINING, **SETTINGS)
    assert ended.returncode == 75 and "does not reach c" in ended.stderr
    assert not fakes.called("xpk")


@pytest.mark.parametrize("verb", ["stop", "delete"])
def test_of_nothing_there_is_nothing_to_stop_and_it_says_so(fakes, verb):
    fakes.answers(CLUSTER | {"get jobset": [""]})
    ended = fakes.run("gke_xpk.sh", verb, **SETTINGS)
    assert refused(ended) and "no vdm in c" in ended.stderr and not fakes.called("xpk")
    fakes.answers(CLUSTER | {"get jobset": ["vdm "]})
    assert fakes.run("gke_xpk.sh", verb, **SETTINGS).returncode == 0
    assert fakes.called("xpk workload delete")


@pytest.mark.parametrize(
    ("found", "place"), [("us-east5", "us-east5"), ("us-west1\nus-east5-b", "us-east5-b")]
)
@pytest.mark.parametrize("verb", ["up", "state", "logs", "stop"])
def test_kubectl_asks_the_cluster_that_is_named_and_no_other(fakes, verb, found, place):
    fakes.answers({"clusters list": [found], "get jobset": ["vdm "]})
    training = TRAINING if verb == "up" else []
    assert fakes.run("gke_xpk.sh", verb, *training, **SETTINGS).returncode == 0
    assert [call[2:5] for call in fakes.called("get-credentials")] == [
        ["clusters", "get-credentials", "c"]
    ]
    assert fakes.called("get-credentials", "--project=p", f"--location={place}")
    asked = fakes.called("kubectl ")
    assert asked and all(call[1:3] == ["--context", f"gke_p_{place}_c"] for call in asked)


@pytest.mark.parametrize("verb", ["up", "stop"])
def test_a_cluster_that_is_not_there_is_refused(fakes, verb):
    fakes.answers({"clusters list": ["us-west1"]})
    ended = fakes.run("gke_xpk.sh", verb, *(TRAINING if verb == "up" else []), **SETTINGS)
    assert refused(ended) and "no cluster c in us-east5" in ended.stderr
    assert not fakes.called("kubectl ") and not fakes.called("xpk")
