"""The pipelines of diffusers that are known here: what a folder of each holds, what that becomes.

Stable Video Diffusion comes over whole and does here what it did there. Of Stable Diffusion 2 only
the weights do: it was trained at the 1000 noise levels of a discrete process, told by their number,
and this package knows levels as EDM does, told as log(sigma) / 4. The network answers the same to
the same numbers; as a model of pictures it is of use once the first stage of training
(configs/svd_stage1_image.py) has taught it what the new numbers mean.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from vdm_jax.conditioning.text import CLIPTextEncoderConfig
from vdm_jax.convert import architecture, clip, unet, vae
from vdm_jax.convert.config_reader import Config, ConfigReader, class_of
from vdm_jax.convert.layout import Layout
from vdm_jax.convert.rules import Table, rules, under
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.svd_unet import SVDUNetConfig
from vdm_jax.models.vae import VAEConfig
from vdm_jax.nn.mixing import FrameByFrame
from vdm_jax.sample.load import Described
from vdm_jax.tasks.latent import PROCESS
from vdm_jax.tasks.stable_text import StableText
from vdm_jax.tasks.stable_video import StableVideo
from vdm_jax.tasks.task import ModelConfig, Pretrained, VideoShape

Configs = Mapping[str, Config]
"""The config of each part, and of the scheduler."""

CONFIG_FILES = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "image_encoder": "image_encoder/config.json",
    "text_encoder": "text_encoder/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}
TOKENIZER = "tokenizer"  # the folder of its files, with them and in a model directory


@dataclass(frozen=True)
class Pipeline:
    """One row: a pipeline's class in diffusers, its model's name, and how both sides correspond.

    unet: the class of its U-Net. parts: the folders of weights. table: the names of all tensors,
    "part.name" there. silent: tensors that some files hold and no program reads.
    pretrained: the model and task here; raises Refusal for a config that this package cannot hold.
    configs: back, for a model that `holds`. others: what else its index names.
    """

    name: str
    title: str
    unet: str
    parts: tuple[str, ...]
    table: Table[Layout]
    silent: tuple[str, ...]
    pretrained: Callable[[Configs], Pretrained]
    holds: Callable[[Described], bool]
    configs: Callable[[Any], dict[str, dict[str, Any]]]
    others: Mapping[str, Any]


# ---- Stable Video Diffusion ----------------------------------------------------------------------


def _video(configs: Configs) -> Pretrained:
    model = ModelConfig(
        network=architecture.unet(configs["unet"]),
        vae=architecture.vae(configs["vae"]),
        image_encoder=architecture.image_encoder(configs["image_encoder"]),
    )
    frames = ConfigReader("unet", configs["unet"]).number("num_frames", 25)
    task = StableVideo(
        process=replace(PROCESS, schedule=architecture.scheduler(configs["scheduler"])),
        video=replace(StableVideo().video, num_frames=frames),
    )
    return Pretrained(model=model, task=task)


def _is_video(held: Described) -> bool:
    return isinstance(held.task, StableVideo) and isinstance(held.model.network, SVDUNetConfig)


def _video_configs(held: Any) -> dict[str, dict[str, Any]]:
    model, task = held.model, held.task
    return {
        "unet": {**architecture.unet_of(model.network), "num_frames": task.video.num_frames},
        "vae": architecture.vae_of(model.vae),
        "image_encoder": architecture.image_encoder_of(model.image_encoder),
        "scheduler": architecture.scheduler_of(task.process),
    }


STABLE_VIDEO = Pipeline(
    name="StableVideoDiffusionPipeline",
    title="Stable Video Diffusion",
    unet=architecture.VIDEO_UNET,
    parts=("unet", "vae", "image_encoder"),
    table=Table(
        rules(
            under("unet", "network", unet.UNET),
            under("vae", "vae", vae.VAE),
            under("image_encoder", "image_encoder", clip.VISION),
        )
    ),
    silent=("image_encoder.vision_model.embeddings.position_ids",),
    pretrained=_video,
    holds=_is_video,
    configs=_video_configs,
    others={"feature_extractor": ["transformers", "CLIPImageProcessor"]},
)

# ---- Stable Diffusion 2 --------------------------------------------------------------------------


def _pictures(configs: Configs) -> Pretrained:
    network = architecture.picture_unet(configs["unet"])
    autoencoder = architecture.vae(configs["vae"])
    text = replace(architecture.text_encoder(configs["text_encoder"]), tokenizer=TOKENIZER)
    if text.tower.width != network.context_width:
        raise Refusal(
            f"unet: cross_attention_dim is {network.context_width}; text_encoder: hidden_size is "
            f"{text.tower.width}; the same is needed"
        )
    rows, columns = ConfigReader("unet", configs["unet"]).each("sample_size", 64, 2)
    stride = autoencoder.stride
    task = StableText(
        process=replace(PROCESS, precond=architecture.predicted(configs["scheduler"])),
        video=VideoShape(num_frames=1, height=rows * stride, width=columns * stride, fps=7.0),
    )
    return Pretrained(model=ModelConfig(network=network, text=text, vae=autoencoder), task=task)


def _is_pictures(held: Described) -> bool:
    network = held.model.network
    return (
        isinstance(held.task, StableText)
        and isinstance(network, SVDUNetConfig)
        and network.mixing == FrameByFrame()
        and isinstance(held.model.vae, VAEConfig)
        and isinstance(held.model.text, CLIPTextEncoderConfig)
    )


def _picture_configs(held: Any) -> dict[str, dict[str, Any]]:
    model, video = held.model, held.task.video
    size = [video.height // model.vae.stride, video.width // model.vae.stride]
    return {
        "unet": {**architecture.picture_unet_of(model.network), "sample_size": size},
        "vae": architecture.vae_of(model.vae),
        "text_encoder": architecture.text_encoder_of(model.text),
        "scheduler": architecture.scheduler_of(held.task.process),
    }


STABLE_DIFFUSION = Pipeline(
    name="StableDiffusionPipeline",
    title="Stable Diffusion 2",
    unet=architecture.PICTURE_UNET,
    parts=("unet", "vae", "text_encoder"),
    table=Table(
        rules(
            under("unet", "network", unet.PICTURE_UNET),
            under("vae", "vae", vae.VAE),
            under("text_encoder", "text/tower", clip.TEXT),
        )
    ),
    silent=("text_encoder.text_model.embeddings.position_ids",),
    pretrained=_pictures,
    holds=_is_pictures,
    configs=_picture_configs,
    others={
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
    },
)

# ---- All -----------------------------------------------------------------------------------------

ALL = (STABLE_VIDEO, STABLE_DIFFUSION)

TODAYS: Mapping[str, Callable[[str], str]] = {"vae": vae.todays, "text_encoder": clip.prefixed}
"""Of a part whose tensors libraries have renamed: the name that its table knows."""


def called(name: object, where: object) -> Pipeline:
    """That of a class; where: what says so, for the message."""
    for pipeline in ALL:
        if pipeline.name == name:
            return pipeline
    wanted = " or a ".join(pipeline.name for pipeline in ALL)
    raise Refusal(f"{where} is of a {str(name)[:80]}; a {wanted} is needed")


def with_unet(config: Config) -> Pipeline:
    """That which has a U-Net of this config."""
    name = class_of("unet", config, [pipeline.unet for pipeline in ALL])
    return next(pipeline for pipeline in ALL if pipeline.unet == name)


def of(held: Described) -> Pipeline:
    """That which can hold a model directory's or a run's model. Raises Refusal for others."""
    for pipeline in ALL:
        if pipeline.holds(held):
            return pipeline
    titles = " and ".join(pipeline.title for pipeline in ALL)
    raise Refusal(
        f"diffusers has no pipeline for a {type(held.task).__name__} with a "
        f"{type(held.model.network).__name__}; only {titles} are exported"
    )
