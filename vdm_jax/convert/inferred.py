"""What a single file does not say, read off its shapes: the configs of the diffusers folder.

Stability's programs fix what shapes do not show: heads of 64 features in the U-Net, of 80 in the
image encoder (OpenCLIP's ViT-H/14), three numbers beside the noise level.
"""

import re
from collections.abc import Mapping
from itertools import takewhile
from math import isqrt
from typing import Any

from vdm_jax.convert.architecture import euler
from vdm_jax.convert.layout import Shape
from vdm_jax.convert.single_file import CLIP, DECODER, ENCODER, UNET
from vdm_jax.core.refusal import Refusal

HEAD_SIZE = 64
CLIP_HEAD_SIZE = 80
MICRO = 3  # frame rate, motion, noise of the picture


class _Shapes:
    """The shapes of a single file, by name; a name that is not there says what the file is not."""

    def __init__(self, shapes: Mapping[str, Shape]):
        self.all = shapes

    def __getitem__(self, name: str) -> Shape:
        if name not in self.all:
            raise Refusal(f"no tensor {name}: not a single file of Stable Video Diffusion")
        return self.all[name]

    def size(self, name: str, axis: int) -> int:
        shape = self[name]
        if not -len(shape) <= axis < len(shape):
            raise Refusal(f"{name} has the shape {list(shape)}, too few dimensions")
        return shape[axis]

    def count(self, template: str) -> int:
        """How many of template.format(0), (1), … there are before the first that is not."""
        present = (template.format(i) in self.all for i in range(len(self.all)))
        return sum(takewhile(bool, present))


def configs(shapes: Mapping[str, Shape], num_frames: int) -> dict[str, dict[str, Any]]:
    """The diffusers configs of each part of a single file with arrays of these shapes.

    Raises Refusal for the file of another model, and for widths that do not divide into heads of
    the published sizes: then the configs must be given.
    """
    found = _Shapes(shapes)
    return {
        "unet": {**_unet(found), "num_frames": num_frames},
        "vae": _vae(found),
        "image_encoder": _image_encoder(found),
        "scheduler": euler(sigma_min=0.002, sigma_max=700.0),
    }


def with_decoder(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> Mapping[str, Any]:
    """An autoencoder's config with the decoder that the single file has: of videos or of images.

    Files with either lie beside one diffusers folder.
    """
    return config if _temporal(shapes) else {**config, "_class_name": "AutoencoderKL"}


def _temporal(shapes: Mapping[str, Shape]) -> bool:
    return any(name.startswith(f"{DECODER}.decoder.conv_out.time_") for name in shapes)


def _unet(shapes: _Shapes) -> dict[str, Any]:
    entry = f"{UNET}.input_blocks"
    last = max(_numbers(shapes, rf"{re.escape(entry)}\.(\d+)\.0\.in_layers\.2\.weight"), default=1)
    downs = [i for i in range(last + 1) if f"{entry}.{i}.0.op.weight" in shapes.all]
    blocks = downs[0] - 1 if downs else last
    first = [1 + level * (blocks + 1) for level in range(len(downs) + 1)]
    attends = [f"{entry}.{i}.1.norm.weight" in shapes.all for i in first]
    widths = [shapes.size(f"{entry}.{i}.0.in_layers.2.weight", 0) for i in first]
    middle = f"{UNET}.middle_block.1"
    places = [f"{entry}.{i}.1" if a else middle for i, a in zip(first, attends, strict=True)]
    told = shapes.size(f"{UNET}.label_emb.0.0.weight", 1)
    return {
        "_class_name": "UNetSpatioTemporalConditionModel",
        "in_channels": shapes.size(f"{entry}.0.0.weight", 1),
        "out_channels": shapes.size(f"{UNET}.out.2.weight", 0),
        "down_block_types": [f"{'CrossAttn' * a}DownBlockSpatioTemporal" for a in attends],
        "up_block_types": [f"{'CrossAttn' * a}UpBlockSpatioTemporal" for a in attends[::-1]],
        "block_out_channels": widths,
        "addition_time_embed_dim": told // MICRO,
        "projection_class_embeddings_input_dim": told,
        "layers_per_block": blocks,
        "cross_attention_dim": shapes.size(f"{middle}.transformer_blocks.0.attn2.to_k.weight", 1),
        "transformer_layers_per_block": [
            shapes.count(f"{place}.transformer_blocks.{{}}.norm1.weight") for place in places
        ],
        "num_attention_heads": [_heads("the U-Net", width, HEAD_SIZE) for width in widths],
    }


def _vae(shapes: _Shapes) -> dict[str, Any]:
    down = f"{ENCODER}.encoder.down"
    levels = shapes.count(f"{down}.{{}}.block.0.conv1.weight")
    temporal = _temporal(shapes.all)
    return {
        "_class_name": "AutoencoderKLTemporalDecoder" if temporal else "AutoencoderKL",
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        **({} if temporal else {"up_block_types": ["UpDecoderBlock2D"] * levels}),
        "block_out_channels": [
            shapes.size(f"{down}.{i}.block.0.conv1.weight", 0) for i in range(levels)
        ],
        "layers_per_block": shapes.count(f"{down}.0.block.{{}}.conv1.weight"),
        "latent_channels": shapes.size(f"{ENCODER}.quant_conv.weight", 0) // 2,
        "scaling_factor": 0.18215,
    }


def _image_encoder(shapes: _Shapes) -> dict[str, Any]:
    visual = f"{CLIP}.visual"
    width, patch = (shapes.size(f"{visual}.conv1.weight", axis) for axis in (0, 2))
    layer = f"{visual}.transformer.resblocks"
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "hidden_size": width,
        "intermediate_size": shapes.size(f"{layer}.0.mlp.c_fc.weight", 0),
        "projection_dim": shapes.size(f"{visual}.proj", 1),
        "num_hidden_layers": shapes.count(f"{layer}.{{}}.ln_1.weight"),
        "num_attention_heads": _heads("the image encoder", width, CLIP_HEAD_SIZE),
        "image_size": patch * isqrt(shapes.size(f"{visual}.positional_embedding", 0) - 1),
        "patch_size": patch,
        "hidden_act": "gelu",
    }


def _heads(what: str, width: int, size: int) -> int:
    if width % size:
        raise Refusal(
            f"{what} has layers of {width} channels, which do not divide into heads of {size} as "
            "published; say how many heads there are with --configs DIR, a diffusers folder"
        )
    return width // size


def _numbers(shapes: _Shapes, pattern: str) -> list[int]:
    found = (re.fullmatch(pattern, name) for name in shapes.all)
    numbers = (int(match[1][:9]) for match in found if match)
    return [number for number in numbers if number < len(shapes.all)]
