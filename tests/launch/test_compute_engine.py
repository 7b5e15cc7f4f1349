"""compute_engine_mig.sh with a recorder in place of gcloud."""

import pytest
from launch.fakes import TRAINING, Fakes, refused

SETTINGS = {
    "PROJECT": "p",
    "ZONE": "us-central1-c",
    "MACHINE": "tpu7x-standard-4t",
    "IMAGE_FAMILY": "family",
    "IMAGE_PROJECT": "images",
    "SIZE": "2",
}
SLICE = SETTINGS | {"TOPOLOGY": "2x2x2"}
ALL = ["--project=p", "--quiet"]
MACHINES = {"list-instances": ["vdm-b\nvdm-a"]}
THERE = {
    "resource-policies list": ["vdm"],
    "instance-templates list": ["vdm"],
    "instance-groups list": ["vdm"],
}
SAME = {
    "acceleratorTopology": ["2x2x2"],
    "machineType": ["tpu7x-standard-4t"],
    "provisioningModel": ["SPOT"],
    "targetSize": ["2"],
}
LOOKS = (" list ", " describe ", "list-instances")


@pytest.fixture
def fakes(tmp_path):
    return Fakes(tmp_path, "gcloud")


def done(fakes):
    """All calls that are more than looks."""
    return [call[2:] for call in fakes.calls if not any(word in " ".join(call) for word in LOOKS)]


def test_a_slice_is_made_of_a_policy_a_template_and_a_group(fakes):
    fakes.answers(MACHINES)
    assert fakes.run("compute_engine_mig.sh", "up", *TRAINING, **SLICE).returncode == 0
    policy, template, group, wait, *starts = done(fakes)
    assert policy == [
        "resource-policies", "create", "workload-policy", "vdm", "--region=us-central1",
        "--type=HIGH_THROUGHPUT", "--accelerator-topology=2x2x2",
        "--accelerator-topology-mode=AUTO_CONNECT", *ALL,
    ]  # fmt: skip
    assert template == [
        "instance-templates", "create", "vdm", "--machine-type=tpu7x-standard-4t",
        "--image-family=family", "--image-project=images", "--boot-disk-size=200GB",
        "--maintenance-policy=TERMINATE", "--provisioning-model=SPOT",
        "--instance-termination-action=STOP",
        "--scopes=https://www.googleapis.com/auth/cloud-platform", *ALL,
    ]  # fmt: skip
    assert group == [
        "instance-groups", "managed", "create", "vdm", "--zone=us-central1-c", "--size=2",
        "--template=vdm", "--workload-policy=projects/p/regions/us-central1/resourcePolicies/vdm",
        "--target-size-policy-mode=bulk", "--default-action-on-vm-failure=do-nothing", *ALL,
    ]  # fmt: skip
    assert wait[:5] == ["instance-groups", "managed", "wait-until", "vdm", "--stable"]
    assert [(call[0], call[2 if call[0] == "scp" else 1]) for call in starts] == [
        ("scp", "vdm-a:"), ("ssh", "vdm-a"), ("scp", "vdm-b:"), ("ssh", "vdm-b"),
    ]  # fmt: skip
    assert all(call[3].endswith(" --processes auto") for call in starts[1::2])


def test_machines_with_gpus_are_numbered_in_an_order_that_stays(fakes):
    fakes.answers(MACHINES)
    assert fakes.run("compute_engine_mig.sh", "up", *TRAINING, **SETTINGS).returncode == 0
    assert not fakes.called("create", "workload-policy")
    assert "--workload-policy" not in str(fakes.called("managed create"))
    for index, call in enumerate(fakes.called("_host.sh start")):
        assert call[5].endswith(f" --processes 2 --process {index} --coordinator vdm-a:8476")


def test_one_machine_is_not_numbered(fakes):
    fakes.answers({"list-instances": ["vdm-a"]})
    settings = SETTINGS | {"SIZE": "1"}
    assert fakes.run("compute_engine_mig.sh", "up", *TRAINING, **settings).returncode == 0
    (start,) = fakes.called("_host.sh start")
    assert start[5].endswith("--workdir /runs/x")


def test_what_is_there_is_not_made_again(fakes):
    fakes.answers(MACHINES | THERE | SAME)
    ended = fakes.run("compute_engine_mig.sh", "up", *TRAINING, **SLICE)
    assert ended.returncode == 0 and "vdm stays and costs" in ended.stderr
    assert not fakes.called(" create ") and len(fakes.called("_host.sh start")) == 2


@pytest.mark.parametrize(
    ("setting", "other", "field"),
    [
        ("TOPOLOGY", "2x2x4", "acceleratorTopology"),
        ("MACHINE", "ct6e-standard-4t", "machineType"),
        ("SPOT", "no", "provisioningModel is SPOT and not STANDARD"),
        ("SIZE", "3", "targetSize is 2 and not 3"),
    ],
)
def test_what_is_there_of_another_setting_is_refused(fakes, setting, other, field):
    fakes.answers(MACHINES | THERE | SAME)
    ended = fakes.run("compute_engine_mig.sh", "up", *TRAINING, **SLICE | {setting: other})
    assert refused(ended) and field in ended.stderr and "delete it" in ended.stderr
    assert done(fakes) == []


def test_what_is_in_another_place_is_not_taken_for_this(fakes):
    assert fakes.run("compute_engine_mig.sh", "delete", **SETTINGS).returncode == 0
    group, template, policy = (call[5] for call in fakes.calls)
    assert group == r"--filter=name=vdm AND zone~/us-central1-c$"
    assert template == "--filter=name=vdm"
    assert policy == r"--filter=name=vdm AND region~/us-central1$"


@pytest.mark.parametrize(
    ("answers", "said"),
    [({"list-instances": ["vdm-a"]}, "1 of 2 machines"), ({"wait-until": [1]}, "not all")],
)
def test_too_few_machines_are_not_started_and_it_says_that_they_cost(fakes, answers, said):
    fakes.answers(THERE | SAME | answers)
    ended = fakes.run("compute_engine_mig.sh", "up", *TRAINING, **SLICE)
    assert ended.returncode == 75 and said in ended.stderr
    assert "vdm stays and costs; this ends it: launch/compute_engine_mig.sh delete" in ended.stderr
    assert not fakes.called("_host.sh start")


def test_delete_takes_what_is_there(fakes):
    fakes.answers(THERE | {"resource-policies list": [""]})
    assert fakes.run("compute_engine_mig.sh", "delete", **SETTINGS).returncode == 0
    assert [call[:4] for call in done(fakes)] == [
        ["instance-groups", "managed", "delete", "vdm"],
        ["instance-templates", "delete", "vdm", "--project=p"],
    ]


def test_a_machine_out_of_reach_does_not_keep_the_others_from_stopping(fakes):
    fakes.answers(MACHINES | {"ssh vdm-a": [255]})
    ended = fakes.run("compute_engine_mig.sh", "stop", **SETTINGS)
    assert ended.returncode == 0 and "vdm-a\nout of reach\nvdm-b" in ended.stdout
    assert len(fakes.called("_host.sh stop")) == 2
