"""Every command of launch/README.md, given as it stands, to recorders in place of the clouds."""

import re
import subprocess

import pytest
from launch.fakes import LAUNCH, ROOT, Fakes

TEXT = (LAUNCH / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
PROGRAMS = ("gcloud", "kubectl", "xpk", "sky", "sbatch", "docker", "pip", "sudo", "mountpoint")


def given(fakes):
    """All blocks, one after the other, as who reads from the top gives them."""
    fakes.answers(
        {
            "queued-resources list": ["", "ACTIVE"],
            "_host.sh state": ["ended 0"],
            "list-instances": ["tune-a\ntune-b"],
        }
    )
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(BLOCKS)],
        env=fakes.environment(PAUSE="0"),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def fakes(tmp_path_factory):
    fakes = Fakes(tmp_path_factory.mktemp("readme"), *PROGRAMS)
    done = given(fakes)
    assert done.returncode == 0, done.stderr
    return fakes


def test_every_launcher_is_shown_and_its_commands_do_what_they_say(fakes):
    for name in LAUNCH.iterdir():
        if not name.name.startswith("_") and name.name != "README.md":
            assert name.name in TEXT or name.suffix in TEXT, name
    assert fakes.called("xpk workload create", "--storage runs", "--workdir /bucket/runs/tune")
    assert fakes.called("tpu-vm ssh", "mount -t nfs", "_host.sh start", "/mnt/runs/tune")
    assert fakes.called("tpus queued-resources create", "v6e-8")
    assert fakes.called("workload-policy", "2x2x2")
    assert len(fakes.called("compute ssh", "_host.sh start", "--processes auto")) == 2


def test_files_that_are_named_are_there(fakes):
    named = re.findall(r"(?:launch|configs)/[\w.]+\w", TEXT)
    assert len(named) > 20 and all((ROOT / name).is_file() for name in named)
