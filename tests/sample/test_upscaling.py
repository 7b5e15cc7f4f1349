"""Videos of any size are enlarged, and models follow on each other, as by their Python objects."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from vdm_jax.core import checkpoint, video
from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.video import Clip
from vdm_jax.data.degrade import AreaMean
from vdm_jax.diffusion.density import Uniform
from vdm_jax.diffusion.loss import UniformWeight
from vdm_jax.diffusion.precond import V
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.sampler import DDIM
from vdm_jax.diffusion.schedule import Cosine
from vdm_jax.models.vae import VAEConfig
from vdm_jax.models.vdm_unet import VDMUNetConfig
from vdm_jax.sample import load, long, upscale
from vdm_jax.sample.__main__ import main as sample
from vdm_jax.sample.cascade import Cascade, Model, own_seed
from vdm_jax.sample.generate import Generator
from vdm_jax.sample.pipeline import Pipeline
from vdm_jax.sample.upscale import Enlarging
from vdm_jax.tasks.completion import Completion, ContextSampling
from vdm_jax.tasks.image_to_video import PICTURE_CHANNELS, TIME_FEATURES, ImageToVideo
from vdm_jax.tasks.super_resolution import SuperResolution
from vdm_jax.tasks.task import ModelConfig, Pretrained, Sampling, VideoShape
from vdm_jax.tasks.text_to_video import TextToVideo

PROCESS = Process(schedule=Cosine(), precond=V(), density=Uniform(Cosine()), weight=UniformWeight())
NETWORK = VDMUNetConfig(
    channels=8, multipliers=(1,), blocks=1, space_attention=(), time_attention=(), heads=2,
    head_size=4, groups=2, patch_size=2,
)  # fmt: skip
TOLD = replace(NETWORK, concat_channels=4)
SHOWN = replace(NETWORK, concat_channels=PICTURE_CHANNELS, vec_features=TIME_FEATURES)
PARTS = {"process": PROCESS, "video": VideoShape(num_frames=3, height=8, width=8, fps=4.0)}
BY = Sampling(DDIM(), num_steps=2)
LARGE = Pretrained(
    ModelConfig(TOLD),
    SuperResolution(**PARTS, degrade=AreaMean(2), sampling=BY, noise_aug=0.05),
)
PLAIN = Pretrained(ModelConfig(NETWORK), TextToVideo(**PARTS, sampling=replace(BY, num_steps=8)))
PICTURE = Pretrained(ModelConfig(SHOWN), ImageToVideo(**PARTS, sampling=BY))
BETWEEN = Pretrained(ModelConfig(TOLD), Completion(**PARTS, sampling=ContextSampling(DDIM(), 2)))


def saved(folder, made, scale):
    """The weights that `made` begins with, moved at random by as much."""
    with meshes.unplaced():
        params = nnx.state(made.model.build(rngs=nnx.Rngs(0)), nnx.Param)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [a + scale * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    params = jax.tree.unflatten(tree, moved)
    checkpoint.save_weights(folder, configs.to_json(made), params)
    return params


LATENT = Pretrained(
    ModelConfig(
        replace(NETWORK, in_channels=2, out_channels=2, concat_channels=3, patch_size=1),
        vae=VAEConfig(latent_channels=2, widths=(8, 8), blocks=1, groups=2),
    ),
    replace(LARGE.task, video=replace(LARGE.task.video, num_frames=2)),
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Directories by name. That of captions answers v = 0: the exact denoiser of white noise."""
    folder = tmp_path_factory.mktemp("models")
    moved = {"large": LARGE, "picture": PICTURE, "between": BETWEEN, "latent": LATENT}
    for name, made in moved.items():
        saved(folder / name, made, 0.1)
    saved(folder / "plain", PLAIN, 0.0)
    return folder


def frames(*sizes, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*sizes, 3), dtype=np.uint8)


def test_a_video_longer_and_larger_than_the_model_draws_is_enlarged(models, tmp_path, capsys):
    """5 frames of 5x7: two windows, tiles of 8, and an edge that is not the network's multiple."""
    small = frames(5, 5, 7)
    video.write(tmp_path / "small", small, 6)
    args = ["--task", "upscale", "--model", str(models / "large"), "--video"]
    args += [str(tmp_path / "small"), "--output", str(tmp_path / "large"), "--fps", "6"]
    assert sample([*args, "--tile", "8", "--tile-overlap", "3", "--noise-aug", "0.2"]) == 0
    assert "5 frames of 14x10 at 6 frames/s" in capsys.readouterr().out
    written = video.read(tmp_path / "large").frames
    opened = long.opener(models / "large", noise_aug=0.2)
    made = replace(LARGE, task=replace(LARGE.task, noise_aug=0.2))
    tiles = Enlarging(tile=8, tile_overlap=3)
    again = upscale.enlarged(opened, made, Clip(small, 6), tiles)
    np.testing.assert_array_equal(again.frames, written)
    whole = upscale.enlarged(opened, made, Clip(small, 6), Enlarging(tile=64))
    assert whole.frames.shape == written.shape and (whole.frames != written).any()
    closer = upscale.enlarged(opened, made, Clip(small, 6), replace(tiles, overlap=2))
    assert (closer.frames != written).any()  # three windows, not two


def test_latents_are_drawn_and_decoded_in_tiles(models):
    """2 frames of 10x14 pixels: 5x7 latents, in tiles of 4x4 that share 2."""
    opened = long.opener(models / "latent")
    whole, tiles = (
        upscale.enlarged(opened, LATENT, Clip(frames(2, 5, 7), 6), how).frames.astype(int)
        for how in (Enlarging(tile=32), Enlarging(tile_overlap=4))
    )
    assert whole.shape == tiles.shape == (2, 10, 14, 3)
    assert 0 < np.abs(whole - tiles).mean() < whole.std()


