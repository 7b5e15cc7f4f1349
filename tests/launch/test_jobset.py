"""The JobSet, held to the definition of the API, in which a field that is not known is an error."""

import copy
import json
import re
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


def action(jobset, code, taken):
    """What follows when a pod ends with this code, or as its machine was taken: the first rule of
    its job that fits names the failure, by its place; then the first of the set."""
    (job,) = jobset["spec"]["replicatedJobs"]
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    for place, rule in enumerate(job["template"]["spec"]["podFailurePolicy"]["rules"]):
        codes = rule.get("onExitCodes", {"values": []})["values"]
        if (taken and "onPodConditions" in rule) or code in codes:
            reason, message = "PodFailurePolicy", f"x matching FailJob rule at index {place}"
            break
    for rule in jobset["spec"]["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reason in rule["onJobFailureReasons"] and any(re.search(p, message) for p in patterns):
            return rule["action"]
    return "RestartJobSet"


@pytest.mark.parametrize(
    ("code", "taken", "expected"),
    [
        (75, False, "RestartJobSetAndIgnoreMaxRestarts"),
        (137, True, "RestartJobSetAndIgnoreMaxRestarts"),
        (1, False, "FailJobSet"),
        (2, False, "FailJobSet"),
        (137, False, "RestartJobSet"),
        (139, False, "RestartJobSet"),
    ],
)
def test_only_what_is_saved_or_was_taken_goes_on_without_count(jobset, code, taken, expected):
    assert action(jobset, code, taken) == expected
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 100


def test_the_parts_of_the_pod_fit(jobset):
    (job,) = jobset["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    for rule in job["template"]["spec"]["podFailurePolicy"]["rules"]:
        named = rule.get("onExitCodes", {"containerName": "train"})["containerName"]
        assert rule["action"] == "FailJob" and named == pod["containers"][0]["name"]
    assert pod["restartPolicy"] == "Never"  # or a podFailurePolicy is refused
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
