"""The single files that Stability published (svd, svd_xt, svd_xt_1_1, svd_xt_image_decoder).

Their names are of Stability's generative-models. They become those of the diffusers folder, which
the other tables bring here: so both formats give the same arrays. Not used are the copies that the
original program holds and never runs: the encoder beside the decoder, the decoder beside the
encoder, and what is left of CLIP's text tower.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from vdm_jax.convert.layout import Shape
from vdm_jax.convert.rules import Rule, Rules, Table, rules, under

UNET = "model.diffusion_model"
ENCODER = "conditioner.embedders.3.encoder"
DECODER = "first_stage_model"
CLIP = "conditioner.embedders.0.open_clip.model"


class Form(NamedTuple):
    """What an array of the single file must be to be diffusers': its shape, its values."""

    shape: Callable[[Shape], Shape]
    array: Callable[[np.ndarray], np.ndarray]


SAME = Form(lambda shape: shape, lambda array: array)
TURNED = Form(lambda shape: shape[::-1], lambda array: array.T)
POINT = Form(lambda shape: shape[:2], lambda array: array.reshape(array.shape[:2]))  # (o, i, 1, 1)


def _one(theirs: str, diffusers: str, form: Form = SAME) -> Rules:
    return (Rule(theirs, diffusers, form),)


def _module(theirs: str, diffusers: str = "") -> Rules:
    diffusers = diffusers or theirs
    weight = _one(f"{theirs}.weight", f"{diffusers}.weight")
    return *weight, *_one(f"{theirs}.bias", f"{diffusers}.bias")


def _attending(theirs: str, diffusers: str) -> Rules:
    """A projection of the autoencoder's attention: a 1x1 convolution, a matrix in diffusers."""
    weight = _one(f"{theirs}.weight", f"{diffusers}.weight", POINT)
    return *weight, *_one(f"{theirs}.bias", f"{diffusers}.bias")


# ---- The U-Net -----------------------------------------------------------------------------------

BRANCH = rules(
    _module("in_layers.0", "norm1"),
    _module("in_layers.2", "conv1"),
    _module("out_layers.0", "norm2"),
    _module("out_layers.3", "conv2"),
)
UNET_BRANCH = rules(BRANCH, _module("emb_layers.1", "time_emb_proj"))
MIX = _one("time_mixer.mix_factor", "time_mixer.mix_factor")
RESNET = rules(
    under("", "spatial_res_block", UNET_BRANCH, _module("skip_connection", "conv_shortcut")),
    under("time_stack", "temporal_res_block", UNET_BRANCH),
    MIX,
)
ATTENTION = rules(
    _one("to_q.weight", "to_q.weight"),
    _one("to_k.weight", "to_k.weight"),
    _one("to_v.weight", "to_v.weight"),
    _module("to_out.0"),
)
FEED_FORWARD = rules(_module("net.0.proj"), _module("net.2"))
BLOCK = rules(
    *(_module(name) for name in ("norm1", "norm2", "norm3")),
    *(under(name, name, ATTENTION) for name in ("attn1", "attn2")),
    under("ff", "ff", FEED_FORWARD),
)
TRANSFORMER = rules(
    *(_module(name) for name in ("norm", "proj_in", "proj_out")),
    under("transformer_blocks.{}", "transformer_blocks.{}", BLOCK),
    under("time_stack.{}", "temporal_transformer_blocks.{}", BLOCK, _module("norm_in")),
    under("time_stack.{}.ff_in", "temporal_transformer_blocks.{}.ff_in", FEED_FORWARD),
    _module("time_pos_embed.0", "time_pos_embed.linear_1"),
    _module("time_pos_embed.2", "time_pos_embed.linear_2"),
    MIX,
)


def _level(stage: str, index: int, place: str, which: int, *, attends: int) -> Rules:
    """A residual block of a level and, if it attends, its transformer."""
    resnet = under(f"{stage}.{index}.0", f"{place}.resnets.{which}", RESNET)
    transformer = under(f"{stage}.{index}.1", f"{place}.attentions.{which}", TRANSFORMER)
    return resnet + transformer * attends


