"""Configs of the parts of a diffusers folder to the configs of this package, and back.

Both directions of one part stand together. What a config says that this package cannot do is
refused by name; what it does not say has the default of diffusers or transformers.
"""

from collections.abc import Sequence
from typing import Any

from vdm_jax.conditioning.text import CLIPTextEncoderConfig
from vdm_jax.convert.config_reader import Config, ConfigReader, class_of
from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion import precond
from vdm_jax.diffusion.precond import V
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.schedule import Karras
from vdm_jax.models.clip_text import CLIPTextConfig
from vdm_jax.models.clip_vision import CLIPVisionConfig
from vdm_jax.models.svd_unet import STABILITY_EPS, SVD_PICTURE, Eps, SVDUNetConfig
from vdm_jax.models.vae import ImageDecoderConfig, TemporalDecoderConfig, VAEConfig
from vdm_jax.nn.mixing import SpaceTime

# ---- The U-Net of videos -------------------------------------------------------------------------

VIDEO_UNET, PICTURE_UNET = "UNetSpatioTemporalConditionModel", "UNet2DConditionModel"
DOWN = ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal")
UP = ("CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal")


def unet(config: Config) -> SVDUNetConfig:
    class_of("unet", config, [VIDEO_UNET])
    read = ConfigReader("unet", config)
    attends = _attending(read, DOWN, UP)
    told = read.number("projection_class_embeddings_input_dim", 768)
    each = read.number("addition_time_embed_dim", 256)
    if told % each:
        raise read.refusal("projection_class_embeddings_input_dim", f"a multiple of {each}")
    made = SVDUNetConfig(
        in_channels=read.number("in_channels", 8),
        heads=read.each("num_attention_heads", (5, 10, 20, 20), len(attends)),
        context_width=read.same("cross_attention_dim", 1024, len(attends)),
        vec_features=told // each,
        vec_width=each,
        **_levels(read, attends),
    )
    read.rest(ignored=("sample_size", "num_frames"))
    return made


def _attending(read: ConfigReader, down: Sequence[str], up: Sequence[str]) -> list[bool]:
    """Of each level, whether its blocks attend; `down` and `up` name those that do, and do not."""
    downs = read.names("down_block_types", (down[0],) * 3 + (down[1],), down)
    ups = read.names("up_block_types", (up[1],) + (up[0],) * 3, up)
    if [down.index(name) for name in downs] != [up.index(name) for name in ups[::-1]]:
        raise read.refusal("up_block_types", "the mirror of down_block_types")
    return [name == down[0] for name in downs]


def _levels(read: ConfigReader, attends: Sequence[bool]) -> dict[str, Any]:
    """What both U-Nets say alike."""
    levels = len(attends)
    layers = read.each("transformer_layers_per_block", 1, levels)
    return {
        "out_channels": read.number("out_channels", 4),
        "widths": read.each("block_out_channels", (320, 640, 1280, 1280), levels),
        "attention_levels": tuple(level for level in range(levels) if attends[level]),
        "blocks": read.same("layers_per_block", 2, levels),
        "transformer_layers": layers[0] if len(set(layers)) == 1 else layers,
    }


def unet_of(config: SVDUNetConfig) -> dict[str, Any]:
    if (
        config.vec_features is None
        or config.groups != 32
        or config.eps != Eps()
        or config.mixing != SpaceTime()
    ):
        raise Refusal("diffusers knows this U-Net only with vec_features, 32 groups and its eps")
    return {
        "_class_name": VIDEO_UNET,
        **_levels_of(config, DOWN, UP),
        "addition_time_embed_dim": config.vec_width,
        "num_attention_heads": list(config.heads),
        "projection_class_embeddings_input_dim": config.vec_features * config.vec_width,
    }


def _levels_of(config: SVDUNetConfig, down: Sequence[str], up: Sequence[str]) -> dict[str, Any]:
    silent = [level not in config.attention_levels for level in range(len(config.widths))]
    layers = config.transformer_layers
    return {
        "block_out_channels": list(config.widths),
        "cross_attention_dim": config.context_width,
        "down_block_types": [down[s] for s in silent],
        "in_channels": config.in_channels,
        "layers_per_block": config.blocks,
        "out_channels": config.out_channels,
        "sample_size": 96,
        "transformer_layers_per_block": layers if isinstance(layers, int) else list(layers),
        "up_block_types": [up[s] for s in silent[::-1]],
    }


# ---- The U-Net of pictures -----------------------------------------------------------------------

PICTURE_DOWN = ("CrossAttnDownBlock2D", "DownBlock2D")
PICTURE_UP = ("CrossAttnUpBlock2D", "UpBlock2D")


