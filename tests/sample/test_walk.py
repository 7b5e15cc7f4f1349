"""Walks between prompts and seeds: their points are single drawings, and a kill loses nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest
from core.sounds import clicks, wav
from evaluate import parts
from tasks.test_stable_text import MODEL as LATENT_MODEL
from tasks.test_stable_text import TASK as LATENT_TASK
from tasks.test_tasks import TEXT, WITHOUT

from vdm_jax.core import sound, video
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.sampler import DDIM
from vdm_jax.sample.commands import walking as walk
from vdm_jax.sample.commands.walking import Walk, stepped
from vdm_jax.sample.pipeline import Pipeline
from vdm_jax.tasks.task import Pretrained, tuned

PROMPTS = ("red ball up", "blue")
SEEDS = (3, 5)
PICTURE = tuned(TEXT, {"num_frames": 1})
MODELS = {
    "pixels": Pretrained(WITHOUT, TEXT),
    "a picture": Pretrained(WITHOUT, PICTURE),
    "other weights": Pretrained(WITHOUT, PICTURE),
    "latents": Pretrained(LATENT_MODEL, LATENT_TASK),
    "no words": Pretrained(replace(WITHOUT, text=None), PICTURE),
    "noise on the way": Pretrained(WITHOUT, tuned(PICTURE, {"sampler": DDIM(eta=1.0)})),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of untrained models all of whose weights count."""
    home, made = tmp_path_factory.mktemp("models"), {}

    def model(name):
        if name not in made:
            seed = int(name == "other weights")
            made[name] = str(parts.model(home / name, MODELS[name], seed=seed, scale=0.2))
        return made[name]

    return model


@pytest.fixture(scope="module")
def pipelines(models):
    """On one device, where walks are drawn on all; loaded and compiled once for all tests."""
    one = MeshConfig().build_on(jax.devices()[:1])
    return cache(lambda name: Pipeline(models(name), mesh=one, batch_size=3))


@pytest.fixture(scope="module")
def walked(models, tmp_path_factory):
    """A walk of pictures through three points, and its request."""
    request = Walk(
        model=models("a picture"),
        output=str(tmp_path_factory.mktemp("walks") / "whole"),
        prompts=(*PROMPTS, "green square"),
        seeds=(*SEEDS, 3),
        steps=(7, 4),
    )
    assert walk.run(request) == 0
    return request


def steps_of(request):
    return sorted((Path(request.output) / "steps").iterdir())


def contents(folder):
    files = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", ["pixels", "latents"])
def test_the_points_of_a_walk_are_single_drawings(pipelines, name):
    pipeline = pipelines(name)
    words, noise = pipeline.embed(PROMPTS), [pipeline.noise(seed)[0] for seed in SEEDS]
    given = stepped(np.array([0.0, 0.5, 1.0]), words, noise)
    start, middle, end = pipeline(None, [""] * 3, seed=SEEDS[0], given=given)
    alone = [pipeline(None, [p], seed=s)[0] for p, s in zip(PROMPTS, SEEDS, strict=True)]
    np.testing.assert_allclose(start, alone[0], atol=1e-5)
    np.testing.assert_allclose(end, alone[1], atol=1e-5)
    for other in alone:
        assert np.abs(middle - other).max() > 0.05
    assert np.abs(alone[0] - alone[1]).max() > 0.05


@pytest.mark.parametrize("name", ["pixels", "latents"])
def test_noise_and_embeddings_alone_move_the_walk(pipelines, name):
    pipeline = pipelines(name)
    words, noise = pipeline.embed(PROMPTS), [pipeline.noise(seed)[0] for seed in SEEDS]
    here = np.array([0.5])
    both = pipeline(None, [""], given=stepped(here, words, noise))
    still = pipeline(None, [""], given=stepped(here, words, noise[:1] * 2))
    silent = {name: points[:1].repeat(2, 0) for name, points in words.items()}
    mute = pipeline(None, [""], given=stepped(here, silent, noise))
    assert np.abs(both - still).max() > 0.01
    assert np.abs(both - mute).max() > 1e-3


def test_noise_is_what_each_video_of_a_request_is_drawn_from(pipelines):
    pipeline = pipelines("pixels")
    captions = ["red"] * 3
    drawn = pipeline(None, captions, seed=7)
    given = {"latents": pipeline.noise(7, 3)}
    np.testing.assert_allclose(pipeline(None, captions, seed=8, given=given), drawn, atol=1e-5)
    assert np.abs(drawn[0] - drawn[1]).max() > 0.05
    with pytest.raises(Refusal, match="latents has the shape"):
        pipeline(None, captions, given={"latents": given["latents"][:, :, 1:]})


