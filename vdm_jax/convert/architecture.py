"""Configs of the diffusers folder to the configs of this package, and back.

Both directions of one part stand together. What a config says that this package cannot do is
refused by name; what it does not say has the default of diffusers or transformers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.precond import V
from vdm_jax.diffusion.schedule import Karras
from vdm_jax.models.clip_vision import CLIPVisionConfig
from vdm_jax.models.svd_unet import Eps, SVDUNetConfig
from vdm_jax.models.vae import ImageDecoderConfig, TemporalDecoderConfig, VAEConfig
from vdm_jax.tasks.stable_video import PROCESS, StableVideo
from vdm_jax.tasks.task import ModelConfig, Pretrained

Config = Mapping[str, Any]
Number = TypeVar("Number", bound=int | float)


class _Reader:
    """The values of one config.json, each of the kind it must be."""

    def __init__(self, part: str, config: Config):
        self.part, self.config, self.read = part, config, {"_class_name"}

    def get(self, name: str, default: Any) -> Any:
        self.read.add(name)
        return self.config.get(name, default)

    def number(self, name: str, default: Number) -> Number:
        """A number of the default's type above 0."""
        value = self.get(name, default)
        kinds = (int, float) if isinstance(default, float) else (int,)
        if type(value) not in kinds or not 0 < value < float("inf"):
            kind = "number" if isinstance(default, float) else "whole number"
            raise self.refusal(name, f"a {kind} above 0")
        return type(default)(value)

    def each(self, name: str, default: int | tuple[int, ...], levels: int) -> tuple[int, ...]:
        """A whole number for each level, or one for all."""
        value = self.get(name, default)
        values = [value] * levels if type(value) is int else value
        if (
            not isinstance(values, (list, tuple))
            or len(values) != levels
            or not all(type(v) is int and v > 0 for v in values)
        ):
            raise self.refusal(name, f"a whole number above 0, or {levels} of them")
        return tuple(values)

    def same(self, name: str, default: int, levels: int) -> int:
        """A whole number that all levels share."""
        values = self.each(name, default, levels)
        if len(set(values)) > 1:
            raise self.refusal(name, "the same number for every level")
        return values[0]

    def names(self, name: str, default: Sequence[str], allowed: Sequence[str]) -> list[str]:
        values = self.get(name, default)
        if not isinstance(values, (list, tuple)) or not all(v in allowed for v in values):
            raise self.refusal(name, f"a list of {' and '.join(allowed)}")
        return list(values)

    def only(self, **allowed: Any) -> None:
        """Refuse other values than these, each either absent or one of a tuple."""
        for name, values in allowed.items():
            values = values if isinstance(values, tuple) else (values,)
            value = self.get(name, values[0])
            if not any(type(value) is type(v) and value == v for v in values):
                raise self.refusal(name, " or ".join(map(repr, values)))

    def rest(self, ignored: Sequence[str] = ()) -> None:
        """Refuse what was not read, unless it says nothing."""
        for name, value in self.config.items():
            silent = name.startswith("_") or name in ignored or value is None
            if name not in self.read and not silent:
                raise Refusal(f"{self.part}: {name} is {_short(value)}; it is not known here")

    def refusal(self, name: str, want: str) -> Refusal:
        return Refusal(f"{self.part}: {name} is {_short(self.config.get(name))}; {want} is needed")


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 120 else text[:117] + "..."


def _class_of(part: str, config: Config, allowed: Sequence[str]) -> str:
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in allowed:
        raise Refusal(f"{part}: _class_name is {_short(name)}; {' or '.join(allowed)} is needed")
    return name


def pretrained(configs: Mapping[str, Config]) -> Pretrained:
    """The model and task of diffusers configs "unet", "vae", "image_encoder" and "scheduler"."""
    model = ModelConfig(
        network=unet(configs["unet"]),
        vae=vae(configs["vae"]),
        image_encoder=image_encoder(configs["image_encoder"]),
    )
    frames = _Reader("unet", configs["unet"]).number("num_frames", 25)
    task = StableVideo(
        process=replace(PROCESS, schedule=scheduler(configs["scheduler"])),
        video=replace(StableVideo().video, num_frames=frames),
    )
    return Pretrained(model=model, task=task)


def configs_of(held: Any) -> dict[str, dict[str, Any]]:
    """The diffusers configs of a model directory's or a run's config; the inverse of `pretrained`.

    Raises Refusal for what is not Stable Video Diffusion as diffusers knows it.
    """
    model, task = held.model, held.task
    if not isinstance(task, StableVideo) or not isinstance(model.network, SVDUNetConfig):
        raise Refusal(
            f"diffusers has no pipeline for a {type(task).__name__} with a "
            f"{type(model.network).__name__}; only Stable Video Diffusion is exported"
        )
    return {
        "unet": {**_unet_of(model.network), "num_frames": task.video.num_frames},
        "vae": _vae_of(model.vae),
        "image_encoder": _image_encoder_of(model.image_encoder),
        "scheduler": _scheduler_of(task),
    }