def picture_unet(config: Config) -> SVDUNetConfig:
    """That of Stable Diffusion 2. Its `attention_head_dim` is the number of heads of each level."""
    class_of("unet", config, [PICTURE_UNET])
    read = ConfigReader("unet", config)
    if read.get("addition_embed_type", None) is not None:
        raise Refusal(
            "unet: it is told numbers beside a text (Stable Diffusion XL): not known here"
        )
    if read.get("use_linear_projection", False) is not True:
        raise Refusal(
            "unet: use_linear_projection is not true: transformers with convolutions "
            "(Stable Diffusion 1) are not known here; Stable Diffusion 2 is"
        )
    attends = _attending(read, PICTURE_DOWN, PICTURE_UP)
    made = SVDUNetConfig(
        in_channels=read.number("in_channels", 4),
        heads=read.each("attention_head_dim", 8, len(attends)),
        context=SVD_PICTURE.context,
        context_width=read.same("cross_attention_dim", 1280, len(attends)),
        vec_features=None,
        groups=read.number("norm_num_groups", 32),
        eps=STABILITY_EPS,
        mixing=SVD_PICTURE.mixing,
        **_levels(read, attends),
    )
    _check_plain(read)
    return made


def _check_plain(read: ConfigReader) -> None:
    """Refuse what diffusers can do with this U-Net and Stable Diffusion 2 does not."""
    read.only(center_input_sample=False, flip_sin_to_cos=True, freq_shift=0)
    read.only(
        mid_block_type="UNetMidBlock2DCrossAttn", mid_block_only_cross_attention=(None, False)
    )
    read.only(only_cross_attention=False, dual_cross_attention=False, attention_type="default")
    read.only(act_fn="silu", norm_eps=1e-5, time_embedding_type="positional")
    read.only(mid_block_scale_factor=(1, 1.0), resnet_out_scale_factor=(1.0, 1))
    read.only(resnet_time_scale_shift="default", resnet_skip_time_act=False)
    read.only(conv_in_kernel=3, conv_out_kernel=3, downsample_padding=1)
    read.only(class_embeddings_concat=False)
    read.rest(
        ignored=("sample_size", "dropout", "upcast_attention", "addition_embed_type_num_heads")
    )


def picture_unet_of(config: SVDUNetConfig) -> dict[str, Any]:
    if config.vec_features is not None or config.eps != STABILITY_EPS:
        raise Refusal(
            "diffusers knows this U-Net only without vec_features, and with STABILITY_EPS"
        )
    return {
        "_class_name": PICTURE_UNET,
        **_levels_of(config, PICTURE_DOWN, PICTURE_UP),
        "attention_head_dim": list(config.heads),
        "norm_num_groups": config.groups,
        "upcast_attention": True,
        "use_linear_projection": True,
    }


# ---- The autoencoder -----------------------------------------------------------------------------

TEMPORAL_VAE, IMAGE_VAE = "AutoencoderKLTemporalDecoder", "AutoencoderKL"


def vae(config: Config) -> VAEConfig:
    temporal = class_of("vae", config, [TEMPORAL_VAE, IMAGE_VAE]) == TEMPORAL_VAE
    read = ConfigReader("vae", config)
    down = read.names("down_block_types", ("DownEncoderBlock2D",), ("DownEncoderBlock2D",))
    blocks = read.number("layers_per_block", 1)
    decoder = TemporalDecoderConfig(1 if blocks == 1 else 2) if temporal else ImageDecoderConfig()
    read.only(in_channels=3, out_channels=3)
    if not temporal:
        read.names("up_block_types", ("UpDecoderBlock2D",), ("UpDecoderBlock2D",))
        read.only(act_fn="silu", mid_block_add_attention=True, shift_factor=(None, 0.0))
        read.only(use_quant_conv=True, use_post_quant_conv=True)
    made = VAEConfig(
        widths=read.each("block_out_channels", (64,), len(down)),
        blocks=blocks,
        latent_channels=read.number("latent_channels", 4),
        groups=32 if temporal else read.number("norm_num_groups", 32),
        scaling_factor=read.number("scaling_factor", 0.18215),
        decoder=decoder,
    )
    read.rest(ignored=("sample_size", "force_upcast"))
    return made


def vae_of(config: VAEConfig) -> dict[str, Any]:
    levels = len(config.widths)
    shared = {
        "block_out_channels": list(config.widths),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.blocks,
        "out_channels": 3,
        "sample_size": 768,
        "scaling_factor": config.scaling_factor,
    }
    if isinstance(config.decoder, ImageDecoderConfig):
        image = {"act_fn": "silu", "norm_num_groups": config.groups}
        up = ["UpDecoderBlock2D"] * levels
        return {"_class_name": IMAGE_VAE, **shared, **image, "up_block_types": up}
    if config.groups != 32 or config.decoder != TemporalDecoderConfig(1 + (config.blocks > 1)):
        raise Refusal("diffusers knows this autoencoder only with 32 groups and its middle blocks")
    return {"_class_name": TEMPORAL_VAE, **shared}


# ---- The image encoder ---------------------------------------------------------------------------