def test_the_files_of_a_walk(walked, pipelines):
    assert [path.name for path in steps_of(walked)] == [f"{n:05d}.png" for n in range(12)]
    pictures = [video.read_image(path).astype(int) for path in steps_of(walked)]
    pipeline = pipelines("a picture")
    for number, prompt, seed in zip((0, 7, 11), walked.prompts, walked.seeds, strict=True):
        alone = np.round(255 * pipeline(None, [prompt], seed=seed)[0, 0])
        assert np.abs(pictures[number] - alone).max() <= 1, number
    moved = [np.abs(a - b).mean() for a, b in pairwise(pictures)]
    assert min(moved) > 0 and max(moved) < np.abs(pictures[0] - pictures[7]).mean()
    film = video.read(Path(walked.output) / "film.mp4")
    assert film.frames.shape == (12, 8, 8, 3) and film.fps == 8
    noted = json.loads((Path(walked.output) / "walk.json").read_text())
    assert noted["--prompts"] == list(walked.prompts) and noted["--model"] == walked.model


def test_the_same_command_draws_what_is_missing_and_nothing_else(walked):
    whole = contents(walked.output)
    paths = steps_of(walked)
    for number in (0, 5, 11):
        paths[number].unlink()
    (Path(walked.output) / "film.mp4").unlink()
    left = {path: path.stat().st_mtime_ns for path in steps_of(walked)}
    assert len(left) == 9
    walk.run(walked)
    assert contents(walked.output) == whole
    assert {path: path.stat().st_mtime_ns for path in left} == left


def test_a_finished_walk_is_made_a_film_again_without_its_weights_being_read(walked):
    whole = contents(walked.output)
    (Path(walked.output) / "film.mp4").unlink()
    begun = time.monotonic()
    walk.run(walked)
    assert contents(walked.output) == whole and time.monotonic() - begun < 5


def test_a_damaged_step_is_named(walked):
    path = steps_of(walked)[4]
    content = path.read_bytes()
    path.write_bytes(content[:40])
    with pytest.raises(Refusal, match=r"00004\.png: .* delete it, and the same command"):
        walk.run(walked)
    path.write_bytes(content)
    walk.run(walked)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": ("red ball up", "blue", "green")}, "--prompts"),
        ({"seeds": (3, 5, 4), "num_steps": 3}, "--num-steps, --seeds"),
        ({"steps": (7, 5)}, "--steps"),
        ({"fps": 9.0}, "--fps"),
        ({"batch_size": 3}, "--batch-size"),
        ({"dtype": "bfloat16"}, "--dtype"),
        ({"model": "pixels", "num_frames": 1}, "--num-frames, .*config in --model"),
        ({"model": "other weights"}, "weights in --model"),
    ],
)  # fmt: skip
def test_another_request_into_the_same_folder_is_refused_by_what_differs(
    walked, models, changes, words
):
    whole = contents(walked.output)
    if "model" in changes:
        changes = {**changes, "model": models(changes["model"])}
    with pytest.raises(Refusal, match=f"drawn with other {words}; give another --output"):
        walk.run(replace(walked, **changes))
    assert contents(walked.output) == whole


