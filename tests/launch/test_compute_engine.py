"""compute_engine_mig.sh with a recorder in place of gcloud."""

import pytest
from launch.fakes import TRAINING, Fakes

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
LOOKS = (" list ", "list-instances")


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
    fakes.answers(MACHINES | THERE)
    assert fakes.run("compute_engine_mig.sh", "up", *TRAINING, **SLICE).returncode == 0
    assert not fakes.called(" create ") and len(fakes.called("_host.sh start")) == 2


def test_too_few_machines_are_not_started(fakes):
    fakes.answers(THERE | {"list-instances": ["vdm-a"]})
    ended = fakes.run("compute_engine_mig.sh", "up", *TRAINING, **SLICE)
    assert ended.returncode == 75 and "1 of 2 machines" in ended.stderr
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