def image_encoder(config: Config) -> CLIPVisionConfig:
    read = ConfigReader("image_encoder", config)
    read.only(num_channels=3, layer_norm_eps=1e-5, hidden_act=("quick_gelu", "gelu"))
    architectures = config.get("architectures") or ["CLIPVisionModelWithProjection"]
    if architectures != ["CLIPVisionModelWithProjection"]:
        raise read.refusal("architectures", "CLIPVisionModelWithProjection")
    return CLIPVisionConfig(
        width=read.number("hidden_size", 768),
        hidden=read.number("intermediate_size", 3072),
        layers=read.number("num_hidden_layers", 12),
        heads=read.number("num_attention_heads", 12),
        patch_size=read.number("patch_size", 32),
        image_size=read.number("image_size", 224),
        projection=read.number("projection_dim", 512),
        activation=read.get("hidden_act", "quick_gelu"),
    )


def image_encoder_of(config: CLIPVisionConfig) -> dict[str, Any]:
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "attention_dropout": 0.0,
        "hidden_act": config.activation,
        "hidden_size": config.width,
        "image_size": config.image_size,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": config.hidden,
        "layer_norm_eps": 1e-05,
        "model_type": "clip_vision_model",
        "num_attention_heads": config.heads,
        "num_channels": 3,
        "num_hidden_layers": config.layers,
        "patch_size": config.patch_size,
        "projection_dim": config.projection,
    }


# ---- The text encoder ----------------------------------------------------------------------------


def text_encoder(config: Config) -> CLIPTextEncoderConfig:
    read = ConfigReader("text_encoder", config)
    read.only(layer_norm_eps=1e-5, hidden_act=("quick_gelu", "gelu"))
    if (config.get("architectures") or ["CLIPTextModel"]) != ["CLIPTextModel"]:
        raise read.refusal("architectures", "CLIPTextModel")
    tower = CLIPTextConfig(
        vocabulary=read.number("vocab_size", 49408),
        width=read.number("hidden_size", 512),
        hidden=read.number("intermediate_size", 2048),
        layers=read.number("num_hidden_layers", 12),
        heads=read.number("num_attention_heads", 8),
        max_tokens=read.number("max_position_embeddings", 77),
        activation=read.get("hidden_act", "quick_gelu"),
    )
    return CLIPTextEncoderConfig(tower=tower)


def text_encoder_of(config: CLIPTextEncoderConfig) -> dict[str, Any]:
    """Begin, end and padding are as published; the tokenizer's files say what they are."""
    tower = config.tower
    return {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "hidden_act": tower.activation,
        "hidden_size": tower.width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": tower.hidden,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": tower.max_tokens,
        "model_type": "clip_text_model",
        "num_attention_heads": tower.heads,
        "num_hidden_layers": tower.layers,
        "pad_token_id": 1,
        "vocab_size": tower.vocabulary,
    }


# ---- The scheduler -------------------------------------------------------------------------------

EULER: dict[str, Any] = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "trained_betas": None,
    "use_karras_sigmas": True,
}
"""What the published scheduler says; its betas are not used, the sigmas being Karras's."""

NO_BETAS = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "num_train_timesteps",
            "steps_offset", "rescale_betas_zero_snr", "clip_sample", "set_alpha_to_one",
            "skip_prk_steps")  # fmt: skip


def scheduler(config: Config) -> Karras:
    """The noise levels of diffusers' EulerDiscreteScheduler with Karras's sigmas."""
    class_of("scheduler", config, ["EulerDiscreteScheduler"])
    read = ConfigReader("scheduler", config)
    for name in ("prediction_type", "timestep_type", "use_karras_sigmas", "timestep_spacing"):
        if config.get(name) != EULER[name]:
            raise read.refusal(name, repr(EULER[name]))
        read.only(**{name: EULER[name]})
    read.only(interpolation_type="linear", final_sigmas_type="zero")
    read.only(use_exponential_sigmas=(False, None), use_beta_sigmas=(False, None))
    for name in ("sigma_min", "sigma_max"):
        if config.get(name) is None:
            raise read.refusal(name, "a number")
    made = Karras(read.number("sigma_min", 0.002), read.number("sigma_max", 700.0), 7.0)
    read.rest(ignored=NO_BETAS)
    return made


def scheduler_of(process: Process) -> dict[str, Any]:
    schedule = process.schedule
    if not isinstance(schedule, Karras) or schedule.rho != 7 or process.precond != V():
        raise Refusal("diffusers samples this model only with V() and Karras's sigmas of rho 7")
    return euler(schedule.sigma_min, schedule.sigma_max)


def predicted(config: Config) -> precond.Precond:
    """What the network of pictures was asked for; its own noise levels are not taken over."""
    read = ConfigReader("scheduler", config)
    read.only(prediction_type=("epsilon", "v_prediction"))
    known = {"epsilon": precond.Eps(), "v_prediction": V()}
    return known[read.get("prediction_type", "epsilon")]


def euler(sigma_min: float, sigma_max: float) -> dict[str, Any]:
    """The config of the published scheduler."""
    sigmas = {"sigma_max": sigma_max, "sigma_min": sigma_min}
    return {"_class_name": "EulerDiscreteScheduler", **EULER, **sigmas}
