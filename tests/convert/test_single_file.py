"""A small model under Stability's names: the same arrays as from the diffusers folder."""

from pathlib import Path
from shutil import copy

import numpy as np
import pytest
from convert.original_names import decoys, original
from reference.stable_video import Sizes, pipeline
from safetensors.numpy import save_file

from vdm_jax.convert import inferred, plan
from vdm_jax.convert import original as originals
from vdm_jax.core.refusal import Refusal

pytestmark = pytest.mark.parity


def ignore(count):
    """Progress that nobody looks at."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder "diffusers" and the file "svd_xt.safetensors" of one model."""
    path = tmp_path_factory.mktemp("models")
    made = pipeline(Sizes(blocks=2, layers=2), seed=1)
    made.save_pretrained(path / "diffusers")
    named = original(made)
    save_file(named | decoys(named, 0), path / "svd_xt.safetensors")
    save_file(named | decoys(named, 1), path / "other_decoys.safetensors")
    save_file(named, path / "bare.safetensors")
    np.savez(path / "named.npz", **named)
    return path


def brought(path, dtype="float32", configs=None):
    with originals.opened(path, configs=configs) as opened:
        found = plan.plan(opened)
        arrays = {m.ours: found.bring(m, dtype, ignore) for m in found.moves}
        return found.pretrained, arrays


def assert_same(ours, theirs):
    assert ours[0] == theirs[0] and ours[1].keys() == theirs[1].keys()
    for name, array in ours[1].items():
        assert array.dtype == theirs[1][name].dtype
        assert array.tobytes() == theirs[1][name].tobytes(), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_formats_give_the_same_arrays(folder, dtype):
    assert_same(
        brought(folder / "svd_xt.safetensors", dtype, folder / "diffusers"),
        brought(folder / "diffusers", dtype),
    )


@pytest.mark.parametrize("name", ["other_decoys.safetensors", "bare.safetensors"])
def test_what_is_not_used_changes_nothing(folder, name):
    configs = folder / "diffusers"
    assert_same(
        brought(folder / name, configs=configs),
        brought(folder / "svd_xt.safetensors", configs=configs),
    )


def test_shapes_tell_the_config(folder, monkeypatch):
    """All of it that they can: heads are of the published size, which the small model's are not."""
    with originals.opened(folder / "diffusers") as opened:
        wanted = opened.configs
    with pytest.raises(Refusal, match=r"image encoder has layers of 64 channels.*--configs"):
        originals.opened(folder / "svd_xt.safetensors").__enter__()
    monkeypatch.setattr(inferred, "CLIP_HEAD_SIZE", 16)
    with originals.opened(folder / "svd_xt.safetensors") as opened:
        found = opened.configs
    for part, names in {
        "unet": ("block_out_channels", "down_block_types", "up_block_types", "layers_per_block",
                 "cross_attention_dim", "addition_time_embed_dim", "in_channels", "out_channels",
                 "projection_class_embeddings_input_dim"),
        "vae": ("_class_name", "block_out_channels", "layers_per_block", "latent_channels"),
        "image_encoder": ("hidden_size", "intermediate_size", "num_hidden_layers", "image_size",
                          "num_attention_heads", "patch_size", "projection_dim", "hidden_act"),
    }.items():  # fmt: skip
        for name in names:
            assert found[part][name] == wanted[part].get(name, found[part][name]), (part, name)
    assert found["unet"]["transformer_layers_per_block"] == [2, 2]
    assert found["unet"]["num_frames"] == 25


@pytest.mark.parametrize(
    ("name", "frames"), [("svd.safetensors", 14), ("svd_xt_1_1.safetensors", 25), ("x.bin", 25)]
)
def test_the_name_of_a_file_tells_its_frames(folder, tmp_path, name, frames):
    copy(folder / "svd_xt.safetensors", tmp_path / name)
    configs = folder / "diffusers"
    with originals.opened(tmp_path / name, configs=configs, num_frames=3) as opened:
        assert opened.configs["unet"]["num_frames"] == 3
    assert originals._frames_by_name(tmp_path / name) == frames


def test_a_file_in_a_diffusers_folder_has_its_configs(folder):
    inside = copy(folder / "svd_xt.safetensors", folder / "diffusers")
    ours = brought(Path(inside))
    assert_same(ours, brought(folder / "svd_xt.safetensors", configs=folder / "diffusers"))


def test_what_is_not_finite_is_named(folder, tmp_path):
    named = dict(np.load(folder / "named.npz"))
    bad = [
        "model.diffusion_model.out.2.bias",
        "conditioner.embedders.0.open_clip.model.visual.transformer.resblocks.1.attn.in_proj_bias",
    ]
    named[bad[0]][1] = np.nan
    named[bad[1]][-1] = np.inf
    save_file(named, tmp_path / "bad.safetensors")
    with originals.opened(tmp_path / "bad.safetensors", configs=folder / "diffusers") as opened:
        found = plan.plan(opened)
        with pytest.raises(Refusal, match=r"not finite \(2 tensors\)") as refusal:
            found.check_values(ignore)
        move = next(m for m in found.moves if m.ours == "network/conv_out/bias")
        with pytest.raises(Refusal, match=r"out\.2\.bias has 1 values that are NaN"):
            found.bring(move, "float32", ignore)
    assert bad[0] in str(refusal.value) and f"{bad[1]}[v]" in str(refusal.value)


def test_numbers_that_a_type_cannot_hold_are_refused():
    large = np.array([1.0, 1e5], np.float32)
    with pytest.raises(Refusal, match="x has numbers too large for float16"):
        plan.in_dtype(large, "float16", "x")
    assert plan.in_dtype(large, "bfloat16", "x").dtype.name == "bfloat16"
