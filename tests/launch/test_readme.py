"""Every command of launch/README.md, given as it stands, to recorders in place of the clouds."""

import math
import re
import subprocess

import pytest
import yaml
from docs import pages
from launch.fakes import LAUNCH, ROOT, Fakes

from vdm_jax.core import config as configs
from vdm_jax.core.mesh import MeshConfig

TEXT = (LAUNCH / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
SHOWN = set(re.findall(r"(?:--config |CONFIG=)(configs/\S+)", "\n".join(BLOCKS)))
OWN = re.search(r"`(--config configs/finetune_svd.py [^`]+)`", TEXT).group(1).split()
PROGRAMS = ("gcloud", "kubectl", "xpk", "sky", "sbatch", "docker", "pip", "sudo", "mountpoint")


def given(fakes):
    """All blocks, one after the other, as who reads from the top gives them."""
    fakes.answers(
        {
            "queued-resources list": ["", "ACTIVE"],
            "clusters list": ["us-east5"],
            "get jobset --ignore-not-found tune": ["", "tune "],
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


def devices():
    """How many each cloud's first try has, as its commands say."""
    numbers = [int(chips) for chips in re.findall(r"\bv6e-(\d+)", "\n".join(BLOCKS))]
    numbers += [math.prod(map(int, re.findall(r"--nodes (\d+) --gpus-per-node (\d+)", TEXT)[0]))]
    (topology,) = re.findall(r"MACHINE=tpu7x\S+ TOPOLOGY=(\S+)", TEXT)
    return [*numbers, 2 * math.prod(map(int, topology.split("x")))]  # two to a chip of TPU7x


def test_what_is_tried_first_needs_no_files_and_fits_any_number_of_devices_that_is_named():
    jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    sky = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    shown = SHOWN | {pod["containers"][0]["args"][1], sky["envs"]["CONFIG"]}
    assert len(devices()) == 4
    for path in shown:
        config = configs.load(f"{ROOT / path}:config")
        assert config.mesh == MeshConfig() and config.init_from is None, path
        assert not hasattr(config.data, "directory"), path
        assert {number for number in devices() if config.batch_size % number} == set(), path


def test_your_own_model_is_shown_with_options_that_are_there_and_cover_the_devices():
    assert pages.wrong(pages.Command("vdm_jax.train", tuple(OWN))) == ""
    said = dict(zip(OWN[::2], OWN[1::2], strict=True))
    mesh = configs.load(f"{ROOT / said['--config']}:config").mesh
    assert (mesh.data, mesh.context, mesh.tensor) == (1, 1, 1)  # so fsdp is the number of devices
    assert said["--mesh.fsdp"] == said["--batch-size"] == "N"
    config = configs.load(f"{ROOT / said['--config']}:config")
    places = {said["--init-from"], said["--data.directory"], said["--held-out.directory"]}
    assert all(place.startswith("/bucket/") for place in places)
    assert config.accumulate == 1


def test_the_same_command_of_docker_goes_on():
    (run,) = re.findall(r"docker run .*", TEXT)
    assert "--rm" in run.split()


def test_the_usage_of_the_skypilot_task_names_what_must_be_changed():
    text = (LAUNCH / "sky.yaml").read_text()
    usage, _ = text.split("name: vdm")
    assert all(f"--env {name}=" in usage for name in ("BUCKET", "CONFIG", "RUN"))
