"""The film's preparation; the film itself is fetched only in the slow test."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vdm_jax.core import video
from vdm_jax.core.refusal import Refusal
from vdm_jax.data import film
from vdm_jax.data.clips import Windowed
from vdm_jax.data.film import PARTS, FilmConfig
from vdm_jax.data.shard import Shards
from vdm_jax.data.shots import shots
from vdm_jax.data.transform import Windows


def scenes(lengths: list[int]) -> np.ndarray:
    """Smoothly moving scenes in unlike colours, one after the other."""
    y, x = np.mgrid[:72, :128]
    parts = []
    for number, length in enumerate(lengths):
        tint = np.array([(220, 60, 40), (40, 90, 210), (60, 190, 70)][number % 3])
        for i in range(length):
            wave = 30 * np.sin((x + y + 2 * i) / 15)[..., None]
            parts.append((tint + wave).clip(0, 255).astype(np.uint8))
    return np.stack(parts)


def test_shots_are_cut_where_the_scene_changes(tmp_path: Path):
    lengths = [30, 18, 3, 40, 1]
    frames = scenes(lengths)
    video.write(tmp_path / "a.mp4", frames, 24)
    found = list(shots(video.frames(tmp_path / "a.mp4"), 24, start=100))
    assert [len(shot.frames) for shot in found] == lengths
    assert [shot.start for shot in found] == [100, 130, 148, 151, 191]
    together = np.concatenate([shot.frames for shot in found])
    np.testing.assert_array_equal(together, video.read(tmp_path / "a.mp4").frames)


def test_one_shot_and_no_frames():
    assert [len(shot.frames) for shot in shots(iter(scenes([12])), 24)] == [12]
    assert list(shots(iter([]), 24)) == []


def test_the_last_fifth_is_the_test_split_and_no_shot_straddles():
    kept = [n for part in PARTS for n in part]
    boundary = film.first_test_frame()
    assert abs(sum(n >= boundary for n in kept) / len(kept) - 0.2) < 1e-3
    found = shots(iter(scenes([30, 20, 25])), 24, start=boundary - 40)
    split = [
        (name, shot.start - boundary, len(shot.frames))
        for name, shot in film.splits(found, boundary)
    ]
    assert split == [("train", -40, 30), ("train", -10, 20), ("test", 10, 25)]


def test_another_film_or_none_is_refused(tmp_path: Path):
    video.write(tmp_path / "other.mp4", scenes([4]), 24)
    output = tmp_path / "film"
    for path, words in [("other.mp4", "not the expected film"), ("none.mp4", "no such file")]:
        with pytest.raises(Refusal, match=words):
            FilmConfig(output=output, film=tmp_path / path).build()
    with pytest.raises(Refusal, match="--size must be"):
        FilmConfig(output=output, size=8).build()
    (tmp_path / "file").write_text("x")
    with pytest.raises(Refusal, match="cannot be written"):
        FilmConfig(output=tmp_path / "file" / "film").build()


def test_the_command_line(tmp_path: Path):
    def run(*args: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "vdm_jax.data.film", *args],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )

    shown = run("--help")
    assert shown.returncode == 0 and "--output" in shown.stdout and "--size" in shown.stdout
    refused = run("--output", "x", "--film", "none.mp4")
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == ["error: none.mp4: no such file"]


@pytest.mark.slow
def test_the_film_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture):
    """Fetches 58 MB through pip and decodes ten minutes of film."""
    output = tmp_path / "film"
    film.main(["--output", str(output), "--size", "64"])
    assert "© 2008 Blender Foundation" in capsys.readouterr().out
    windows = Windows(num_frames=16)
    train, test = (
        Windowed(Shards(output, split), windows, (64, 64)) for split in ("train", "test")
    )
    assert len(train) > 500 and len(test) > 100
    assert train[0]["video"].shape == (16, 64, 64, 3)
    film.main(["--output", str(output), "--size", "64"])
    assert "already there" in capsys.readouterr().out
    with pytest.raises(Refusal, match="choose another --output"):
        film.main(["--output", str(output), "--size", "96"])