def test_what_fits_is_drawn_as_the_model_draws_it_and_weights_survive_the_disk(models, tmp_path):
    params = saved(tmp_path / "again", LARGE, 0.1)
    small = frames(3, 4, 4)
    mesh = meshes.MeshConfig().build()
    generator = Generator(LARGE.task, LARGE.model, mesh, batch_size=1)
    wanted = generator.signal(params, [""], list(small), seed=3, given={})
    drawn = Pipeline(models / "large")(list(small), [""], seed=3)
    np.testing.assert_array_equal(drawn, np.clip(wanted / 2 + 0.5, 0, 1))
    clip = upscale.enlarged(
        long.opener(models / "large"), LARGE, Clip(small, 8), Enlarging(), seed=3
    )
    np.testing.assert_array_equal(clip.frames, np.round(255 * drawn[0]).astype(np.uint8))


def test_a_model_that_was_not_trained_to_enlarge_is_guided_to_the_small_video(models, tmp_path):
    small = 64 + frames(4, 6, 5) // 2
    video.write(tmp_path / "small", small, 6)
    args = ["--task", "upscale", "--model", str(models / "plain"), "--factor", "2"]
    args += ["--video", str(tmp_path / "small"), "--tile", "8"]
    off = []
    for weight in ([], ["--weight", "0"]):
        output = tmp_path / f"large{len(weight)}"
        assert sample([*args, "--output", str(output), *weight]) == 0
        seen = AreaMean(2)(video.read(output).frames).astype(float)
        off.append(np.sqrt(np.mean((seen - small) ** 2)))
    assert off[0] < off[1] / 2  # what of the white noise is no colour is clipped


@pytest.mark.parametrize(
    ("model", "args", "wanted"),
    [
        ("plain", [], "factor is missing: TextToVideo"),
        ("plain", ["--factor", "2", "--noise-aug", "0.1"], "no setting noise_aug"),
        ("plain", ["--factor", "1"], "factor must be at least 2"),
        ("large", ["--factor", "3"], "this model enlarges 2 times"),
        ("large", ["--tile", "9"], "tile must be a multiple of 2"),
        ("large", ["--tile", "8", "--tile-overlap", "8"], "tile_overlap must lie in 1 to 7, got 8"),
        ("large", ["--overlap", "3"], "overlap must lie in 1 to 2, got 3"),
        ("large", ["--height", "16"], "as large as --video times the factor"),
        ("large", ["--prompt", "a cat"], "without captions"),
        ("large", ["--video", ""], "--video is missing"),
    ],
)  # fmt: skip
def test_requests_that_cannot_be_met_are_refused(models, tmp_path, model, args, wanted):
    video.write(tmp_path / "small", frames(3, 4, 4), 6)
    asked = ["--task", "upscale", "--model", str(models / model), "--video"]
    asked += [str(tmp_path / "small"), "--output", str(tmp_path / "out.mp4")]
    with pytest.raises(Refusal, match=wanted):
        sample([*asked, *args])
    assert not (tmp_path / "out.mp4").exists()


def test_each_stage_follows_on_the_one_before(models, tmp_path, capsys):
    """A picture, a video that begins with it, twice the frames, twice the size."""
    names, made = ("plain", "picture", "between", "large"), []
    stages = [Model(str(models / name)) for name in names]
    stages[0] = replace(stages[0], settings={"num_frames": 1})
    last = Cascade(tuple(stages))(seed=5, on_stage=lambda n, clip: made.append(clip))
    shapes = [(1, 8, 8, 3), (3, 8, 8, 3), (5, 8, 8, 3), (5, 16, 16, 3)]
    assert [clip.frames.shape for clip in made] == shapes
    assert [clip.fps for clip in made] == [4, 4, 8, 8]
    np.testing.assert_array_equal(made[1].frames[0], made[0].frames[0])
    np.testing.assert_array_equal(made[2].frames[::2], made[1].frames)
    args = ["--task", "t2v", "--model", str(models / "plain"), "--num-frames", "1", "--seed", "5"]
    args += ["--then", *(str(models / name) for name in names[1:])]
    assert sample([*args, "--output", str(tmp_path / "out")]) == 0
    np.testing.assert_array_equal(video.read(tmp_path / "out").frames, last.frames)
    assert "5 frames of 16x16 at 8 frames/s" in capsys.readouterr().out


def test_a_picture_becomes_a_video_by_a_model_that_is_told_frames(models):
    picture = frames(1, 8, 8)
    clip = Model(str(models / "between"))(Clip(picture, 1), seed=0)
    assert clip.frames.shape == (3, 8, 8, 3) and clip.fps == 4
    np.testing.assert_array_equal(clip.frames[0], picture[0])
    assert (clip.frames[1:] != picture).any()


def test_stages_are_functions_with_a_seed_each(models, tmp_path):
    seeds = []

    def stage(clip, *, seed):
        seeds.append(seed)
        count = 1 if clip is None else len(clip.frames) + 1
        return Clip(np.zeros((count, 2, 2, 3), np.uint8), 8)

    assert len(Cascade((stage, stage, stage))(seed=7).frames) == 3
    assert seeds[0] == 7 and len(set(seeds)) == 3 and seeds == [own_seed(7, n) for n in range(3)]
    assert own_seed(8, 1) != own_seed(7, 1)
    with pytest.raises(Refusal, match="without a stage"):
        Cascade(())()
    with pytest.raises(Refusal, match="TextToVideo does nothing to a clip"):
        args = ["--task", "t2v", "--model", str(models / "plain"), "--then", str(models / "plain")]
        sample([*args, "--output", str(tmp_path / "out.mp4")])
    assert isinstance(load.describe(models / "large").task, SuperResolution)
