"""Small pipelines of Stable Diffusion 2 of diffusers, every weight drawn at random."""

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from reference.stable_video import randomise
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CONTEXT, LENGTH = 24, 12  # features of a token, tokens of a caption
WORDS = 60  # of the vocabulary; the last two begin and end a caption


def unet(**changes):
    sizes = {
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": (2, 4),
        "cross_attention_dim": CONTEXT,
        "layers_per_block": 1,
        "sample_size": (8, 16),
    }
    fixed = {"use_linear_projection": True, "upcast_attention": True}
    return UNet2DConditionModel(**{**fixed, **sizes, **changes})


def autoencoder(widths=(32, 64), blocks=1):
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=blocks,
    )


def text_encoder(**changes):
    sizes = {
        "vocab_size": WORDS,
        "hidden_size": CONTEXT,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": LENGTH,
        "bos_token_id": WORDS - 2,
        "eos_token_id": WORDS - 1,
        "pad_token_id": 0,
    }
    return CLIPTextModel(CLIPTextConfig(**{**sizes, "hidden_act": "gelu", **changes}))


def pipeline(tokenizer, seed=0):
    """tokenizer: the folder of its files."""
    torch.manual_seed(seed)
    parts = {"unet": unet(), "vae": autoencoder(), "text_encoder": text_encoder()}
    for part in parts.values():
        randomise(part)
    with torch.no_grad():  # so that the eps of the first norms is heard
        parts["unet"].conv_in.weight.mul_(0.01)
        parts["unet"].conv_in.bias.mul_(0.01)
    return StableDiffusionPipeline(
        **parts,
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True),
        scheduler=DDIMScheduler(
            prediction_type="v_prediction",
            steps_offset=1,
            clip_sample=False,
            set_alpha_to_one=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def older_vae(weights):
    """The names that the autoencoder had when Stable Diffusion 2 was published."""
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, array in weights.items():
        for today, before in older.items():
            name = name.replace(f"attentions.0.{today}.", f"attentions.0.{before}.")
        renamed[name] = array
    return renamed


def older_text(weights):
    ids = {"text_model.embeddings.position_ids": np.arange(77)[None]}
    return {f"text_model.{name}": array for name, array in weights.items()} | ids
