"""Stable Video Diffusion on your own videos: all of its network, its layers over time, or LoRA.

Convert the published weights once, put at least two videos into clips/ (any format, any size, two
seconds or more), then train one of:

    python -m vdm_jax.convert --from svd_xt.safetensors --output models/svd_xt --dtype bfloat16
    python -m vdm_jax.train --config configs/finetune_svd.py:lora      # on one device
    python -m vdm_jax.train --config configs/finetune_svd.py:temporal  # layers over time alone
    python -m vdm_jax.train --config configs/finetune_svd.py           # all 1.52 G parameters

and use what was learnt:

    python -m vdm_jax.sample --model runs/finetune_svd-lora --image a.png --output out.mp4
    python -m vdm_jax.convert --from runs/finetune_svd-lora --to lora --output mine.safetensors
    python -m vdm_jax.convert --from runs/finetune_svd-lora --to diffusers --output exported

Paper: Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127), whose stage at this size
has log sigma ~ N(0.7, 1.6^2), noise on the picture of log strength ~ N(-3, 0.5^2), pictures left
out of 15 % of the samples, and an average of 0.9999. Published trainers of this model take a rate
of 1e-5 for weights and 1e-4 for LoRA. Each clip is told its own frame rate; all are told a motion
of 127. For another length or size give `--task.video.num-frames`, `--data.windows.num-frames` and
the like, and `--compile-only v5e:1x1` to see beforehand whether it fits.

Hardware: by XLA's own compiler for it, `lora` takes 7.9 GB of a TPU v5e's 16.9, all of the network
15.0 GB of each of four; `temporal` was not compiled to the end, so ask as above. Expect the
held-out loss to fall slowly and the samples to take on the look and the motion of the clips within
a thousand steps.
"""

from dataclasses import replace

from vdm_jax.adapters.lora import LoRA
from vdm_jax.adapters.trainable import NETWORK, TIME_LAYERS
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.data.folder import VideoFolder
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.data.transform import Windows
from vdm_jax.diffusion.density import LogNormal
from vdm_jax.models.clip_vision import CLIP_VIT_H, CLIPVisionConfig
from vdm_jax.models.svd_unet import SVD_TINY, SVD_XT
from vdm_jax.models.vae import SVD_VAE, TemporalDecoderConfig, VAEConfig
from vdm_jax.nn.pieces import Chunked
from vdm_jax.nn.remat import RematLayers
from vdm_jax.tasks.stable_video import PROCESS, FramewiseSampling, StableVideo
from vdm_jax.tasks.task import ModelConfig, VideoShape
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.optim import AdamW

MODEL = ModelConfig(
    network=replace(SVD_XT, dtype="bfloat16", remat=RematLayers()),
    vae=replace(SVD_VAE, dtype="bfloat16"),
    image_encoder=replace(CLIP_VIT_H, dtype="bfloat16"),
)
TASK = StableVideo(
    process=replace(PROCESS, density=LogNormal(p_mean=0.7, p_std=1.6)),
    video=VideoShape(num_frames=14, height=320, width=576, fps=7.0),
    decoding=Chunked(2),
)
CLIPS = VideoFolder(
    directory="clips", windows=Windows(num_frames=14, step=7), height=320, width=576, fps=7.0,
    split="train",
)  # fmt: skip


def config() -> TrainConfig:
    """All of the network, on eight devices; `--mesh.fsdp 4` is on four."""
    return TrainConfig(
        model=MODEL,
        task=TASK,
        data=CLIPS,
        held_out=replace(CLIPS, split="test"),
        init_from="models/svd_xt",
        trainable=NETWORK,
        frozen_dtype="bfloat16",
        optim=AdamW(learning_rate=1e-5, warmup_steps=500, b2=0.999, weight_decay=0.01),
        mesh=MeshConfig(data=1, fsdp=8),
        steps=10_000,
        batch_size=8,
        ema_decay=0.9999,
        num_previews=2,
        held_out_samples=16,
    )


def temporal() -> TrainConfig:
    """The layers over time alone: the pictures stay those of the published model."""
    return replace(config(), trainable=TIME_LAYERS)


def lora() -> TrainConfig:
    """A change of rank 16 in every attention: 0.4 % of the network, on one device."""
    return replace(
        config(),
        trainable=LoRA(rank=16),
        optim=AdamW(learning_rate=1e-4, warmup_steps=100, b2=0.999),
        mesh=MeshConfig(),
        steps=3000,
        batch_size=1,
        ema_decay=0.999,
    )


def smoke() -> TrainConfig:
    """`lora`, tiny, on moving shapes and from no weights: a few seconds after compiling."""
    shapes = MovingShapes(num_frames=3, height=16, width=16)
    encoder = CLIPVisionConfig(
        width=16, hidden=32, layers=1, heads=2, patch_size=14, image_size=28,
        projection=SVD_TINY.context_width,
    )  # fmt: skip
    return replace(
        lora(),
        model=ModelConfig(
            network=replace(SVD_TINY, widths=(16, 32), groups=8),
            vae=VAEConfig(widths=(8, 16), blocks=1, groups=4),
            image_encoder=encoder,
        ),
        task=replace(
            TASK,
            video=VideoShape(num_frames=3, height=16, width=16, fps=7.0),
            sampling=FramewiseSampling(num_steps=2),
        ),
        data=replace(shapes, split="train"),
        held_out=replace(shapes, split="test"),
        init_from=None,
        frozen_dtype="float32",
        trainable=LoRA(rank=2),
        optim=AdamW(learning_rate=1e-3, warmup_steps=2),
        steps=6,
        batch_size=8,
        log_every=1,
        save_every=3,
        preview_every=3,
        held_out_samples=8,
    )


def tiny() -> TrainConfig:
    """`smoke` in sizes that diffusers knows too, so that its weights can be exported."""
    small = smoke()
    return replace(
        small,
        model=replace(
            small.model,
            network=replace(SVD_TINY, widths=(32, 64)),
            vae=VAEConfig(widths=(32, 64), blocks=1, decoder=TemporalDecoderConfig(1)),
        ),
        batch_size=2,
        held_out_samples=2,
    )


def tiny_clips() -> TrainConfig:
    """`tiny` on the videos in clips/: what the notebooks are tried with."""
    clips = replace(CLIPS, windows=Windows(num_frames=3, every=3, step=30), height=16, width=16)
    return replace(tiny(), data=clips, held_out=replace(clips, split="test"))