# ---- The U-Net -----------------------------------------------------------------------------------

DOWN = ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal")
UP = ("CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal")
DEFAULT_DOWN = (DOWN[0],) * 3 + (DOWN[1],)
DEFAULT_UP = (UP[1],) + (UP[0],) * 3


def unet(config: Config) -> SVDUNetConfig:
    _class_of("unet", config, ["UNetSpatioTemporalConditionModel"])
    read = _Reader("unet", config)
    down = read.names("down_block_types", DEFAULT_DOWN, DOWN)
    up = read.names("up_block_types", DEFAULT_UP, UP)
    levels = len(down)
    if [DOWN.index(name) for name in down] != [UP.index(name) for name in up[::-1]]:
        raise read.refusal("up_block_types", "the mirror of down_block_types")
    told = read.number("projection_class_embeddings_input_dim", 768)
    each = read.number("addition_time_embed_dim", 256)
    if told % each:
        raise read.refusal("projection_class_embeddings_input_dim", f"a multiple of {each}")
    made = SVDUNetConfig(
        in_channels=read.number("in_channels", 8),
        out_channels=read.number("out_channels", 4),
        widths=read.each("block_out_channels", (320, 640, 1280, 1280), levels),
        attention_levels=tuple(i for i, name in enumerate(down) if name == DOWN[0]),
        heads=read.each("num_attention_heads", (5, 10, 20, 20), levels),
        blocks=read.same("layers_per_block", 2, levels),
        transformer_layers=_one_if_same(read.each("transformer_layers_per_block", 1, levels)),
        context_width=read.same("cross_attention_dim", 1024, levels),
        vec_features=told // each,
        vec_width=each,
    )
    read.rest(ignored=("sample_size", "num_frames"))
    return made


def _one_if_same(values: tuple[int, ...]) -> int | tuple[int, ...]:
    return values[0] if len(set(values)) == 1 else values


def _unet_of(config: SVDUNetConfig) -> dict[str, Any]:
    if config.vec_features is None or config.groups != 32 or config.eps != Eps():
        raise Refusal("diffusers knows this U-Net only with vec_features, 32 groups and its eps")
    attends = [level in config.attention_levels for level in range(len(config.widths))]
    layers = config.transformer_layers
    return {
        "_class_name": "UNetSpatioTemporalConditionModel",
        "addition_time_embed_dim": config.vec_width,
        "block_out_channels": list(config.widths),
        "cross_attention_dim": config.context_width,
        "down_block_types": [DOWN[0] if a else DOWN[1] for a in attends],
        "in_channels": config.in_channels,
        "layers_per_block": config.blocks,
        "num_attention_heads": list(config.heads),
        "out_channels": config.out_channels,
        "projection_class_embeddings_input_dim": config.vec_features * config.vec_width,
        "sample_size": 96,
        "transformer_layers_per_block": layers if isinstance(layers, int) else list(layers),
        "up_block_types": [UP[0] if a else UP[1] for a in attends[::-1]],
    }


# ---- The autoencoder -----------------------------------------------------------------------------

TEMPORAL_VAE, IMAGE_VAE = "AutoencoderKLTemporalDecoder", "AutoencoderKL"


def vae(config: Config) -> VAEConfig:
    temporal = _class_of("vae", config, [TEMPORAL_VAE, IMAGE_VAE]) == TEMPORAL_VAE
    read = _Reader("vae", config)
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


def _vae_of(config: VAEConfig) -> dict[str, Any]:
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
    read = _Reader("image_encoder", config)
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


def _image_encoder_of(config: CLIPVisionConfig) -> dict[str, Any]:
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
    _class_of("scheduler", config, ["EulerDiscreteScheduler"])
    read = _Reader("scheduler", config)
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


def _scheduler_of(task: StableVideo) -> dict[str, Any]:
    schedule = task.process.schedule
    if not isinstance(schedule, Karras) or schedule.rho != 7 or task.process.precond != V():
        raise Refusal("diffusers samples Stable Video only with V() and Karras's sigmas of rho 7")
    return euler(schedule.sigma_min, schedule.sigma_max)


def euler(sigma_min: float, sigma_max: float) -> dict[str, Any]:
    """The config of the published scheduler."""
    sigmas = {"sigma_max": sigma_max, "sigma_min": sigma_min}
    return {"_class_name": "EulerDiscreteScheduler", **EULER, **sigmas}