def _unet(config: Mapping[str, Any]) -> Rules:
    attends = [int(name.startswith("CrossAttn")) for name in config["down_block_types"]]
    levels, blocks = len(attends), config["layers_per_block"]
    found = list(
        rules(
            *(_module(f"time_embed.{i}", f"time_embedding.linear_{i // 2 + 1}") for i in (0, 2)),
            *(_module(f"label_emb.0.{i}", f"add_embedding.linear_{i // 2 + 1}") for i in (0, 2)),
            _module("input_blocks.0.0", "conv_in"),
            under("middle_block.0", "mid_block.resnets.0", RESNET),
            under("middle_block.1", "mid_block.attentions.0", TRANSFORMER),
            under("middle_block.2", "mid_block.resnets.1", RESNET),
            _module("out.0", "conv_norm_out"),
            _module("out.2", "conv_out"),
        )
    )
    for level in range(levels):
        place, first = f"down_blocks.{level}", 1 + level * (blocks + 1)
        for b in range(blocks):
            found += _level("input_blocks", first + b, place, b, attends=attends[level])
        found += _module(f"input_blocks.{first + blocks}.0.op", f"{place}.downsamplers.0.conv")
    for step in range(levels):
        place, first = f"up_blocks.{step}", step * (blocks + 1)
        attending = attends[levels - 1 - step]
        for b in range(blocks + 1):
            found += _level("output_blocks", first + b, place, b, attends=attending)
        upsample = f"output_blocks.{first + blocks}.{1 + attending}.conv"
        found += _module(upsample, f"{place}.upsamplers.0.conv")
    return tuple(found)


# ---- The autoencoder -----------------------------------------------------------------------------

VAE_RESNET = rules(
    *(_module(name) for name in ("norm1", "conv1", "norm2", "conv2")),
    _module("nin_shortcut", "conv_shortcut"),
)
TEMPORAL_RESNET = rules(
    under("", "spatial_res_block", VAE_RESNET),
    under("time_stack", "temporal_res_block", BRANCH),
    _one("mix_factor", "time_mixer.mix_factor"),
)
VAE_ENDS = rules(_module("conv_in"), _module("norm_out", "conv_norm_out"), _module("conv_out"))
VAE_ATTENTION = rules(
    _module("norm", "group_norm"),
    *(_attending(name, f"to_{name}") for name in "qkv"),
    _attending("proj_out", "to_out.0"),
)


def _middle(resnet: Rules) -> Rules:
    blocks = (under(f"mid.block_{i + 1}", f"mid_block.resnets.{i}", resnet) for i in range(2))
    return rules(*blocks, under("mid.attn_1", "mid_block.attentions.0", VAE_ATTENTION))


VAE_ENCODER = rules(
    VAE_ENDS,
    _middle(VAE_RESNET),
    under("down.{}.block.{}", "down_blocks.{}.resnets.{}", VAE_RESNET),
    _module("down.{}.downsample.conv", "down_blocks.{}.downsamplers.0.conv"),
)


def _vae_decoder(config: Mapping[str, Any]) -> Rules:
    temporal = config["_class_name"] == "AutoencoderKLTemporalDecoder"
    resnet = TEMPORAL_RESNET if temporal else VAE_RESNET
    found = list(rules(VAE_ENDS, _middle(resnet)))
    found += _module("conv_out.time_mix_conv", "time_conv_out") * temporal
    last = len(config["block_out_channels"]) - 1
    for level in range(last + 1):
        place = f"up_blocks.{last - level}"
        found += under(f"up.{level}.block.{{}}", f"{place}.resnets.{{}}", resnet)
        found += _module(f"up.{level}.upsample.conv", f"{place}.upsamplers.0.conv")
    return tuple(found)


def _vae(config: Mapping[str, Any]) -> Rules:
    return rules(
        under(f"{ENCODER}.encoder", "encoder", VAE_ENCODER),
        _module(f"{ENCODER}.quant_conv", "quant_conv"),
        under(f"{DECODER}.decoder", "decoder", _vae_decoder(config)),
        _module(f"{DECODER}.post_quant_conv", "post_quant_conv"),
    )


# ---- CLIP ----------------------------------------------------------------------------------------

