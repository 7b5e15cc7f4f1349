"""Videos that go on, and more frames a second: from the command line to the file."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluate import parts

from vdm_jax.core import video
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.paths import Bouncing
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.models.svd_unet import SVDUNetConfig
from vdm_jax.models.vdm_unet import VDMUNetConfig
from vdm_jax.models.video_vae import VideoVAEConfig
from vdm_jax.nn.pieces import Whole
from vdm_jax.sample import load, long
from vdm_jax.sample.__main__ import main as sample
from vdm_jax.sample.long import Autoregressive, Film, FreeNoise, Hierarchical, Reuse
from vdm_jax.tasks.completion import Completion, ContextSampling
from vdm_jax.tasks.task import ModelConfig, Pretrained, Sampling, VideoShape
from vdm_jax.tasks.text_to_video import TextToVideo

SIZE = 5
PROCESS, SHAPE = parts.MODEL.task.process, VideoShape(num_frames=SIZE, height=16, width=16, fps=8.0)
NETWORK = VDMUNetConfig(
    channels=8, multipliers=(1,), blocks=1, space_attention=(), time_attention=(0,), heads=1,
    head_size=8, groups=4, patch_size=2,
)  # fmt: skip
SAMPLER = parts.MODEL.task.sampling.sampler
TOLD = Pretrained(
    ModelConfig(replace(NETWORK, concat_channels=4)),
    Completion(process=PROCESS, video=SHAPE, sampling=ContextSampling(SAMPLER, num_steps=2)),
)
SEVERAL = Pretrained(  # each latent is of two frames
    ModelConfig(
        SVDUNetConfig(
            in_channels=9, widths=(16,), attention_levels=(), heads=(2,), blocks=1, groups=8,
            context_width=8, vec_features=None,
        ),
        vae=VideoVAEConfig(widths=(4, 8), time_stride=2, groups=4),
    ),
    replace(
        TOLD.task, video=replace(SHAPE, num_frames=8), given=(0, 1), decoding=Whole(),
    ),
)  # fmt: skip
PLAIN = Pretrained(
    ModelConfig(NETWORK),
    TextToVideo(process=PROCESS, video=SHAPE, sampling=Sampling(SAMPLER, num_steps=2)),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with models `told`, `plain`, `first` (a picture's video), and clip.mp4."""
    folder = tmp_path_factory.mktemp("made")
    parts.model(folder / "told", TOLD)
    parts.model(folder / "plain", PLAIN)
    parts.model(folder / "several", SEVERAL)
    task = replace(parts.MODEL.task, video=SHAPE)
    parts.model(folder / "first", replace(parts.MODEL, task=task))
    clip = MovingShapes(num_frames=7, height=16, width=16, path=Bouncing())[0]["video"]
    video.write(folder / "clip.mp4", clip, 8, codec=video.Lossless())
    return folder


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.chdir(made)


def clip():
    return video.read("clip.mp4").frames


def drawn(plan, model, film, seed=0):
    return plan(long.opener(model), load.describe(Path(model)), film, seed=seed)


@pytest.mark.parametrize(
    ("plan", "model"),
    [
        (Autoregressive(2), "told"),
        (Hierarchical(2, 2), "plain"),
        (Autoregressive(2), "first"),
        (Reuse(2), "told"),
        (Reuse(2), "first"),
        (FreeNoise(2), "told"),
        (Autoregressive(1), "several"),
        (Hierarchical(3, 1), "several"),
        (Reuse(2), "several"),
    ],
)
def test_any_model_draws_a_film_of_any_length_and_begins_with_what_is_given(model, plan):
    film = Film(12, first=clip()[:2])
    made = drawn(plan, model, film)
    assert made.video.shape == (12, 16, 16, 3) and np.isfinite(made.video).all()
    np.testing.assert_array_equal(np.round(made.video[:2] * 255), clip()[:2])
    assert all(2 <= begin < 12 for begin in made.begins)


