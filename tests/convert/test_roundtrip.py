"""diffusers -> model directory -> diffusers: every tensor equal bit for bit, and loadable."""

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from convert.original_names import tensors
from diffusers import (
    AutoencoderKL,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from jax.sharding import PartitionSpec
from reference.stable_video import Sizes, pipeline, randomise

from vdm_jax.convert.__main__ import main
from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.sample import load

pytestmark = pytest.mark.parity

SIZES = Sizes(blocks=1, layers=1, vae_blocks=1)


@pytest.fixture(scope="module")
def theirs():
    return pipeline(SIZES, seed=3)


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    """ "diffusers", its half-precision twin in the same folders, and "ours"."""
    path = tmp_path_factory.mktemp("models")
    theirs.save_pretrained(path / "diffusers")
    halves = pipeline(SIZES, seed=3).to(torch.float16)
    halves.save_pretrained(path / "diffusers", variant="fp16")
    assert main(["--from", str(path / "diffusers"), "--output", str(path / "ours")]) == 0
    return path


def loaded(path, **options):
    return StableVideoDiffusionPipeline.from_pretrained(path, **options)


def assert_equal(ours, theirs):
    ours, theirs = tensors(ours), tensors(theirs)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.tobytes() == theirs[name].tobytes(), name


def test_export_is_the_original(folder, theirs, tmp_path):
    args = ["--from", str(folder / "ours"), "--to", "diffusers", "--output", str(tmp_path / "back")]
    assert main(args) == 0
    back = loaded(tmp_path / "back")
    assert_equal(back, theirs)
    for part in ("unet", "vae", "image_encoder", "scheduler"):
        ours, wanted = (dict(getattr(p, part).config.items() if part != "image_encoder"
                             else p.image_encoder.config.to_dict().items())
                        for p in (back, theirs))  # fmt: skip
        for name in wanted:
            if name[0] == "_" or name in ("sample_size", "transformers_version", "dtype"):
                continue
            assert _plain(ours[name]) == _plain(wanted[name]), (part, name)
    arguments = (
        torch.randn(1, 3, 8, 16, 16), torch.tensor([0.3]),
        torch.randn(1, 1, SIZES.context), torch.tensor([[6.0, 127.0, 0.02]]),
    )  # fmt: skip
    with torch.no_grad():  # in float64: float32 kernels depend on where arrays lie in memory
        unets = [deepcopy(p.unet).double() for p in (back, theirs)]
        outputs = [unet(*(a.double() for a in arguments)).sample for unet in unets]
    assert torch.equal(*outputs)


def _plain(value):
    """Lists of one repeated number as that number: diffusers takes either."""
    value = list(value) if isinstance(value, tuple) else value
    same = isinstance(value, list) and len(set(map(str, value))) == 1
    return value[0] if same else value


def image_decoder():
    made = pipeline(SIZES, seed=4)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 64),
        norm_num_groups=16,
    )
    randomise(vae)
    made.vae = vae
    return made


def uneven_lists():
    made = pipeline(SIZES, seed=5)
    made.unet = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal"),
        up_block_types=("CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"),
        num_attention_heads=(1, 4),
        cross_attention_dim=SIZES.context,
        addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=48,
        layers_per_block=[1, 1],
        transformer_layers_per_block=[1, 2],
    )
    randomise(made.unet)
    return made


@pytest.mark.parametrize("make", [image_decoder, uneven_lists])
def test_other_shapes_survive(make, tmp_path):
    made = make()
    for part in ("unet", "vae", "image_encoder", "scheduler", "feature_extractor"):
        getattr(made, part).save_pretrained(tmp_path / "a" / part)
    assert main(["--from", str(tmp_path / "a"), "--output", str(tmp_path / "m")]) == 0
    args = ["--from", str(tmp_path / "m"), "--to", "diffusers", "--output", str(tmp_path / "b")]
    assert main(args) == 0
    made.unet = made.unet.from_pretrained(tmp_path / "b" / "unet")
    made.vae = made.vae.from_pretrained(tmp_path / "b" / "vae")
    assert_equal(made, make())


