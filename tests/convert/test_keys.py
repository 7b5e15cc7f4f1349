"""The tables of names against the published lists of names, and against our own parameters."""

import json
from contextlib import contextmanager
from math import prod
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from flax import nnx

from vdm_jax.convert import architecture, clip, original, plan, rules, single_file
from vdm_jax.convert.layout import CONV, FRAMES, LINEAR, LINEAR_OUT, NEGATED, POINT, SAME, VECTOR
from vdm_jax.convert.pipelines import STABLE_DIFFUSION, STABLE_VIDEO
from vdm_jax.convert.read.tensors import TensorInfo
from vdm_jax.convert.rules import Rule, Table
from vdm_jax.core import config as configs
from vdm_jax.core.arrays import named
from vdm_jax.core.mesh import build_abstract
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.clip_text import CLIPTextConfig
from vdm_jax.models.svd_unet import SVD_PICTURE, SVDUNetConfig
from vdm_jax.models.vae import SVD_IMAGE_VAE

MANIFESTS = Path(__file__).parents[3] / "shared" / "spec" / "manifests"
published = pytest.mark.skipif(not MANIFESTS.is_dir(), reason="the published lists are not here")
PARAMETERS = {"unet": 1_524_623_082, "vae": 97_742_847, "image_encoder": 632_076_800}


class Shapes:
    """A Source of names and shapes alone."""

    def __init__(self, infos):
        self.infos = infos

    def tensors(self):
        return self.infos

    def read(self, name):
        raise AssertionError(f"{name} has no values here")

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


def manifest(name):
    listed = json.loads((MANIFESTS / name).read_text())
    return Shapes(
        {
            key: TensorInfo(tuple(shape), dtype, 4 * prod(shape), Path(name))
            for key, (shape, dtype) in listed.items()
        }
    )


@contextmanager
def types_unchecked():
    """Around building a full-size model: checking its types takes a minute."""
    jaxtyping.config.update("jaxtyping_disable", True)  # noqa: FBT003
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)  # noqa: FBT003


@pytest.fixture(scope="module")
def single():
    with types_unchecked():
        return plan.plan(original.single(manifest("svd_original.json"), None, 25))


@pytest.fixture(scope="module")
def folder():
    configs = json.loads((MANIFESTS / "svd_configs_used.json").read_text())
    configs["unet"]["_class_name"] = "UNetSpatioTemporalConditionModel"
    configs["vae"]["_class_name"] = "AutoencoderKLTemporalDecoder"
    configs["scheduler"] = {
        "_class_name": "EulerDiscreteScheduler",
        "prediction_type": "v_prediction",
        "timestep_type": "continuous",
        "use_karras_sigmas": True,
        "timestep_spacing": "leading",
        "sigma_min": 0.002,
        "sigma_max": 700.0,
    }
    parts = {p: manifest(f"svd_diffusers_{p}.json") for p in STABLE_VIDEO.parts}
    return plan.plan(original.folder(STABLE_VIDEO, configs, parts, {}))


@published
def test_published_formats_are_paired_whole_and_give_the_same_arrays(single, folder):
    assert len(single.original.tensors) == 2322 and len(single.original.unused) == 252
    assert single.moves == folder.moves
    assert single.pretrained == folder.pretrained
    assert single.pretrained.model.network == SVDUNetConfig()


@published
def test_published_parameter_counts(single):
    for part, count in PARAMETERS.items():
        moved = (prod(m.shape) for m in single.moves if m.theirs.startswith(f"{part}."))
        assert sum(moved) == count
    assert single.result_bytes("bfloat16") == 2 * sum(PARAMETERS.values())


