"""The names of two U-Nets in diffusers: of Stable Video Diffusion, and of Stable Diffusion 2.

UNetSpatioTemporalConditionModel and UNet2DConditionModel. Of the layers over space the second has
the same names, but for those of residual blocks, which stand alone there.
"""

from vdm_jax.convert.rules import (
    Rules,
    conv,
    conv_of_frames,
    group_norm,
    layer_norm,
    linear,
    linear_out,
    one,
    point,
    rules,
    unbiased,
    under,
)

EMBEDDING = rules(linear("linear_1"), linear("linear_2"))
RESNET = rules(group_norm("norm1"), group_norm("norm2"), linear("time_emb_proj"))
SPACE = rules(RESNET, conv("conv1"), conv("conv2"), point("conv_shortcut"))
RESNETS = rules(
    under("spatial_res_block", "space", SPACE),
    under("temporal_res_block", "time", RESNET, conv_of_frames("conv1"), conv_of_frames("conv2")),
    one("time_mixer.mix_factor", "blend/mix"),
)
ATTENTION = rules(
    unbiased("to_q"), unbiased("to_k"), unbiased("to_v"), linear_out("to_out.0", "to_out")
)
FEED_FORWARD = rules(linear("net.0.proj", "proj"), linear("net.2", "out"))
BLOCK = rules(
    layer_norm("norm1"),
    layer_norm("norm2"),
    layer_norm("norm3"),
    under("attn1", "attn1", ATTENTION),
    under("attn2", "attn2", ATTENTION),
    under("ff", "ff", FEED_FORWARD),
)
BEFORE = rules(layer_norm("norm_in"), under("ff_in", "ff_in", FEED_FORWARD))
PROJECTIONS = rules(group_norm("norm"), linear("proj_in"), linear("proj_out"))
TRANSFORMERS = rules(
    PROJECTIONS,
    under("transformer_blocks.{}", "space/{}", BLOCK),
    under("temporal_transformer_blocks.{}", "time/{}", BLOCK, BEFORE),
    under("time_pos_embed", "frame_embedding", EMBEDDING),
    one("time_mixer.mix_factor", "blend/mix"),
)
PICTURE_TRANSFORMERS = rules(PROJECTIONS, under("transformer_blocks.{}", "space/{}", BLOCK))


def _whole(resnets: Rules, transformers: Rules) -> Rules:
    """A U-Net of such blocks."""
    stage = rules(
        under("resnets.{}", "resnets/{}", resnets),
        under("attentions.{}", "transformers/{}", transformers),
    )
    return rules(
        under("time_embedding", "time_embedding", EMBEDDING),
        conv("conv_in"),
        under("down_blocks.{}", "down/{}", stage, conv("downsamplers.0.conv", "downsample")),
        under("mid_block", "middle", stage),
        under("up_blocks.{}", "up/{}", stage, conv("upsamplers.0.conv", "upsample/conv")),
        group_norm("conv_norm_out", "norm_out"),
        conv("conv_out"),
    )


UNET = rules(_whole(RESNETS, TRANSFORMERS), under("add_embedding", "add_embedding", EMBEDDING))
PICTURE_UNET = _whole(under("", "space", SPACE), PICTURE_TRANSFORMERS)
