"""Stable Video weights of diffusers under the names of Stability's single files.

Written by hand from the format's description, in the other direction than the tables that it tests.
"""

import re

import numpy as np
from diffusers import StableVideoDiffusionPipeline

Arrays = dict[str, np.ndarray]
ENCODER = "conditioner.embedders.3.encoder"
DECODER = "first_stage_model"
CLIP = "conditioner.embedders.0.open_clip.model"
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def tensors(made: StableVideoDiffusionPipeline) -> Arrays:
    """All weights, "part.name"."""
    parts = {"unet": made.unet, "vae": made.vae, "image_encoder": made.image_encoder}
    return {
        f"{part}.{name}": tensor.detach().numpy().copy()
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
        if "position_ids" not in name
    }


def original(made: StableVideoDiffusionPipeline) -> Arrays:
    """The weights as Stability's file has them, without what it never uses."""
    found, named = tensors(made), {}
    for name, array in found.items():
        part, _, rest = name.partition(".")
        if part == "unet":
            named[f"model.diffusion_model.{_unet(rest, made.unet.config)}"] = array
        elif part == "vae":
            key = _vae(rest, len(made.vae.config.block_out_channels))
            square = ".attn_1." in key and key.endswith("weight") and "norm" not in key
            named[key] = array[:, :, None, None] if square else array
        elif "q_proj" in rest:
            thirds = [found[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
            named[_clip(rest).replace("q_proj.", "in_proj_")] = np.concatenate(thirds)
        elif not re.search("[kv]_proj", rest):
            named[_clip(rest)] = array.T if rest == "visual_projection.weight" else array
    return {name: np.ascontiguousarray(array) for name, array in named.items()}


def decoys(named: Arrays, seed: int) -> Arrays:
    """What the original program holds and never runs: another encoder, another decoder, text."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, array in named.items():
        if name.startswith(f"{ENCODER}.encoder."):
            shapes[name.replace(ENCODER, DECODER)] = array.shape
        if name.startswith(f"{DECODER}.decoder.") and "time" not in name and "mix" not in name:
            shapes[name.replace(DECODER, ENCODER)] = array.shape
    shapes |= {f"{ENCODER}.post_quant_conv.weight": (4, 4, 1, 1)}
    shapes |= {f"{ENCODER}.post_quant_conv.bias": (4,), f"{CLIP}.logit_scale": ()}
    shapes |= {f"{CLIP}.token_embedding.weight": (11, 24), f"{CLIP}.text_projection": (24, 24)}
    shapes |= {f"{CLIP}.positional_embedding": (7, 24), f"{CLIP}.ln_final.weight": (24,)}
    shapes |= {f"{CLIP}.ln_final.bias": (24,)}
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def _even(match: re.Match[str]) -> str:
    return str(2 * (int(match[1]) - 1))


def _unet(name: str, config) -> str:
    blocks = config.layers_per_block + 1
    attends = [kind.startswith("Cross") for kind in config.up_block_types]
    name = re.sub(r"^(time|add)_embedding\.linear_(\d)", lambda m: _embedding(m[1], m[2]), name)
    for theirs, ours in (("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"),
                         ("conv_out", "out.2")):  # fmt: skip
        name = re.sub(rf"^{theirs}\.", f"{ours}.", name)
    if match := re.match(r"(down|mid|up)_block(?:s\.(\d+))?\.(\w+)\.(\d+)\.(.*)", name):
        where, level, kind, index, rest = match.groups()
        step, attention = int(level or 0) * blocks, int(kind == "attentions")
        if kind == "downsamplers":
            return f"input_blocks.{step + blocks}.0.{rest.replace('conv', 'op')}"
        if kind == "upsamplers":
            return f"output_blocks.{step + blocks - 1}.{1 + attends[int(level)]}.{rest}"
        place = {
            "down": f"input_blocks.{1 + step + int(index)}.{attention}",
            "up": f"output_blocks.{step + int(index)}.{attention}",
            "mid": f"middle_block.{1 if attention else 2 * int(index)}",
        }[where]
        rest = rest.replace("temporal_transformer_blocks.", "time_stack.")
        rest = re.sub(r"(?<=time_pos_embed\.)linear_(\d)", _even, rest)
        return f"{place}.{_resnet(rest, RESNET)}"
    return name


def _embedding(which: str, number: str) -> str:
    return f"{'time_embed' if which == 'time' else 'label_emb.0'}.{2 * (int(number) - 1)}"


def _resnet(name: str, spatial: dict[str, str]) -> str:
    """The inside of a space-time residual block; anything else as it is."""
    for branch, before, names in (
        ("spatial_res_block.", "", spatial),
        ("temporal_res_block.", "time_stack.", RESNET),
    ):
        if name.startswith(branch):
            layer, _, leaf = name.removeprefix(branch).partition(".")
            return f"{before}{names.get(layer, layer)}.{leaf}"
    return name


def _vae(name: str, levels: int) -> str:
    home = DECODER if "decoder" in name or "post_quant" in name else ENCODER
    for pattern, new in (
        (r"time_conv_out", "conv_out.time_mix_conv"),
        (r"conv_norm_out", "norm_out"),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"mid_block\.attentions\.0\.to_", "mid.attn_1."),
        (r"mid_block\.resnets\.0", "mid.block_1"),
        (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
        (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
        (r"(up_blocks\.\d)\.resnets", r"\1.block"),
        (r"(up_blocks\.\d)\.upsamplers\.0", r"\1.upsample"),
        (r"time_mixer\.mix_factor", "mix_factor"),
        (r"conv_shortcut", "nin_shortcut"),
    ):
        name = re.sub(pattern, new, name)
    name = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}", name)
    if match := re.match(r"(.*?)\.((?:spatial|temporal)_res_block\..*)", name):
        name = f"{match[1]}.{_resnet(match[2], {})}"
    return f"{home}.{name}"


def _clip(name: str) -> str:
    for theirs, ours in (
        ("vision_model.embeddings.patch_embedding", "conv1"),
        ("vision_model.embeddings.position_embedding.weight", "positional_embedding"),
        ("vision_model.embeddings.", ""),
        ("vision_model.pre_layrnorm", "ln_pre"),
        ("vision_model.post_layernorm", "ln_post"),
        ("vision_model.encoder.layers", "transformer.resblocks"),
        ("layer_norm", "ln_"),
        ("self_attn", "attn"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
        ("visual_projection.weight", "proj"),
    ):
        name = name.replace(theirs, ours)
    return f"{CLIP}.visual.{name}"