@published
def test_published_image_decoder_is_paired_whole():
    found = original.single(manifest("svd_image_decoder_original.json"), None, 25)
    assert len(found.unused) == 254 and not found.foreign
    assert architecture.vae(found.configs["vae"]) == SVD_IMAGE_VAE
    built = build_abstract(lambda: SVD_IMAGE_VAE.build(rngs=nnx.Rngs(0)))
    ours = named(nnx.split(built, nnx.Param)[1])
    theirs = {k: info.shape for k, info in found.tensors.items() if k.startswith("vae.")}
    ours = {f"vae/{k}": v.shape for k, v in ours.items()}
    ready, wrong = rules.moves(theirs, ours, STABLE_VIDEO.table)
    assert not wrong and len(ready) == len(theirs) == 248


@published
def test_every_offender_is_named_under_the_name_that_the_file_has(single):
    infos = dict(manifest("svd_original.json").tensors())
    gone = "model.diffusion_model.input_blocks.1.0.emb_layers.1.weight"
    bent = "conditioner.embedders.0.open_clip.model.visual.proj"
    whole = "first_stage_model.decoder.conv_in.weight"
    del infos[gone]
    infos[bent] = infos[bent]._replace(shape=(1280, 7))
    infos[whole] = infos[whole]._replace(dtype="int64")
    infos["model.diffusion_model.extra"] = infos[whole]
    infos["first_stage_model.encoder.extra"] = infos[whole]
    with pytest.raises(Refusal) as refusal:
        plan.plan(original.single(Shapes(infos), single.original.configs, 25))
    text = str(refusal.value)
    assert "\n" not in text and "(5 tensors)" in text
    assert f"{gone} is missing" in text and f"{bent} has the shape [7, 1280]" in text
    assert f"{whole} holds int64" in text
    assert "model.diffusion_model.extra is not" in text
    assert "first_stage_model.encoder.extra is not" in text


@published
def test_another_model_is_refused_by_what_it_lacks():
    infos = dict(manifest("svd_original.json").tensors())
    images = {k: v for k, v in infos.items() if not k.startswith("model.diffusion_model.label")}
    with pytest.raises(Refusal, match=r"no tensor model\.diffusion_model\.label_emb.*not a single"):
        original.single(Shapes(images), None, 25)


PICTURES = {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840}
"""Parameters of Stable Diffusion 2.1."""


def stable_diffusion():
    """Its modules with the settings that are published with it; nothing is allocated."""
    import torch
    from reference import stable_diffusion as theirs

    cross, plain = ["CrossAttnDownBlock2D"] * 3, ["CrossAttnUpBlock2D"] * 3
    with torch.device("meta"):
        return {
            "unet": theirs.unet(
                block_out_channels=(320, 640, 1280, 1280), attention_head_dim=(5, 10, 20, 20),
                down_block_types=[*cross, "DownBlock2D"], up_block_types=["UpBlock2D", *plain],
                cross_attention_dim=1024, layers_per_block=2, sample_size=96,
            ),
            "vae": theirs.autoencoder((128, 256, 512, 512), 2),
            "text_encoder": theirs.text_encoder(
                vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23,
                num_attention_heads=16, max_position_embeddings=77,
            ),
        }  # fmt: skip


