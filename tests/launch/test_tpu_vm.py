"""tpu_vm.sh with a recorder in place of gcloud: what it asks for, and when it asks again."""

import pytest
from launch.fakes import TRAINING, Fakes, refused

SETTINGS = {"PROJECT": "p", "ZONE": "us-east5-b", "PAUSE": "0"}
WHERE = ["--project=p", "--zone=us-east5-b", "--quiet"]
LIST = "queued-resources list"
STATE = "_host.sh state"
LOOK = "queued-resources describe"
SLICE = '{"spot": {}, "tpu": {"nodeSpec": [{"node": {"acceleratorType": "v6e-8"}}]}}'
COSTS = "vdm stays and costs; this ends it: launch/tpu_vm.sh delete"


@pytest.fixture
def fakes(tmp_path):
    return Fakes(tmp_path, "gcloud")


def kinds(fakes):
    """What was done, without looks at the state of the slice."""
    verbs = ("create", "delete", "scp", "_host.sh start", "_host.sh resume")
    names = {verb: verb.split()[-1] for verb in verbs}
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
    fakes.answers({LIST: ["ACTIVE"], LOOK: [SLICE]})
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
    assert COSTS in done.stderr
    assert kinds(fakes) == ["create"]


def test_what_fails_again_and_again_is_not_asked_for_for_ever(fakes):
    fakes.answers({LIST: ["", "FAILED"] * 1000})
    done = fakes.run("tpu_vm.sh", "up", *TRAINING, PATIENCE="2", **SETTINGS)
    assert done.returncode == 75 and done.stderr.endswith("error: vdm is FAILED after 2 s\n")
    assert kinds(fakes).count("create") == kinds(fakes).count("delete") + 1 > 2


def test_where_gcloud_fails_nothing_is_made(fakes):
    fakes.answers({LIST: [1]})
    assert fakes.run("tpu_vm.sh", "up", *TRAINING, **SETTINGS).returncode == 75
    assert kinds(fakes) == []


def test_keep_starts_anew_after_a_preemption_until_the_training_ended(fakes):
    fakes.answers(
        {
            LIST: ["", "ACTIVE", "ACTIVE", "SUSPENDED", "SUSPENDED", "", "ACTIVE"],
            STATE: ["running", "ended 75", "", "ended 0"],
            LOOK: [SLICE],
        }
    )
    done = fakes.run("tpu_vm.sh", "keep", *TRAINING, **SETTINGS)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "ended 0"
    again = ["scp", "resume"]
    assert kinds(fakes) == ["create", "scp", "start", "delete", "create", *again, *again]


@pytest.mark.parametrize("code", [0, 1, 2, 78])
def test_keep_ends_with_the_code_of_a_training_that_ended_and_says_what_costs(fakes, code):
    fakes.answers({LIST: ["ACTIVE"], LOOK: [SLICE], STATE: [f"ended {code}"]})
    done = fakes.run("tpu_vm.sh", "keep", *TRAINING, **SETTINGS)
    assert done.returncode == code and COSTS in done.stderr


@pytest.mark.parametrize("failing", ["tpu-vm scp", "_host.sh start"])
def test_keep_tries_again_where_ssh_is_not_ready_yet(fakes, failing):
    """Then nothing is unpacked, and a look at the training would fail for ever."""
    fakes.answers(
        {LIST: ["", "ACTIVE"], LOOK: [SLICE], failing: [255, 1, "ok"], STATE: ["ended 0"]}
    )
    done = fakes.run("tpu_vm.sh", "keep", *TRAINING, **SETTINGS)
    assert done.returncode == 0, done.stderr
    assert kinds(fakes)[-2:] == ["scp", "start"] and len(fakes.called(failing)) == 3
    assert len(fakes.called(STATE)) == 1 and kinds(fakes).count("create") == 1