def test_half_precision_variant_survives(folder, tmp_path):
    source, model, back = str(folder / "diffusers"), str(tmp_path / "m"), str(tmp_path / "back")
    assert main(["--from", source, "--variant", "fp16", "--output", model]) == 0
    half = ["--dtype", "float16", "--variant", "fp16"]
    assert main(["--from", model, "--to", "diffusers", "--output", back, *half]) == 0
    options = {"variant": "fp16", "dtype": torch.float16}
    assert_equal(loaded(back, **options), loaded(source, **options))
    assert (tmp_path / "back" / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()


def test_shards_are_one_model(folder, theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="1MB")
    assert (tmp_path / "shards/unet/diffusion_pytorch_model.safetensors.index.json").is_file()
    assert main(["--from", str(tmp_path / "shards"), "--output", str(tmp_path / "m")]) == 0
    ours, wanted = (checkpoint.stored_weights(p) for p in (tmp_path / "m", folder / "ours"))
    names = sorted(wanted.kinds)
    ours, wanted = ours.read(names), wanted.read(names)
    assert all(ours[name].tobytes() == wanted[name].tobytes() for name in names)


def test_the_directory_says_what_it_was_made_from(folder):
    note = json.loads((folder / "ours" / "source.json").read_text())
    assert note["kind"] == "diffusers folder"
    assert [file["folder"] for file in note["files"]] == ["image_encoder", "unet", "vae"]
    assert all(len(file["sha256"]) == 64 and file["size"] > 0 for file in note["files"])
    described = load.describe(folder / "ours")
    assert described.task.video.num_frames == 14
    assert described.task.process.schedule.sigma_max == 700


def test_smaller_types_are_stored_and_loaded(folder, tmp_path):
    source, model = str(folder / "diffusers"), tmp_path / "m"
    assert main(["--from", source, "--output", str(model), "--dtype", "bfloat16"]) == 0
    kinds = checkpoint.stored_weights(model).kinds
    assert all(kind.startswith("bfloat16[") for kind in kinds.values())
    name = "network/conv_in/kernel"
    ours = checkpoint.stored_weights(model).read([name])[name]
    exact = checkpoint.stored_weights(folder / "ours").read([name])[name]
    np.testing.assert_array_equal(ours, exact.astype(ours.dtype))


def test_a_model_of_another_config_is_not_exported(folder, tmp_path):
    described = configs.from_json(checkpoint.load_config(folder / "ours"))
    network = replace(described.model.network, groups=16)
    changed = replace(described, model=replace(described.model, network=network))
    checkpoint.save_weights(tmp_path / "m", configs.to_json(changed), {"a": np.zeros(3)})
    with pytest.raises(Refusal, match="diffusers knows this U-Net only with"):
        main(["--from", str(tmp_path / "m"), "--to", "diffusers", "--output", str(tmp_path / "b")])


def test_damaged_models_are_not_exported(folder, tmp_path):
    from shutil import copytree

    copytree(folder / "ours", tmp_path / "m")
    file = max((tmp_path / "m" / "weights").rglob("*"), key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(Refusal, match="is damaged"):
        main(["--from", str(tmp_path / "m"), "--to", "diffusers", "--output", str(tmp_path / "b")])
    assert not (tmp_path / "b").exists()


def test_a_mesh_can_be_filled_without_a_directory(folder):
    from vdm_jax.convert import original, plan

    mesh = MeshConfig(fsdp=4, tensor=2).build()
    with original.opened(folder / "diffusers") as opened:
        state = plan.plan(opened).placed(mesh, "float32")
    kernel = state["network"]["down"][0]["resnets"][0]["space"]["conv1"]["kernel"]
    assert kernel.get_value().sharding.spec == PartitionSpec(None, None, "fsdp", "tensor")
    name = "network/down/0/resnets/0/space/conv1/kernel"
    stored = checkpoint.stored_weights(folder / "ours").read([name])[name]
    np.testing.assert_array_equal(np.asarray(kernel.get_value()), stored)
