"""What holds for every launcher: shellcheck, --help, --dry-run, early refusals."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from launch.fakes import LAUNCH, TRAINING, Fakes, refused

SCRIPTS = ["_entry.sh", "_host.sh", "tpu_vm.sh", "compute_engine_mig.sh", "gke_xpk.sh",
           "slurm.sbatch"]  # fmt: skip
CLOUD = {"PROJECT": "p", "ZONE": "us-east5-b"}
READY = {
    "_entry.sh": ([], {}),
    "tpu_vm.sh": (["up"], CLOUD),
    "compute_engine_mig.sh": (
        ["up"],
        CLOUD | {"MACHINE": "ct6e-standard-4t", "IMAGE_FAMILY": "f", "IMAGE_PROJECT": "i"},
    ),
    "gke_xpk.sh": (["up"], CLOUD | {"CLUSTER": "c", "IMAGE": "i"}),
    "slurm.sbatch": ([], {}),
}
PROGRAMS = ("gcloud", "kubectl", "xpk", "srun", "scontrol", "uv", "ssh")


@pytest.fixture
def fakes(tmp_path):
    return Fakes(tmp_path, *PROGRAMS)


def test_shellcheck_finds_nothing():
    scripts = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch"]
    assert len(scripts) == 8
    done = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), "-x", *scripts],
        cwd=LAUNCH.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_setting(fakes, script):
    done = fakes.run(script, "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage: ") and not done.stderr
    assert "SBATCH" not in done.stdout
    settings = re.findall(r"^([A-Z]+)=\$\{\1:-", (LAUNCH / script).read_text(), re.MULTILINE)
    missing = [name for name in settings if not re.search(rf"\b{name}\b", done.stdout)]
    assert not missing and not fakes.calls


@pytest.mark.parametrize("script", READY)
def test_dry_run_shows_the_training_and_calls_nothing(fakes, script):
    verbs, settings = READY[script]
    done = fakes.run(script, *verbs, "--dry-run", *TRAINING, **settings)
    assert done.returncode == 0, done.stderr
    assert "--workdir" in done.stdout and "/runs/x" in done.stdout
    assert not fakes.calls


@pytest.mark.parametrize(
    ("script", "missing"),
    [(script, name) for script, (_, settings) in READY.items() for name in settings],
)
def test_a_missing_setting_is_refused_before_anything_is_made(fakes, script, missing):
    verbs, settings = READY[script]
    left = {name: value for name, value in settings.items() if name != missing}
    done = fakes.run(script, *verbs, *TRAINING, **left)
    assert refused(done) and missing in done.stderr and not fakes.calls


@pytest.mark.parametrize("script", READY)
@pytest.mark.parametrize(
    ("training", "word"),
    [
        (["--workdir", "/runs/x"], "--config"),
        (["--config", "configs/quickstart.py"], "--workdir"),
        (["--config", "configs/quickstart.py", "--workdir=gs://b/x"], "mount the bucket"),
    ],
)
def test_a_training_that_cannot_run_is_refused_before_anything_is_made(
    fakes, script, training, word
):
    verbs, settings = READY[script]
    done = fakes.run(script, *verbs, *training, **settings)
    assert refused(done) and word in done.stderr and not fakes.calls


@pytest.mark.parametrize(
    ("script", "settings"),
    [
        ("tpu_vm.sh", {"ACCELERATOR": "v7x-8"}),
        ("tpu_vm.sh", {"SPOT": "true"}),
        ("tpu_vm.sh", {"NAME": "My_Run"}),
        ("tpu_vm.sh", {"TRIES": "0"}),
        ("compute_engine_mig.sh", {"SIZE": "0"}),
        ("compute_engine_mig.sh", {"TOPOLOGY": "2by4"}),
        ("gke_xpk.sh", {"SLICES": "many"}),
        ("_entry.sh", {"VDM_JAX_EXTRA": "gpu"}),
        ("_entry.sh", {"VDM_JAX_PYTHON": "/no/python"}),
    ],
)
def test_a_setting_of_a_wrong_form_is_refused(fakes, script, settings):
    verbs, ready = READY[script]
    done = fakes.run(script, *verbs, *TRAINING, **ready | settings)
    assert refused(done) and all(f"{k}={v}" in done.stderr for k, v in settings.items())
    assert not fakes.calls


@pytest.mark.parametrize("script", ["tpu_vm.sh", "compute_engine_mig.sh", "gke_xpk.sh"])
def test_an_unknown_verb_is_refused(fakes, script):
    done = fakes.run(script, "start", **READY[script][1])
    assert refused(done) and "start is none of" in done.stderr and not fakes.calls


def test_a_program_that_is_not_installed_is_named(tmp_path):
    done = Fakes(tmp_path).run("gke_xpk.sh", "up", *TRAINING, **READY["gke_xpk.sh"][1])
    assert refused(done) and "xpk is not installed" in done.stderr
