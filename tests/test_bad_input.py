"""What users get wrong: each mistake is one clear line and exit code 2, before any work."""

import subprocess
import sys
from pathlib import Path

import pytest

from vdm_jax.core import command
from vdm_jax.data import film
from vdm_jax.sample import __main__ as sample
from vdm_jax.train import __main__ as train

SMOKE = ("--config", "configs/quickstart.py:smoke")


def refused(main, args, capsys) -> str:
    """The one line that the command says before it exits with code 2."""
    with pytest.raises(SystemExit) as stop:
        command.run(main, [str(arg) for arg in args])
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert said.out == "" and "Traceback" not in said.err
    lines = said.err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), said.err
    return lines[0]


@pytest.mark.parametrize(
    "args, words",
    [
        ((), "--config is missing"),
        (("--config",), "--config needs a value"),
        (("--config", "configs/quickstrat.py"), "did you mean configs/quickstart.py"),
        (("--config", "configs/quickstart.py:smok"), "it has config, smoke"),
        ((*SMOKE, "--optim.learning-rat", "1"), "did you mean --optim.learning-rate"),
        ((*SMOKE, "--steps", "many"), "--steps: got 'many'; expected int"),
        ((*SMOKE, "--steps", "0"), "steps must be at least 1, got 0"),
        ((*SMOKE, "--batch-size", "3", "--accumulate", "2"), "multiple of accumulate 2"),
        ((*SMOKE, "--batch-size", "12"), "must be a multiple of 8"),
        ((*SMOKE, "--seed", "99999999999999999999"), "seed must lie in [0, 2^32)"),
        ((*SMOKE, "--mesh.fsdp", "5"), "8 devices"),
        ((*SMOKE, "--task.video.width", "24"), "task.video wants 4 frames of 16x24x3"),
        ((*SMOKE, "--data.width", "400"), "the largest shape"),
        (
            (*SMOKE, "--model.network.concat-channels", "3"),
            "with 4 beside them, and 3 out of it; got 3",
        ),
        ((*SMOKE, "--model.network.groups", "5"), "do not divide into 5 groups"),
        (("--config", "nowhere/config.json"), "no config file"),
    ],
)
def test_training_refuses(args, words, capsys, tmp_path):
    workdir = tmp_path / "run"
    assert words in refused(train.main, [*args, "--workdir", workdir], capsys)
    assert not (workdir / "config.json").exists()


def test_training_refuses_video_shapes_that_the_network_cannot_halve(capsys, tmp_path):
    sizes = [f"--{part}.{side}=18" for part in ("data", "held-out", "task.video")
             for side in ("height", "width")]  # fmt: skip
    words = refused(train.main, [*SMOKE, *sizes, "--workdir", tmp_path / "run"], capsys)
    assert "18x18" in words and "multiples of 8" in words


def test_training_refuses_data_that_is_not_there(capsys, tmp_path):
    args = ("--config", "configs/real_video.py", "--data.directory", tmp_path, "--workdir",
            tmp_path / "run")  # fmt: skip
    assert "manifest.json" in refused(train.main, args, capsys)


def test_training_refuses_a_damaged_video(capsys, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(100))
    config = tmp_path / "folder.py"
    config.write_text(
        "from dataclasses import replace\n"
        "from vdm_jax.core.config import load\n"
        "from vdm_jax.data.folder import VideoFolder\n"
        "from vdm_jax.data.transform import Windows\n"
        "def config():\n"
        "    smoke = load('configs/quickstart.py:smoke')\n"
        f"    clips = VideoFolder(directory={str(videos)!r}, windows=Windows(num_frames=4),\n"
        "                        height=16, width=16)\n"
        "    return replace(smoke, data=clips, judge=None)\n"
    )
    words = refused(train.main, ("--config", config, "--workdir", tmp_path / "run"), capsys)
    assert "clip.mp4" in words


@pytest.mark.parametrize(
    "place, words", [("file", "is a file"), ("file/run", "cannot be written"), ("/proc/run", "")]
)
def test_training_refuses_a_workdir_that_cannot_be(place, words, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert words in refused(train.main, [*SMOKE, "--workdir", tmp_path / place], capsys)


@pytest.mark.parametrize(
    "args, words",
    [
        ((), "--model is missing"),
        (("--model", "nowhere"), "nowhere is no directory"),
        (("--model", "."), "no readable config.json"),
        (("--model", ".", "--output", "a.txt"), "write .mp4, .gif, .webp or a folder"),
        (("--model", ".", "--output", "README.md/a.mp4"), "README.md is no folder"),
        (("--model", ".", "--num-videos", "0"), "--num-videos must be at least 1"),
        (("--model", ".", "--seed", "-1"), "--seed must lie in [0, 2^32)"),
        (("--model", ".", "--promt", "x"), "did you mean --prompt"),
    ],
)
def test_sampling_refuses(args, words, capsys):
    assert words in refused(sample.main, args, capsys)


def test_sampling_refuses_a_run_without_weights_and_a_picture_that_is_none(capsys, tmp_path):
    train_args = [*SMOKE, "--print-config"]
    with pytest.raises(SystemExit):
        command.run(train.main, train_args)
    capsys.readouterr()
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(_config_json())
    (tmp_path / "a.png").write_text("not a picture")
    args = ("--model", run, "--image", tmp_path / "a.png")
    assert "no checkpoint" in refused(sample.main, args, capsys)
    (run / "checkpoints" / "1").mkdir(parents=True)
    assert "a.png" in refused(sample.main, args, capsys)


def test_sampling_refuses_a_config_of_something_else(capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"_type": "os:system"}')
    assert "os:system" in refused(sample.main, ("--model", tmp_path), capsys)


def test_fetching_the_film_refuses_a_file_that_is_not_the_film(capsys, tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"something else")
    args = ("--output", tmp_path / "out", "--film", tmp_path / "film.mp4")
    assert "film.mp4" in refused(film.main, args, capsys)


def test_the_commands_print_no_traceback_from_a_shell():
    command_line = [sys.executable, "-m", "vdm_jax.cli", "train", "--config", "nothing.py"]
    done = subprocess.run(command_line, capture_output=True, text=True, cwd=Path.cwd())
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def _config_json() -> str:
    from vdm_jax.core import config as configs

    return configs.to_json(configs.load(SMOKE[1]))