CLIP_LAYER = rules(
    _module("ln_1", "layer_norm1"),
    *(_one(f"attn.in_proj_weight[{x}]", f"self_attn.{x}_proj.weight") for x in "qkv"),
    *(_one(f"attn.in_proj_bias[{x}]", f"self_attn.{x}_proj.bias") for x in "qkv"),
    _module("attn.out_proj", "self_attn.out_proj"),
    _module("ln_2", "layer_norm2"),
    _module("mlp.c_fc", "mlp.fc1"),
    _module("mlp.c_proj", "mlp.fc2"),
)
CLIP_VISION = rules(
    _one("class_embedding", "vision_model.embeddings.class_embedding"),
    _one("conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    _one("positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    _module("ln_pre", "vision_model.pre_layrnorm"),
    under("transformer.resblocks.{}", "vision_model.encoder.layers.{}", CLIP_LAYER),
    _module("ln_post", "vision_model.post_layernorm"),
    _one("proj", "visual_projection.weight", TURNED),
)
IN_PROJ = re.compile(r"\.visual\..*\.in_proj_(weight|bias)$")
THIRDS = {"q": 0, "k": 1, "v": 2}  # of an in_proj: the rows of query, key and value

# ---- All -----------------------------------------------------------------------------------------


def table(configs: Mapping[str, Mapping[str, Any]]) -> Table[Form]:
    """Original names to "part.name in diffusers", for a model of these diffusers configs."""
    return Table(
        rules(
            _part("unet", under(UNET, "", _unet(configs["unet"]))),
            _part("vae", _vae(configs["vae"])),
            _part("image_encoder", under(f"{CLIP}.visual", "", CLIP_VISION)),
        )
    )


def _part(name: str, group: Rules) -> Rules:
    """The rules with diffusers' names written as diffusers does: by dots, after their part."""
    return tuple(Rule(t, f"{name}.{d.replace('/', '.')}", form) for t, d, form in group)


def _unused() -> tuple[str, ...]:
    image = {"_class_name": "AutoencoderKL", "block_out_channels": ()}
    copies = rules(
        under(f"{DECODER}.encoder", "", VAE_ENCODER),
        _module(f"{DECODER}.quant_conv"),
        under(f"{ENCODER}.decoder", "", _vae_decoder(image)),
        under(f"{ENCODER}.decoder.up.{{}}.block.{{}}", "", VAE_RESNET),
        under(f"{ENCODER}.decoder.up.{{}}.upsample", "", _module("conv")),
        _module(f"{ENCODER}.post_quant_conv"),
    )
    text = ("token_embedding.weight", "positional_embedding", "text_projection", "logit_scale",
            "ln_final.weight", "ln_final.bias")  # fmt: skip
    return *(rule.theirs for rule in copies), *(f"{CLIP}.{name}" for name in text)


UNUSED = _unused()
"""Templates of the names that hold nothing of the model; 252 of svd's 2,446."""


@runtime_checkable
class Reader(Protocol):
    """What is needed of a file: one tensor by name."""

    def read(self, name: str) -> np.ndarray: ...


def split(shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The names and shapes with each in_proj as its three thirds, "…in_proj_weight[q]"."""
    found: dict[str, Shape] = {}
    for name, shape in shapes.items():
        if IN_PROJ.search(name) and shape and shape[0] % 3 == 0:
            third = (shape[0] // 3, *shape[1:])
            found |= {f"{name}[{x}]": third for x in THIRDS}
        else:
            found[name] = shape
    return found


def whole(name: str) -> str:
    """The tensor in the file that a name of `split` is of."""
    return name.partition("[")[0]


@dataclass(frozen=True)
class Renamed:
    """A single file's tensors under the names of diffusers: `read("unet.conv_in.weight")`."""

    file: Reader
    table: Table[Form]

    def read(self, name: str) -> np.ndarray:
        named = self.table.theirs(name)
        assert named is not None, f"no rule speaks of {name}"
        array = self.file.read(whole(named.name))
        if named.name.endswith("]"):
            start = THIRDS[named.name[-2]] * (len(array) // 3)
            array = array[start : start + len(array) // 3]
        return named.how.array(array)
