"""tpu_vm.sh with a recorder in place of gcloud: what it asks for, and when it asks again."""

import pytest
from launch.fakes import TRAINING, Fakes

SETTINGS = {"PROJECT": "p", "ZONE": "us-east5-b", "PAUSE": "0"}
WHERE = ["--project=p", "--zone=us-east5-b", "--quiet"]
LIST = "queued-resources list"
STATE = "_host.sh state"


@pytest.fixture
def fakes(tmp_path):
    return Fakes(tmp_path, "gcloud")


def kinds(fakes):
    """What was done, without looks at the state of the slice."""
    names = {"create": "create", "delete": "delete", "scp": "scp", "_host.sh start": "start"}
    found = (
        next((kind for words, kind in names.items() if f"{words} " in " ".join(call)), None)
        for call in fakes.calls
    )
    return [kind for kind in found if kind]


def test_up_asks_waits_copies_and_starts_on_all_hosts(fakes):
    fakes.answers({LIST: ["", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]})
    done = fakes.run("tpu_vm.sh", "up", *TRAINING, "--note", "two words", **SETTINGS)
    assert done.returncode == 0, done.stderr
    looks = fakes.called(LIST)
    assert len(looks) == 4 and all(r"--filter=name~/vdm$" in look for look in looks)
    create, copy, start = (call for call in fakes.calls if call not in looks)
    assert create == [
        "gcloud", "compute", "tpus", "queued-resources", "create", "vdm", "--node-id=vdm",
        "--accelerator-type=v6e-8", "--runtime-version=v2-alpha-tpuv6e", "--spot", *WHERE,
    ]  # fmt: skip
    assert copy[:5] == ["gcloud", "compute", "tpus", "tpu-vm", "scp"]
    assert copy[6:] == ["vdm:", "--worker=all", *WHERE]
    assert start == [
        "gcloud", "compute", "tpus", "tpu-vm", "ssh", "vdm", "--worker=all",
        "--command=mkdir -p vdm && tar -xzf vdm.tgz -C vdm && bash vdm/launch/_host.sh start "
        r"--config configs/quickstart.py --workdir /runs/x --note two\ words --processes auto",
        *WHERE,
    ]  # fmt: skip


def test_settings_reach_the_request(fakes):
    fakes.answers({LIST: ["", "ACTIVE"]})
    settings = SETTINGS | {"SPOT": "no", "ACCELERATOR": "v5litepod-16", "PREPARE": "mount /runs"}
    assert fakes.run("tpu_vm.sh", "up", *TRAINING, **settings).returncode == 0
    (create,) = fakes.called("queued-resources create")
    assert "--spot" not in create and "--runtime-version=v2-alpha-tpuv5-lite" in create
    (start,) = fakes.called("tpu-vm ssh")
    assert "-C vdm && { mount /runs; } && bash vdm/launch/_host.sh start" in start[7]


def test_a_slice_that_is_there_is_not_asked_for_again(fakes):
    fakes.answers({LIST: ["ACTIVE"]})
    for _ in range(2):
        assert fakes.run("tpu_vm.sh", "up", *TRAINING, **SETTINGS).returncode == 0
    assert kinds(fakes) == ["scp", "start"] * 2


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_a_slice_that_was_preempted_or_failed_is_asked_for_anew(fakes, state):
    fakes.answers({LIST: [state, "", "ACTIVE"]})
    done = fakes.run("tpu_vm.sh", "up", *TRAINING, **SETTINGS)
    assert done.returncode == 0 and f"vdm is {state}" in done.stderr
    assert kinds(fakes) == ["delete", "create", "scp", "start"]
    assert fakes.called("delete") == [
        ["gcloud", "compute", "tpus", "queued-resources", "delete", "vdm", "--force", *WHERE]
    ]


def test_up_does_not_wait_for_ever(fakes):
    fakes.answers({LIST: ["", "WAITING_FOR_RESOURCES"]})
    done = fakes.run("tpu_vm.sh", "up", *TRAINING, PATIENCE="0", **SETTINGS)
    assert done.returncode == 75 and "WAITING_FOR_RESOURCES after 0 s" in done.stderr
    assert kinds(fakes) == ["create"]


def test_where_gcloud_fails_nothing_is_made(fakes):
    fakes.answers({LIST: [1]})
    assert fakes.run("tpu_vm.sh", "up", *TRAINING, **SETTINGS).returncode == 75
    assert kinds(fakes) == []


def test_keep_starts_anew_after_a_preemption_until_the_training_ended(fakes):
    fakes.answers(
        {
            LIST: ["", "ACTIVE", "ACTIVE", "SUSPENDED", "SUSPENDED", "", "ACTIVE"],
            STATE: ["running", "ended 75", "", "ended 0"],
        }
    )
    done = fakes.run("tpu_vm.sh", "keep", *TRAINING, **SETTINGS)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "ended 0"
    first, copied = ["create", "scp", "start"], ["scp", "start"]
    assert kinds(fakes) == [*first, "delete", *first, *copied]


def test_keep_ends_with_the_code_of_a_training_that_failed(fakes):
    fakes.answers({LIST: ["ACTIVE"], STATE: ["ended 2"]})
    assert fakes.run("tpu_vm.sh", "keep", *TRAINING, **SETTINGS).returncode == 2


def test_delete_and_stop(fakes):
    fakes.answers({LIST: [""]})
    assert fakes.run("tpu_vm.sh", "delete", **SETTINGS).returncode == 0 and kinds(fakes) == []
    fakes.answers({LIST: ["ACTIVE"]})
    assert fakes.run("tpu_vm.sh", "delete", **SETTINGS).returncode == 0
    assert kinds(fakes) == ["delete"]
    assert fakes.run("tpu_vm.sh", "stop", **SETTINGS).returncode == 0
    assert "--command=bash vdm/launch/_host.sh stop" in fakes.calls[-1]
    assert "--worker=all" in fakes.calls[-1]
