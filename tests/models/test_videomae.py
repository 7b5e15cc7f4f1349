"""VideoMAE equals the model of transformers, weights through the converter."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from reference import videomae as reference
from transformers import VideoMAEForPreTraining, VideoMAEForVideoClassification, VideoMAEModel

from vdm_jax.convert import videomae
from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.videomae import VIDEOMAE_BASE, VIDEOMAE_V2_GIANT, VideoMAEConfig, places

HERE = ("--heads", "4", "--image-size", "48", "--num-frames", "6")


def converted(source, output, *options):
    videomae.main(["--from", str(source), "--output", str(output), *options])
    config = configs.from_json(checkpoint.load_config(output))
    graphdef, shapes = nnx.split(
        meshes.build_abstract(lambda: config.build(rngs=nnx.Rngs(0))), nnx.Param
    )
    return nnx.merge(graphdef, checkpoint.load_weights(output, shapes))


def videos(frames=6):
    return np.random.default_rng(0).uniform(-1, 1, (2, frames, 48, 48, 3)).astype("float32")


def close(got, wanted):
    wanted = wanted.detach().numpy()
    assert np.abs(np.diff(wanted, axis=0)).max() > 0.1 * np.abs(wanted).max()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def tokens(model, x):
    return model(torch.tensor(x).double().movedim(-1, 2)).last_hidden_state


@pytest.fixture(scope="module")
def classifier():
    return reference.model(VideoMAEForVideoClassification)


@pytest.mark.parity
@pytest.mark.parametrize("form", ["folder", "file", "nested"])
def test_a_fine_tuned_encoder_equals_transformers(classifier, form, tmp_path):
    """A folder of theirs, and a file of the authors, plain or as DeepSpeed nests it."""
    source, options = tmp_path / form, HERE
    if form == "folder":
        options = ()
        classifier.float().save_pretrained(source)
        classifier.double()
    else:
        table = reference.original(classifier)
        torch.save(table if form == "file" else {"module": table, "epoch": 3}, source)
    ours = converted(source, tmp_path / "out", *options)
    x = videos()
    wanted = classifier.fc_norm(tokens(classifier.videomae, x).mean(1))
    close(jax.jit(ours)(jnp.asarray(x)), wanted)


@pytest.mark.parity
@pytest.mark.parametrize("kind", [VideoMAEModel, VideoMAEForPreTraining])
def test_an_encoder_trained_by_masking_equals_transformers(kind, tmp_path):
    theirs = reference.model(kind, use_mean_pooling=False)
    theirs.float().save_pretrained(tmp_path / "theirs")
    ours = converted(tmp_path / "theirs", tmp_path / "out")
    assert ours.config.norm == "tokens"
    encoder = theirs.double() if kind is VideoMAEModel else theirs.double().videomae
    close(jax.jit(ours)(jnp.asarray(videos())), tokens(encoder, videos()).mean(1))


@pytest.mark.parity
@pytest.mark.parametrize("frames", [2, 4, 10, 16])
def test_places_of_other_lengths_are_interpolated_as_published(frames):
    """Trilinear in torch, by a factor a little above the whole one."""
    config = VideoMAEConfig(width=12, heads=2, patch_size=16, image_size=48, num_frames=8)
    grid = torch.tensor(places(config, 8)).T.reshape(1, 12, 4, 3, 3)
    wanted = torch.nn.functional.interpolate(
        grid, scale_factor=((frames // 2 + 0.1) / 4, 1, 1), mode="trilinear"
    )
    wanted = wanted.reshape(12, -1).T.numpy()
    np.testing.assert_allclose(places(config, frames), wanted, rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    ("config", "size", "tokens"),
    [(VIDEOMAE_BASE, 86_227_200, 1568), (VIDEOMAE_V2_GIANT, 1_011_610_752, 2048)],
)
def test_the_encoders_have_their_published_size(config, size, tokens):
    model = meshes.build_abstract(lambda: config.build(rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == size
    assert len(places(replace(config, width=2, heads=1), 16)) == tokens


def test_what_it_cannot_see_is_refused():
    small = VideoMAEConfig(width=8, hidden=8, layers=1, heads=2, image_size=32)
    with meshes.unplaced():
        model = small.build(rngs=nnx.Rngs(0))
    with pytest.raises(Refusal, match="videos are 32x48; this VideoMAE takes 32x32"):
        model(jnp.zeros((1, 16, 32, 48, 3)))
    with pytest.raises(Refusal, match="3 frames; VideoMAE takes a multiple of 2"):
        model(jnp.zeros((1, 3, 32, 32, 3)))
    for change, told in (
        ({"heads": 3}, "does not divide into 3 heads"),
        ({"image_size": 40}, "image_size is 40; it must be a multiple of 16"),
        ({"num_frames": 5}, "num_frames is 5; it must be a multiple of 2"),
        ({"eps": 0.0}, "eps must be above 0"),
    ):
        with pytest.raises(Refusal, match=told):
            replace(small, **change)