@pytest.mark.parametrize(
    "answers",
    [{"tpu-vm scp": [255]}, {STATE: ["ended 75"]}, {LIST: [1]}],
    ids=["no ssh", "no progress", "no gcloud"],
)
def test_keep_gives_up_after_starts_in_which_nothing_ran(fakes, answers):
    fakes.answers({LIST: ["ACTIVE"], LOOK: [SLICE]} | answers)
    done = fakes.run("tpu_vm.sh", "keep", *TRAINING, TRIES="3", **SETTINGS)
    assert done.returncode == 75 and "3 starts" in done.stderr and COSTS in done.stderr
    assert len(fakes.called("scp")) == (0 if LIST in answers else 3)


def test_what_ran_between_is_no_failure(fakes):
    fakes.answers(
        {LIST: ["ACTIVE"], LOOK: [SLICE], STATE: ["running", "ended 75"] * 2 + ["ended 0"]}
    )
    assert fakes.run("tpu_vm.sh", "keep", *TRAINING, TRIES="2", **SETTINGS).returncode == 0


def test_keep_ends_where_the_training_was_stopped_by_another_command(fakes):
    fakes.answers({LIST: ["ACTIVE"], LOOK: [SLICE], STATE: ["running", "stopped"]})
    done = fakes.run("tpu_vm.sh", "keep", *TRAINING, **SETTINGS)
    assert done.returncode == 75 and "was stopped" in done.stderr and COSTS in done.stderr
    assert kinds(fakes) == ["scp", "start"]


@pytest.mark.parametrize(
    "looks",
    [
        ["ACTIVE", "ACTIVE", "DELETING", ""],
        ["", "ACTIVE", ""],
        ["", "WAITING_FOR_RESOURCES", ""],
        ["ACTIVE", "SUSPENDED", ""],
    ],
)
def test_keep_does_not_ask_anew_for_a_slice_that_another_command_deleted(fakes, looks):
    fakes.answers({LIST: looks, LOOK: [SLICE], STATE: ["running"]})
    done = fakes.run("tpu_vm.sh", "keep", *TRAINING, **SETTINGS)
    assert done.returncode == 2 and "was deleted meanwhile" in done.stderr
    assert kinds(fakes).count("create") == looks.count("") - 1


def test_keep_asks_again_where_its_own_request_failed(fakes):
    fakes.answers(
        {LIST: ["SUSPENDED", "", "", "", "ACTIVE"], LOOK: [SLICE], "create": [1, ""],
         STATE: ["ended 0"]}
    )  # fmt: skip
    assert fakes.run("tpu_vm.sh", "keep", *TRAINING, **SETTINGS).returncode == 0
    assert kinds(fakes) == ["delete", "create", "create", "scp", "start"]


@pytest.mark.parametrize("verb", ["up", "keep"])
@pytest.mark.parametrize(
    "other",
    [{"ACCELERATOR": "v6e-16"}, {"ACCELERATOR": "v6e-4"}, {"SPOT": "no"}],
)
def test_a_slice_of_other_settings_is_refused(fakes, verb, other):
    fakes.answers({LIST: ["ACTIVE"], LOOK: [SLICE]})
    done = fakes.run("tpu_vm.sh", verb, *TRAINING, **SETTINGS | other)
    assert refused(done) and "delete it" in done.stderr and kinds(fakes) == []
    on_demand = SLICE.replace('"spot"', '"guaranteed"')
    fakes.answers({LIST: ["ACTIVE"], LOOK: [on_demand]})
    assert refused(fakes.run("tpu_vm.sh", verb, *TRAINING, **SETTINGS))


def test_delete_and_stop(fakes):
    fakes.answers({LIST: [""]})
    absent = fakes.run("tpu_vm.sh", "delete", **SETTINGS)
    assert absent.returncode == 0 and "no vdm in us-east5-b" in absent.stderr
    assert kinds(fakes) == []
    fakes.answers({LIST: ["ACTIVE"]})
    assert fakes.run("tpu_vm.sh", "delete", **SETTINGS).returncode == 0
    assert kinds(fakes) == ["delete"]
    stopped = fakes.run("tpu_vm.sh", "stop", **SETTINGS)
    assert stopped.returncode == 0 and COSTS in stopped.stderr
    assert "--command=bash vdm/launch/_host.sh stop" in fakes.calls[-1]
    assert "--worker=all" in fakes.calls[-1]
