"""_entry.sh and _host.sh: installed once, started once, and SIGTERM reaches the training."""

import os
import signal
import subprocess
import time

import pytest
from launch.fakes import LAUNCH, ROOT, TRAINING, Fakes

UV = """\
#!/usr/bin/env bash
# Makes what uv makes, of a Python that is here.
echo "$*" >> "$FAKES/calls"
[ ! -e "$FAKES/slow" ] || { echo > "$FAKES/slow"; sleep 100; }
[ ! -s "$FAKES/broken" ] || { rm "$FAKES/broken"; exit 1; }
[ ! -e "$FAKES/broken" ] || exit 1
if [ "$1" = venv ]; then mkdir -p "${@: -1}/bin"; cp "$FAKES/python" "${@: -1}/bin/python"; fi
"""
PYTHON = """\
#!/usr/bin/env bash
# In place of a training: tells what it was given, and how it ends.
trap 'echo saved >> "$FAKES/told"; exit 75' TERM
echo "$JAX_COMPILATION_CACHE_DIR $PWD $*" >> "$FAKES/told"
[ ! -e "$FAKES/long" ] || for _ in {1..600}; do sleep 0.05; done
"""


CACHE = "JAX_COMPILATION_CACHE_DIR"


class Host(Fakes):
    """A machine that has uv, or what makes as if, and no devices."""

    def __init__(self, folder):
        super().__init__(folder)
        for path, text in ((self.bin / "uv", UV), (folder / "python", PYTHON)):
            path.write_text(text)
            path.chmod(0o755)
        (folder / "dev").mkdir()

    def environment(self, **settings):
        own = {"HOME": str(self.folder), "VDM_JAX_DEVICES": str(self.folder / "dev")}
        kept = super().environment(**own | settings)
        return {k: v for k, v in kept.items() if k != CACHE or k in settings}

    @property
    def installs(self):
        return (self.folder / "calls").read_text().splitlines()

    @property
    def told(self):
        path = self.folder / "told"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def until(reached):
    end = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_checkout_is_installed_once_and_the_training_started_each_time(host):
    for _ in range(2):
        assert host.run("_entry.sh", *TRAINING).returncode == 0
    home = host.folder / ".cache/vdm_jax/launch/venv"
    assert host.installs == [
        f"venv --quiet --allow-existing --python >=3.11,<3.14 {home}",
        f"pip install --quiet --python {home}/bin/python --editable {LAUNCH}/..",
    ]
    training = "-m vdm_jax.train --supervise --stopped-code 75 " + " ".join(TRAINING)
    assert host.told == [f"/runs/.xla {ROOT} {training}"] * 2


@pytest.mark.parametrize(
    ("device", "setting", "extra"),
    [
        ("accel0", {}, "[tpu]"),
        ("vfio/0", {}, "[tpu]"),
        ("nvidia0", {}, "[cuda]"),
        ("nvidiactl", {}, ""),
        ("nvidia0", {"VDM_JAX_EXTRA": "none"}, ""),
        ("tty0", {"VDM_JAX_EXTRA": "tpu,curate"}, "[tpu,curate]"),
        ("tty0", {"VDM_JAX_EXTRA": "none,curate"}, "[curate]"),
    ],
)
def test_the_extra_is_that_of_the_hardware_unless_told(host, device, setting, extra):
    path = host.folder / "dev" / device
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert host.run("_entry.sh", *TRAINING, **setting).returncode == 0
    assert host.installs[1].endswith(f"--editable {LAUNCH}/..{extra}")


def test_another_extra_is_installed_anew(host):
    for extra in ("none", "tpu", "tpu"):
        assert host.run("_entry.sh", *TRAINING, VDM_JAX_EXTRA=extra).returncode == 0
    assert len(host.installs) == 4


def test_an_installation_that_failed_is_tried_again_but_not_for_ever(host):
    """No launcher starts this code again; and it is more than that of a task stopped beside it."""
    (host.folder / "broken").touch()
    failed = host.run("_entry.sh", *TRAINING, VDM_JAX_PAUSE="0")
    assert failed.returncode == 78 and failed.stderr.startswith("error: ") and not host.told
    assert len(host.installs) == 3
    (host.folder / "broken").write_text("1")  # the next alone
    mended = host.run("_entry.sh", *TRAINING, VDM_JAX_PAUSE="0", VDM_JAX_TRIES="2")
    assert mended.returncode == 0 and len(host.told) == 1
    (host.folder / "broken").write_text("1")
    settings = {"VDM_JAX_EXTRA": "tpu", "VDM_JAX_TRIES": "1"}
    assert host.run("_entry.sh", *TRAINING, **settings).returncode == 78


