"""Small Stable Video Diffusion pipelines of diffusers, every weight drawn at random."""

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection


@dataclass(frozen=True)
class Sizes:
    """What differs between the small pipelines; every group norm has two channels or more."""

    widths: tuple[int, ...] = (64, 128)
    heads: tuple[int, ...] = (2, 4)
    blocks: int = 1
    layers: int = 1
    context: int = 48
    vae: tuple[int, ...] = (32, 64)
    vae_blocks: int = 2
    clip_layers: int = 2


def pipeline(sizes: Sizes, seed: int) -> StableVideoDiffusionPipeline:
    torch.manual_seed(seed)
    levels = len(sizes.widths)
    unet = UNetSpatioTemporalConditionModel(
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * (levels - 1)
        + ("DownBlockSpatioTemporal",),
        up_block_types=("UpBlockSpatioTemporal",)
        + ("CrossAttnUpBlockSpatioTemporal",) * (levels - 1),
        block_out_channels=sizes.widths,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        layers_per_block=sizes.blocks,
        cross_attention_dim=sizes.context,
        transformer_layers_per_block=sizes.layers,
        num_attention_heads=sizes.heads,
        num_frames=14,
    )
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * len(sizes.vae),
        block_out_channels=sizes.vae,
        layers_per_block=sizes.vae_blocks,
        latent_channels=4,
        sample_size=64,
    )
    image_encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            projection_dim=sizes.context,
            num_hidden_layers=sizes.clip_layers,
            num_attention_heads=4,
            image_size=224,
            patch_size=32,
            hidden_act="gelu",
        )
    )
    for module in (unet, vae, image_encoder):
        randomise(module)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        interpolation_type="linear",
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        sigma_max=700.0,
        sigma_min=0.002,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )
    made = StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=image_encoder,
        unet=unet,
        scheduler=scheduler,
        feature_extractor=CLIPImageProcessor(),
    )
    made.set_progress_bar_config(disable=True)
    return made


def randomise(module: torch.nn.Module) -> None:
    """Matrices keep the size of what they act on; scales, shifts and mixers are drawn as well."""
    with torch.no_grad():
        for name, value in module.named_parameters():
            if value.ndim > 1:
                value.normal_(0, value[0].numel() ** -0.5)
            elif name.endswith("weight"):
                value.normal_(1, 0.2)
            else:
                value.normal_(0, 0.3)
    module.eval()


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth colours with some noise, uint8 "h w 3"."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)