@pytest.mark.parity
def test_stable_diffusion_is_paired_whole():
    from reference.stable_diffusion import older_text, older_vae

    modules = stable_diffusion()
    told = {
        "unet": {"_class_name": "UNet2DConditionModel", **modules["unet"].config},
        "vae": {"_class_name": "AutoencoderKL", **modules["vae"].config},
        "text_encoder": modules["text_encoder"].config.to_dict(),
        "scheduler": {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    }
    spelt = {"unet": dict, "vae": older_vae, "text_encoder": older_text}
    parts = {
        part: Shapes(
            {
                name: TensorInfo(tuple(value.shape), "float32", 0, Path(part))
                for name, value in spelt[part](module.state_dict()).items()
            }
        )
        for part, module in modules.items()
    }
    with types_unchecked():
        found = plan.plan(original.folder(STABLE_DIFFUSION, told, parts, {}))
    for part, count in PICTURES.items():
        moved = [prod(m.shape) for m in found.moves if m.theirs.startswith(f"{part}.")]
        assert sum(moved) == count, part
    assert len([m for m in found.moves if m.theirs.startswith("unet.")]) == 686
    assert found.original.unused == ("text_encoder.text_model.embeddings.position_ids",)
    model, video = found.pretrained.model, found.pretrained.task.video
    stage = configs.load("configs/svd_stage1_image.py:levels").model
    assert (model.network, model.vae) == (SVD_PICTURE, stage.vae)
    assert model.text.tower == stage.text.tower
    assert (video.num_frames, video.height, video.width) == (1, 768, 768)


LAYOUTS = {
    "same": (SAME, (3, 4), (3, 4)),
    "vector of heads": (VECTOR, (2, 3), (6,)),
    "negated": (NEGATED, (1,), (1,)),
    "linear": (LINEAR, (3, 4), (4, 3)),
    "linear to heads": (LINEAR, (3, 2, 4), (8, 3)),
    "linear from heads": (LINEAR_OUT, (2, 4, 3), (3, 8)),
    "point": (POINT, (3, 4), (4, 3, 1, 1)),
    "conv": (CONV, (3, 5, 6, 7), (7, 6, 3, 5)),
    "frames": (FRAMES, (3, 1, 6, 7), (7, 6, 3, 1, 1)),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_exact_both_ways(name):
    layout, ours, theirs = LAYOUTS[name]
    assert layout.theirs(ours) == theirs
    array = np.arange(prod(theirs), dtype=np.float32).reshape(theirs)
    brought = layout.bring(array, ours)
    assert brought.shape == ours
    np.testing.assert_array_equal(layout.take(brought, theirs), array)


def test_heads_are_runs_of_the_output():
    weight = np.arange(6 * 2.0, dtype=np.float32).reshape(6, 2)  # out 6 = 3 heads of 2, in 2
    kernel = LINEAR.bring(weight, (2, 3, 2))
    assert kernel[1, 2, 0] == weight[4, 1]


def test_two_rules_for_one_array_are_a_mistake_of_ours():
    with pytest.raises(AssertionError, match="two rules"):
        Table([Rule("a.{}", "x", SAME), Rule("b", "x", SAME)])


def test_numbers_are_plain():
    table = Table([Rule("a.{}.b.0", "c/{}", SAME)])
    assert table.ours("a.12.b.0").name == "c/12" and table.theirs("c/12").name == "a.12.b.0"
    assert table.ours("a.012.b.0") is None and table.ours("a.1.b.1") is None


def test_unused_names_are_exact():
    names = ["first_stage_model.encoder.down.0.block.1.conv1.weight", "first_stage_model.encoder.x"]
    assert list(rules.unused(names, single_file.UNUSED)) == names[:1]


@pytest.mark.parity
def test_text_tower_is_paired_whole():
    from transformers import CLIPTextConfig as TheirConfig
    from transformers import CLIPTextModel

    sizes = {"vocab_size": 50, "max_position_embeddings": 9, "num_hidden_layers": 2}
    model = CLIPTextModel(
        TheirConfig(**sizes, hidden_size=8, intermediate_size=12, num_attention_heads=2)
    )
    prefix = "" if any(k.startswith("text_model.") for k in model.state_dict()) else "text_model."
    theirs = {prefix + name: tuple(value.shape) for name, value in model.named_parameters()}
    config = CLIPTextConfig(vocabulary=50, width=8, hidden=12, layers=2, heads=2, max_tokens=9)
    built = build_abstract(lambda: config.build(rngs=nnx.Rngs(0)))
    ours = {k: v.shape for k, v in named(nnx.split(built, nnx.Param)[1]).items()}
    ready, wrong = rules.moves(theirs, ours, Table(clip.TEXT))
    assert not wrong and len(ready) == len(theirs)