def test_in_an_image_nothing_is_installed(host):
    settings = {"VDM_JAX_PYTHON": str(host.folder / "python"), "JAX_COMPILATION_CACHE_DIR": "/c"}
    assert host.run("_entry.sh", *TRAINING, **settings).returncode == 0
    assert not host.installs and host.told[0].startswith(f"/c {ROOT} -m vdm_jax.train")


def test_sigterm_reaches_the_training_whose_code_is_the_answer(host):
    (host.folder / "long").touch()
    command = ["bash", str(LAUNCH / "_entry.sh"), *TRAINING]
    with subprocess.Popen(command, env=host.environment()) as process:
        until(lambda: host.told)
        process.terminate()
        assert process.wait(10) == 75
    assert host.told[-1] == "saved"


def test_sigterm_ends_an_installation(host):
    (host.folder / "slow").touch()
    command = ["bash", str(LAUNCH / "_entry.sh"), *TRAINING]
    with subprocess.Popen(command, env=host.environment(), start_new_session=True) as process:
        until(lambda: (host.folder / "slow").stat().st_size)
        process.terminate()
        begin = time.monotonic()
        assert process.wait(10) == 75 and time.monotonic() - begin < 5
        os.killpg(process.pid, signal.SIGKILL)  # what the fake uv sleeps in
    assert not host.told


def test_tasks_that_share_a_home_install_once(host):
    command = ["bash", str(LAUNCH / "_entry.sh"), *TRAINING]
    tasks = [subprocess.Popen(command, env=host.environment()) for _ in range(4)]
    assert [task.wait(30) for task in tasks] == [0] * 4
    assert len(host.installs) == 2 and len(host.told) == 4


def test_a_host_runs_one_training_and_tells_of_it(host):
    (host.folder / "long").touch()
    say = ["state", ("start", *TRAINING), ("start", *TRAINING), "state"]
    said = [host.run("_host.sh", *([verb] if isinstance(verb, str) else verb)) for verb in say]
    assert [done.stdout.strip() for done in said] == ["none", "started", "runs already", "running"]
    until(lambda: host.told)
    assert host.run("_host.sh", "stop").returncode == 0
    assert host.told[1:] == ["saved"]
    assert host.run("_host.sh", "state").stdout == "stopped\n"
    assert host.run("_host.sh", "resume", *TRAINING).stdout == "stopped\n"
    assert host.told[1:] == ["saved"]
    (host.folder / "long").unlink()
    assert host.run("_host.sh", "start", *TRAINING).stdout == "started\n"
    until(lambda: host.run("_host.sh", "state").stdout == "ended 0\n")
    assert len(host.told) == 3
    assert host.run("_host.sh", "stop").returncode == 0
    assert host.run("_host.sh", "state").stdout == "ended 0\n"


def test_a_host_resumes_what_ended_by_itself_and_keeps_a_stop_between_two_starts(host):
    (host.folder / "vdm.code").write_text("75\n")
    assert host.run("_host.sh", "state").stdout == "ended 75\n"
    assert host.run("_host.sh", "resume", *TRAINING).stdout == "started\n"
    until(lambda: host.run("_host.sh", "state").stdout == "ended 0\n")
    (host.folder / "vdm.code").write_text("75\n")
    assert host.run("_host.sh", "stop").returncode == 0  # nothing runs just now
    assert host.run("_host.sh", "state").stdout == "stopped\n"
    assert host.run("_host.sh", "resume", *TRAINING).stdout == "stopped\n"


@pytest.mark.long
def test_uv_installs_into_an_empty_home_once_and_the_training_answers(tmp_path):
    """The first step on every machine; here the training says that there is no such config."""
    settings = {"VDM_JAX_HOME": str(tmp_path / "home"), "VDM_JAX_EXTRA": "none"}
    wrong = ["--config", "configs/no.py", "--workdir", str(tmp_path / "run")]
    stamp, times = tmp_path / "home/installed", []
    host = Fakes(tmp_path)
    for _ in range(2):
        command = ["bash", str(LAUNCH / "_entry.sh"), *wrong]
        done = subprocess.run(
            command, env=host.environment(**settings), capture_output=True, text=True
        )
        assert done.returncode == 2 and "configs/no.py" in done.stderr, done.stderr
        times.append(stamp.stat().st_mtime_ns)
    assert times[0] == times[1] and (tmp_path / "home/venv/bin/vdm").exists()
