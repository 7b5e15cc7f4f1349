"""The names of the autoencoders in diffusers: AutoencoderKLTemporalDecoder and AutoencoderKL.

In the temporal decoder diffusers weighs the spatial branch where nn.Blend weighs the temporal one:
sigmoid(-x) = 1 - sigmoid(x), so the mixing weights change their sign.
"""

import re

from vdm_jax.convert import layout
from vdm_jax.convert.rules import (
    conv,
    conv_of_frames,
    group_norm,
    linear,
    one,
    point,
    rules,
    under,
)

NORMS = rules(group_norm("norm1"), group_norm("norm2"))
RESNET = rules(NORMS, conv("conv1"), conv("conv2"), point("conv_shortcut"))
TEMPORAL = rules(
    under("spatial_res_block", "space", RESNET),
    under("temporal_res_block", "time", NORMS, conv_of_frames("conv1"), conv_of_frames("conv2")),
    one("time_mixer.mix_factor", "blend/mix", layout.NEGATED),
)
ATTENTION = rules(
    group_norm("group_norm", "norm"),
    linear("to_q"),
    linear("to_k"),
    linear("to_v"),
    linear("to_out.0", "to_out"),
)
ENDS = rules(conv("conv_in"), group_norm("conv_norm_out", "norm_out"), conv("conv_out"))
ENCODER = rules(
    ENDS,
    under("down_blocks.{}", "down/{}", under("resnets.{}", "resnets/{}", RESNET)),
    under("down_blocks.{}", "down/{}", conv("downsamplers.0.conv", "downsample")),
    under("mid_block.resnets.{}", "middle/resnets/{}", RESNET),
    under("mid_block.attentions.0", "middle/attention", ATTENTION),
)
DECODER = rules(
    ENDS,
    conv_of_frames("time_conv_out"),
    under("up_blocks.{}.resnets.{}", "up/{}/resnets/{}", RESNET, TEMPORAL),
    under("up_blocks.{}", "up/{}", conv("upsamplers.0.conv", "upsample/conv")),
    under("mid_block.resnets.{}", "middle/resnets/{}", RESNET, TEMPORAL),
    under("mid_block.attentions.0", "middle/attention", ATTENTION),
)

VAE = rules(
    under("encoder", "encoder", ENCODER),
    under("decoder", "decoder", DECODER),
    point("quant_conv", "quant"),
    point("post_quant_conv", "post_quant"),
)

OLDER = re.compile(r"(.*\.attentions\.0)\.(query|key|value|proj_attn)\.(weight|bias)")
TODAY = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def todays(name: str) -> str:
    """What diffusers calls a tensor since 2023; files from before, Stable Diffusion's, say else."""
    match = OLDER.fullmatch(name)
    return f"{match[1]}.{TODAY[match[2]]}.{match[3]}" if match else name
