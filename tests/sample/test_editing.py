"""Videos drawn anew from themselves: noised a part of the way, or inverted."""

from dataclasses import replace

import numpy as np
import pytest
from evaluate import parts
from sample.test_extending import NETWORK, PROCESS, SAMPLER, SHAPE

from vdm_jax.conditioning.text import WordEncoderConfig
from vdm_jax.core import video
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.metrics.frames import psnr
from vdm_jax.sample import long
from vdm_jax.sample.__main__ import main as sample
from vdm_jax.sample.commands.editing import noised, partly
from vdm_jax.sample.long import Film, FreeNoise
from vdm_jax.tasks.denoising import NOISE
from vdm_jax.tasks.task import ModelConfig, Pretrained, Sampling
from vdm_jax.tasks.text_to_video import TextToVideo

WORDS = WordEncoderConfig(width=8, max_words=4, table_rows=64)
MODEL = Pretrained(
    ModelConfig(replace(NETWORK, token_width=8), WORDS),
    TextToVideo(process=PROCESS, video=SHAPE, sampling=Sampling(SAMPLER, num_steps=20)),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    parts.model(folder / "model", MODEL)
    clip = MovingShapes(num_frames=6, height=16, width=16, directions=("right",))[0]["video"]
    video.write(folder / "clip.mp4", clip, 8, codec=video.Lossless())
    return folder


@pytest.fixture(autouse=True)
def here(made, monkeypatch):
    monkeypatch.chdir(made)


def clip():
    return video.read("clip.mp4").frames[: SHAPE.num_frames]


def test_inversion_and_drawing_give_the_video_back():
    """At least 30 dB with 100 steps, and the more steps the nearer."""
    worth = []
    for steps in (25, 100):
        pipeline = long.opener("model", num_steps=steps)()
        x0 = pipeline.encode(clip()[None])
        noise = pipeline.invert(x0, ["red"])
        back = pipeline.decode(pipeline.draw(["red"], given={NOISE: noise}))[0]
        worth.append(float(psnr(np.round(back * 255).astype(np.uint8), clip()).mean()))
    assert worth[1] >= 30 and worth[1] > worth[0]


def test_a_film_drawn_at_once_goes_from_prompt_to_prompt():
    """FreeNoise's several prompts: frame by frame those of the film, at its ends one of them."""
    videos = {}
    for prompts in (("red",), ("red", "red"), ("blue",), ("red", "blue")):
        film = Film(16, prompts)
        plan = FreeNoise(2)
        videos[prompts] = plan(long.opener("model"), MODEL, film, seed=0).video
    np.testing.assert_allclose(videos["red",], videos["red", "red"], atol=1e-4)
    both = videos["red", "blue"]
    near = {name: np.abs(both - videos[name,]).reshape(16, -1).mean(1) for name in ("red", "blue")}
    assert near["red"][0] < near["blue"][0] and near["blue"][-1] < near["red"][-1]


def test_the_more_noise_the_less_is_kept():
    kept = []
    for strength in (0.1, 0.4, 0.8):
        pipeline = long.opener("model")(adapt=lambda made, s=strength: partly(made, s))
        noise = noised(pipeline, pipeline.encode(clip()[None]), seed=0)
        back = pipeline.decode(pipeline.draw(["red"], given={NOISE: noise}))[0]
        kept.append(float(psnr(np.round(back * 255).astype(np.uint8), clip()).mean()))
    assert kept[0] > kept[1] > kept[2]


def test_the_command_edits_and_with_no_strength_copies(capsys):
    args = ["--task", "edit", "--model", "model", "--video", "clip.mp4", "--prompt", "red"]
    assert sample([*args, "--strength", "0", "--output", "same"]) == 0
    np.testing.assert_array_equal(video.read("same").frames, clip())
    assert sample([*args, "--strength", "0.5", "--output", "half"]) == 0
    assert sample([*args, "--original", "blue", "--output", "inverted"]) == 0
    assert capsys.readouterr().out.count("5 frames of 16x16") == 3
    half, inverted = (video.read(name).frames for name in ("half", "inverted"))
    assert (half != clip()).any() and (inverted != half).any()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--strength", "1.5"], "--strength must lie"),
        (["--num-frames", "9"], "has 6 frames; this model draws 9"),
        (["--video", "none.mp4"], "none.mp4"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(args, words):
    with pytest.raises(Refusal, match=words):
        sample(["--task", "edit", "--model", "model", "--video", "clip.mp4", *args])