def test_latents_of_several_frames_are_drawn_between_keyframes():
    """Every third latent first: 13 frames are 7 latents, in one window of 4 and two between."""
    film, found = Film(13, first=clip()[:2]), load.describe(Path("several"))
    first, *between = Hierarchical(3, 1).windows(found, film)
    assert first.frames == (0, 3, 6, 9) and first.known == (True, False, False, False)
    assert [window.frames for window in between] == [(0, 1, 2, 3), (3, 4, 5, 6)]
    assert drawn(Hierarchical(3, 1), "several", film).begins == (2, 8)
    with pytest.raises(Refusal, match="give a multiple of 2 frames to begin with, got 3"):
        drawn(Autoregressive(1), "several", Film(13, first=clip()[:3]))


def test_windows_are_random_each_by_itself_and_the_same_again():
    film = Film(12)
    made, again = (drawn(Autoregressive(2), "told", film).video for _ in range(2))
    np.testing.assert_array_equal(made, again)
    other = drawn(Autoregressive(2), "told", film, seed=1).video
    assert (np.abs(made - other).max((1, 2, 3)) > 0).all()
    # the second window is no copy of the first
    assert np.abs(made[5:8] - made[2:5]).max() > 0


def test_one_window_is_what_the_model_draws_by_itself():
    alone = long.opener("told")()([np.zeros((16, 16, 3), np.uint8)], seed=3)[0]
    film = Film(SIZE, first=np.zeros((1, 16, 16, 3), np.uint8))
    np.testing.assert_allclose(drawn(Autoregressive(2), "told", film, 3).video, alone, atol=1e-6)
    for plan in (Reuse(2), FreeNoise(2)):
        np.testing.assert_allclose(drawn(plan, "told", film, 3).video, alone, atol=1e-6)


def test_the_command_extends_a_video_by_several_plans_and_compares_them(capsys):
    args = ["--task", "extend", "--model", "told", "--video", "clip.mp4", "--num-frames", "11"]
    args += ["--plan", "ar", "hierarchical", "--output", "long/out.mp4", "--overlap", "2"]
    assert sample(args) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "long/out_ar.mp4: 11 frames of 16x16 at 8 frames/s, seed 0"
    for plan in ("ar", "hierarchical"):
        assert len(video.read(f"long/out_{plan}.mp4").frames) == 11
    page = Path("long/out.html").read_text()
    assert "jump at a seam" in page and page.count("<video") == 2
    row = page[page.index("<th>memory") :].split("</tr>")[0]
    assert [0.1 < float(value) < 50 for value in re.findall(r"([\d.]+) GB", row)] == [True, True]


def test_the_command_predicts_and_interpolates():
    args = ["--model", "told", "--video", "clip.mp4", "--output", "out"]
    assert sample(["--task", "predict", *args, "--given", "2"]) == 0
    frames = video.read("out").frames
    assert len(frames) == SIZE
    np.testing.assert_array_equal(frames[:2], clip()[-2:])
    assert sample(["--task", "interpolate", *args, "--factor", "3", "--output", "more"]) == 0
    frames, fps = video.read("more")
    assert len(frames) == 3 * 6 + 1 and fps == 24
    np.testing.assert_array_equal(frames[::3], clip())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--task", "paint"], "--task paint: there are t2v"),
        (["--task", "extend"], "--model is missing"),
        (["--task", "extend", "--model", "told"], "--num-frames is missing"),
        (["--task", "extend", "--model", "told", "--num-frames", "9", "--plan", "magic"],
         "--plan magic: there are ar"),
        (["--task", "extend", "--model", "told", "--num-frames", "6", "--video", "clip.mp4"],
         "has 7 frames already"),
        (["--task", "extend", "--model", "told", "--num-frames", "20", "--overlap", "5"],
         "know from 1 to 4"),
        (["--task", "predict", "--model", "told", "--given", "5"], "is told 1 to 4 frames"),
        (["--task", "predict", "--model", "told"], "--video is missing"),
        (["--task", "predict", "--model", "several", "--video", "clip.mp4", "--given", "3"],
         "takes 2 frames at once"),
        (["--task", "interpolate", "--model", "told", "--video", "clip.mp4", "--factor", "1"],
         "nothing between"),
        (["--task", "t2v", "--model", "plain", "--image", "a.png"], "use --task i2v"),
        (["--task", "i2v", "--model", "first"], "--image is missing"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(args, words):
    with pytest.raises(Refusal, match=words):
        sample(args)
