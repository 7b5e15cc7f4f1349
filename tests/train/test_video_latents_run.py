"""Latents of an autoencoder of clips, computed once, from weights on the disk."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from flax import nnx

from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.latents import LatentClips
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.models.video_vae import VideoVAEConfig
from vdm_jax.tasks import latent
from vdm_jax.tasks.task import ModelConfig, Parts, VideoShape, abstract
from vdm_jax.train import begin, latents
from vdm_jax.train.config import PartFrom

VAE = VideoVAEConfig(widths=(4, 8), time_stride=2, groups=4, scaling_factor=0.7)


@pytest.fixture(scope="module")
def config():
    made = configs.load("configs/svd_stage2_video.py:smoke")
    return replace(
        made,
        model=replace(made.model, vae=VAE),
        task=replace(made.task, video=VideoShape(num_frames=4, height=16, width=16)),
        data=MovingShapes(num_frames=4, height=16, width=16, length=3),
        held_out=MovingShapes(num_frames=4, height=16, width=16, length=3, split="test"),
    )


@pytest.fixture(scope="module")
def saved(config, tmp_path_factory):
    """The run's own autoencoder in a model directory."""
    folder = tmp_path_factory.mktemp("vae") / "of_run"
    mesh = config.mesh.build_on(jax.devices()[:1])
    vae, drawn = begin.autoencoder(config, mesh)
    checkpoint.save_weights(folder, configs.to_json(Parts(ModelConfig(vae=vae))), drawn)
    return folder, drawn


def test_what_is_stored_is_what_a_run_would_encode(config, saved, tmp_path):
    folder, drawn = saved
    other = replace(config, seed=5, parts_from=(PartFrom("vae", str(folder)),))
    (line,) = latents.encode(other, tmp_path / "latents")
    assert "3 samples in 1 shards" in line
    source = LatentClips(directory=str(tmp_path / "latents")).build()
    assert source.encoded.video == (4, 16, 16, 3)
    model = ModelConfig(vae=VAE)
    samples = [config.data.build()[i] for i in range(3)]
    arrays = latent.prepared(model, config.task.video, {"video": samples[1]["video"][None]})
    graphdef, _ = abstract(model)
    encode = jax.jit(lambda state, video: latent.encode(nnx.merge(graphdef, state), video))
    wanted = encode(drawn, arrays["video"])
    assert source[1]["latents"].shape == wanted.shape[1:] == (2, 8, 8, 4)
    np.testing.assert_allclose(source[1]["latents"], wanted[0], atol=2e-3)


def test_another_autoencoder_on_the_disk_is_refused(config, saved):
    other = replace(config.model, vae=replace(VAE, scaling_factor=0.5))
    parts = (PartFrom("vae", str(saved[0])),)
    mesh = config.mesh.build_on(jax.devices()[:1])
    with pytest.raises(Refusal, match="is not that of the model"):
        begin.autoencoder(replace(config, model=other, parts_from=parts), mesh)
