"""An autoencoder from its config to a run, and from that run a temporal decoder."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics.frames import psnr
from vdm_jax.models.lpips import LPIPSConfig
from vdm_jax.models.vae import TemporalDecoderConfig
from vdm_jax.sample.pipeline import Pipeline
from vdm_jax.train import begin, log
from vdm_jax.train.config import PartFrom
from vdm_jax.train.loop import train

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def pictures():
    return configs.load(f"{CONFIGS / 'vae_image.py'}:smoke")


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "vae_image"
    assert train(replace(pictures, steps=4, preview_every=4, save_every=4), workdir)
    return workdir


def test_a_run_of_pictures_tells_what_it_learns_and_what_it_is_worth(run):
    records = log.read(run / "metrics.jsonl")
    merged = {name: value for record in records for name, value in record.items()}
    assert {"l1", "lpips", "kl", "discriminator_loss", "generator_weight"} <= merged.keys()
    assert {"held_out_loss", "mean_predictor_loss", "psnr"} <= merged.keys()
    assert merged["generator_weight"] > 0 == next(iter(records))["generator_weight"]
    assert (run / "samples" / "step_000004.webp").exists()


def test_sample_gives_a_picture_back(run, pictures):
    picture = pictures.held_out.build()[0]["video"][0]
    back = Pipeline(run)([picture])
    assert back.shape == (1, 1, 16, 16, 3)
    assert psnr((back * 255).round().astype(np.uint8)[0, 0], picture) > 3


def test_a_temporal_decoder_begins_from_the_run_of_pictures(run):
    """Its encoder bit by bit, its decoder made of that of pictures, its discriminator new."""
    clips = configs.load(f"{CONFIGS / 'vae_temporal_decoder.py'}:smoke")
    parts = tuple(PartFrom(part, str(run)) for part in ("vae", "lpips"))
    vae = replace(clips.model.vae, decoder=TemporalDecoderConfig())
    config = replace(clips, model=replace(clips.model, vae=vae), parts_from=parts)
    mesh = meshes.MeshConfig(fsdp=2, data=4).build()
    state, frozen = begin.build(config, mesh).init()
    got = {**dict(nnx.to_flat_state(state.params)), **dict(nnx.to_flat_state(frozen))}
    params = begin.load.part(run, "vae", config.trainable.join(state.params, frozen))[1]
    seen = 0
    for path, leaf in nnx.to_flat_state(params):
        if path[1] in ("encoder", "quant") or path[:4] == ("vae", "decoder", "up", 0):
            place = path if path[1] != "decoder" or "resnets" not in path else _within(path)
            np.testing.assert_array_equal(leaf.get_value(), got[place].get_value(), str(path))
            seen += 1
    assert seen > 30
    kernel = state.params["discriminator"]["layers"][0]["time"][0]["kernel"]
    assert (kernel.get_value() != 0).any()


def _within(path):
    """Where a weight of a block over space lies in one over space and time."""
    at = path.index("resnets") + 2
    return (*path[:at], "space", *path[at:])


def test_parts_that_are_not_there_are_refused(run, pictures, tmp_path):
    mesh = meshes.MeshConfig().build()
    with pytest.raises(Refusal, match=r"parts_from names text; the model has none"):
        replace(pictures, parts_from=(PartFrom("text", str(run)),))
    with pytest.raises(Refusal, match=r"model\.lpips needs trained weights"):
        replace(pictures, model=replace(pictures.model, lpips=LPIPSConfig()))
    wider = replace(pictures.model, vae=replace(pictures.model.vae, widths=(8, 16)))
    config = replace(pictures, model=wider, parts_from=(PartFrom("vae", str(run)),))
    with pytest.raises(Refusal, match="is not that of the model"):
        begin.build(config, mesh).init()
    nothing = replace(pictures, parts_from=(PartFrom("vae", str(tmp_path)),))
    with pytest.raises(Refusal, match=r"config\.json"):
        begin.build(nothing, mesh).init()
    assert jax.process_count() == 1
