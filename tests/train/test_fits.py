"""What cannot fit is refused before anything is made, with the smallest change that helps."""

import re
from dataclasses import replace

import jax
import pytest

from vdm_jax.adapters.lora import LoRA
from vdm_jax.adapters.trainable import Selected
from vdm_jax.core import config as configs
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.clip_vision import CLIPVisionConfig
from vdm_jax.models.svd_unet import SVDUNetConfig
from vdm_jax.models.vae import VAEConfig
from vdm_jax.tasks.stable_video import StableVideo
from vdm_jax.tasks.task import ModelConfig
from vdm_jax.train import begin, fits

TIME = Selected(("network.*time*",))


@pytest.fixture(scope="module")
def config():
    return replace(configs.load("configs/quickstart.py"), batch_size=8)


def least(config):
    mesh = config.mesh.build()
    return sum(fits.least(begin.shapes(config, mesh)).values())


def advice(config, limit):
    mesh = config.mesh.build()
    with pytest.raises(Refusal) as refusal:
        fits.check_room(config, begin.shapes(config, mesh), mesh, limit)
    return str(refusal.value)


def test_trained_weights_take_five_times_their_size_and_frozen_ones_theirs(config):
    """Weights, two moments, average and gradients in float32; what is frozen may be bfloat16."""
    mesh = config.mesh.build()
    whole = begin.shapes(config, mesh)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(whole.abstract.params))
    assert sum(fits.least(whole).values()) == pytest.approx(5 * 4 * parameters, rel=1e-4)
    some = begin.shapes(replace(config, trainable=TIME, frozen_dtype="bfloat16"), mesh)
    trained = sum(leaf.size for leaf in jax.tree.leaves(some.abstract.params))
    assert 0 < trained < parameters
    assert sum(fits.least(some).values()) == pytest.approx(
        20 * trained + 2 * (parameters - trained), rel=1e-3
    )


def test_what_fits_is_not_refused_and_what_does_not_says_what_it_takes(config):
    mesh, needed = config.mesh.build(), least(config)
    built = begin.shapes(config, mesh)
    fits.check_room(config, built, mesh, needed)
    fits.check(config, built, mesh)
    refused = advice(config, needed - 1)
    assert f"at least {needed / 1e9:.3g} GB a device" in refused
    assert re.search(r"[\d.]+ weights, [\d.]+ moments, [\d.]+ average, [\d.]+ gradients", refused)


def test_the_advice_is_the_smallest_change_that_helps(config):
    cut = {n: least(replace(config, mesh=MeshConfig(fsdp=n))) for n in (1, 2, 4, 8)}
    assert cut[8] < cut[4] < cut[2] < cut[1]
    assert "--mesh.fsdp 2 takes at least" in advice(config, cut[1] - 1)
    assert "--mesh.fsdp 8 takes at least" in advice(config, cut[4] - 1)
    assert "needs more devices, or larger ones" in advice(config, 1000)


def test_a_mostly_frozen_model_is_told_to_keep_it_in_half_the_size(config):
    time = replace(config, trainable=TIME, mesh=MeshConfig(fsdp=8))
    assert "--frozen-dtype bfloat16 and --mesh.fsdp 8" in advice(time, least(time) - 1)


def test_lora_is_named_where_only_it_fits(config):
    model = ModelConfig(
        SVDUNetConfig(widths=(64,), heads=(1,), attention_levels=(0,), blocks=1),
        vae=VAEConfig(widths=(32, 32), blocks=1),
        image_encoder=CLIPVisionConfig(layers=1),
    )
    alone = MeshConfig(fsdp=8)
    svd = replace(config, model=model, task=StableVideo(), mesh=alone, judge=None)
    few = replace(svd, trainable=LoRA(), frozen_dtype="bfloat16")
    told = advice(svd, least(few))
    assert "trainable=LoRA() with --frozen-dtype bfloat16 and --mesh.fsdp 8 takes" in told


def test_the_devices_of_a_cpu_share_what_is_free(config):
    mesh = config.mesh.build()
    room = fits.room(mesh)
    assert room is not None and 0 < 8 * room < 2**44