def test_a_folder_of_other_things_is_refused(walked, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(Refusal, match=r"holds other things and no walk\.json"):
        walk.run(replace(walked, output=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_walk_of_clips_with_sound(models, tmp_path):
    whole = clicks(4.0, [0.7])
    request = Walk(
        model=models("pixels"),
        output=str(tmp_path / "walk"),
        prompts=PROMPTS,
        seconds=(1.5,),
        frames_of_each="all",
        audio=str(wav(tmp_path / "a.wav", whole)),
        audio_offset=0.15,
    )
    walk.run(request)
    paths = steps_of(request)
    assert [path.name for path in paths] == [f"{n:05d}.mp4" for n in range(5)]
    clips = [video.read(path).frames for path in paths]
    film = Path(request.output) / "film.mp4"
    shown = video.read(film).frames
    assert shown.shape == (15, 8, 8, 3)  # five clips of three frames
    grey = np.array([0.2126, 0.7152, 0.0722])  # colour is stored for blocks of pixels
    apart = np.abs((shown @ grey)[:, None] - np.concatenate(clips) @ grey).mean((2, 3))
    assert (apart.diagonal() <= apart.min(axis=1) + 3).all()  # clips before the click are alike
    assert (apart.argmin(axis=1)[6:9] == [6, 7, 8]).all()
    moved = [np.abs(a.astype(int) - b).mean() for a, b in pairwise(clips)]
    assert np.argmax(moved) == 1  # from 0.375 s of the film to 0.75 s; the click is at 0.55 s
    heard = sound.read(film, start=0, seconds=10)
    assert heard.seconds == pytest.approx(15 / 8, abs=0.05)
    assert np.abs(heard.mono).argmax() / sound.RATE == pytest.approx(0.55, abs=0.005)


def test_a_model_of_videos_gives_the_first_frame_of_each_clip(models, pipelines, tmp_path):
    request = Walk(
        model=models("pixels"), output=str(tmp_path / "walk"), prompts=("red",), seeds=SEEDS,
        steps=(3,),
    )  # fmt: skip
    walk.run(request)
    alone = np.round(255 * pipelines("pixels")(None, ["red"], seed=SEEDS[1])[0, 0])
    assert len(steps_of(request)) == 4
    assert np.abs(video.read_image(steps_of(request)[-1]).astype(int) - alone).max() <= 1


def test_a_model_without_captions_walks_between_seeds(models, pipelines, tmp_path):
    request = Walk(model=models("no words"), output=str(tmp_path / "w"), seeds=SEEDS, steps=(3,))
    walk.run(request)
    alone = np.round(255 * pipelines("no words")(None, [""], seed=SEEDS[0])[0, 0])
    assert np.abs(video.read_image(steps_of(request)[0]).astype(int) - alone).max() <= 1


def test_a_sampler_that_draws_noise_draws_the_same_on_all_steps(pipelines):
    """So that the film does not flicker: between equal points nothing moves."""
    pipeline = pipelines("noise on the way")
    words, noise = pipeline.embed(("red", "red")), [pipeline.noise(3)[0]] * 2
    one, two = pipeline(None, [""] * 2, seed=3, given=stepped(np.array([0.2, 0.7]), words, noise))
    np.testing.assert_allclose(one, two, atol=1e-5)
    np.testing.assert_allclose(one, pipeline(None, ["red"], seed=3)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": ""}, "--model is missing"),
        ({"prompts": ()}, "--prompts is missing"),
        ({"prompts": ("red",), "seeds": (1,)}, "two prompts or two seeds"),
        ({"seeds": (1, 2, 3, 4)}, "--prompts: give one, or one for each of 4; got 3"),
        ({"seeds": (-1,)}, r"--seeds must lie in \[0, 2\^32\), got -1"),
        ({"seeds": ()}, "--seeds: give one or more"),
        ({"steps": (3, 0)}, "each way needs a step"),
        ({"steps": (3, 4, 5)}, "--steps: give one, or one for each of 2; got 3"),
        ({"seconds": (1.0,)}, "--steps or --seconds, not both"),
        ({"steps": (), "seconds": (1.0, 0.01)}, "each way needs a step of 0.125 s"),
        ({"steps": (), "seconds": (float("nan"),)}, "each way needs a step"),
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"audio": "absent.wav"}, r"absent\.wav: no such file"),
        ({"smooth": 2.0, "audio": "absent.wav"}, "smooth in"),
        ({"motion_bucket_id": 3.0}, "no setting motion_bucket_id"),
    ],
)  # fmt: skip
def test_requests_that_cannot_be_met_are_refused_first(walked, tmp_path, changes, words):
    with pytest.raises(Refusal, match=words):
        walk.run(replace(walked, output=str(tmp_path / "walk"), **changes))
    assert not (tmp_path / "walk").exists()


def test_prompts_for_a_model_without_captions_are_refused(models, tmp_path):
    with pytest.raises(Refusal, match="without captions"):
        walk.run(Walk(model=models("no words"), output=str(tmp_path / "w"), prompts=PROMPTS))


@pytest.mark.long
def test_a_killed_walk_goes_on_to_the_same_files(walked, tmp_path):
    """Killed twice in the middle, where steps are there and the film is not."""
    folder = tmp_path / "walk"
    args = ["--model", walked.model, "--output", str(folder), "--prompts", *walked.prompts]
    args += ["--seeds", *map(str, walked.seeds), "--steps", "28", "18"]
    command = [sys.executable, "-m", "vdm_jax.sample", "--task", "walk", *args]
    for least in (1, 17):
        child = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        while child.poll() is None and len(list(folder.glob("steps/*.png"))) < least:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        said = child.communicate()
        assert child.returncode == -signal.SIGKILL, said
    assert not (folder / "film.mp4").exists()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "of 47 steps are there" in done.stderr + done.stdout
    other = replace(walked, output=str(tmp_path / "other"), steps=(28, 18))
    walk.run(other)
    mine, theirs = contents(folder), contents(other.output)
    for each in (mine, theirs):
        each.pop("walk.json")  # names its folder
    assert mine == theirs
