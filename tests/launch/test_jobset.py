"""The JobSet, held to the definition of the API, in which a field that is not known is an error."""

import copy
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from launch.fakes import LAUNCH

SCHEMA = json.loads(Path(__file__).with_name("jobset_v1alpha2.json").read_text())


def told(value):
    """As the server reads it: null is as good as nothing said."""
    if isinstance(value, dict):
        return {k: told(v) for k, v in value.items() if v is not None}
    return [told(v) for v in value] if isinstance(value, list) else value


def faults(jobset):
    validator = jsonschema.Draft202012Validator(SCHEMA)
    return [error.message for error in validator.iter_errors(told(jobset))]


@pytest.fixture
def jobset():
    return yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())


def test_the_jobset_is_what_the_api_takes(jobset):
    assert faults(jobset) == []


POD = ("spec", "replicatedJobs", 0, "template", "spec", "template", "spec")


@pytest.mark.parametrize(
    "path",
    [
        ("spec", "failurePolicy", "maxRestarts"),
        ("spec", "failurePolicy", "rules", 0, "onJobFailureReasons"),
        ("spec", "replicatedJobs", 0, "replicas"),
        ("spec", "replicatedJobs", 0, "template", "spec", "backoffLimit"),
        (*POD, "terminationGracePeriodSeconds"),
        (*POD, "containers", 0, "resources"),
        (*POD, "containers", 0, "volumeMounts", 0, "mountPath"),
        (*POD, "volumes", 0, "csi", "volumeAttributes"),
    ],
)
def test_a_typo_anywhere_is_found(jobset, path):
    spoilt = copy.deepcopy(jobset)
    *parents, name = path
    place = spoilt
    for key in parents:
        place = place[key]
    place[name + "s"] = place.pop(name)
    assert any(f"'{name}s' was unexpected" in fault for fault in faults(spoilt))


@pytest.mark.parametrize(
    ("name", "value"),
    [("maxRestarts", "ten"), ("rules", [{"name": "x", "action": "Restart"}]), ("rules", [{}])],
)
def test_a_wrong_value_is_found(jobset, name, value):
    jobset["spec"]["failurePolicy"][name] = value
    assert faults(jobset)


def test_what_is_saved_goes_on_and_what_is_hopeless_ends(jobset):
    """75 fails a job without being named; 1 and 2 end the set. Each rule has its own reason."""
    (job,) = jobset["spec"]["replicatedJobs"]
    (rule,) = job["template"]["spec"]["podFailurePolicy"]["rules"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert rule["onExitCodes"]["values"] == [1, 2]
    assert rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert pod["restartPolicy"] == "Never"  # or a podFailurePolicy is refused
    rules = jobset["spec"]["failurePolicy"]["rules"]
    actions = {tuple(rule["onJobFailureReasons"]): rule["action"] for rule in rules}
    assert actions == {
        ("PodFailurePolicy",): "FailJobSet",
        ("BackoffLimitExceeded",): "RestartJobSetAndIgnoreMaxRestarts",
    }
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
