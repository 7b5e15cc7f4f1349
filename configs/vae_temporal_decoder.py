"""A decoder that mixes frames, for the latents of an autoencoder of pictures: less flicker.

After `configs/vae_image.py`, whose run it begins from (its LPIPS too); the encoder stays as it is,
so that every diffusion model of its latents gets the better decoder:

    python -m vdm_jax.train --config configs/vae_temporal_decoder.py

Paper: Align your Latents (Blattmann et al. 2023, arXiv:2304.08818), section 3.1.1, with the blocks
of Stable Video Diffusion's decoder (arXiv:2311.15127): over time, at first changing nothing, and a
convolution over time at the end, and a discriminator of clips. For one GPU or TPU of 16 GB.

Expect the PSNR of the pictures' autoencoder and less of what changes from frame to frame without
reason. `cpu` follows `configs/vae_image.py:cpu`, by colours alone. `smoke` begins from nothing, on
moving shapes.
"""

from dataclasses import replace

from vdm_jax.adapters.trainable import Selected
from vdm_jax.data.shard import ShardedClips
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.data.transform import Windows
from vdm_jax.models.lpips import LPIPSConfig, RandomLPIPSConfig
from vdm_jax.models.patch_discriminator import PatchDiscriminatorConfig
from vdm_jax.models.vae import TemporalDecoderConfig, VAEConfig
from vdm_jax.tasks.autoencoding import DECODER, Autoencoding
from vdm_jax.tasks.task import ModelConfig, VideoShape
from vdm_jax.train.config import PartFrom, TrainConfig
from vdm_jax.train.judge import PSNRJudge
from vdm_jax.train.optim import AdamW, CosineDecay

BEFORE = "runs/vae_image"
VAE = VAEConfig(widths=(32, 64, 128, 128), decoder=TemporalDecoderConfig())
MODEL = ModelConfig(
    vae=VAE, lpips=LPIPSConfig(), discriminator=PatchDiscriminatorConfig(kernel_frames=3)
)
TASK = Autoencoding(
    video=VideoShape(num_frames=8, height=96, width=160, fps=12.0), kl_weight=0.0, disc_start=1000
)
CLIPS = ShardedClips(
    directory="data/film", split="train", windows=Windows(num_frames=8, every=2, step=4),
    height=96, width=160,
)  # fmt: skip
SHAPES = MovingShapes(num_frames=4, height=16, width=16)
OPTIM = AdamW(learning_rate=1e-4, warmup_steps=200, b1=0.5, b2=0.9, clip_norm=10.0)


def config() -> TrainConfig:
    return TrainConfig(
        model=MODEL,
        task=TASK,
        data=CLIPS,
        held_out=replace(CLIPS, split="test", windows=Windows(num_frames=8, every=2)),
        parts_from=(PartFrom("vae", BEFORE), PartFrom("lpips", BEFORE)),
        trainable=DECODER,
        optim=OPTIM,
        judge=PSNRJudge(num_videos=32),
        steps=10_000,
        batch_size=8,
        ema_decay=0.999,
        save_every=500,
        preview_every=500,
    )


def cpu() -> TrainConfig:
    """After `configs/vae_image.py:cpu`: minutes on two CPU cores."""
    clips = replace(CLIPS, height=48, width=80)
    vae = VAEConfig(widths=(32, 64, 64), blocks=1, decoder=TemporalDecoderConfig(1))
    return replace(
        config(),
        model=ModelConfig(vae=vae),
        task=replace(TASK, video=VideoShape(num_frames=8, height=48, width=80, fps=12.0)),
        data=clips,
        held_out=replace(clips, split="test", windows=Windows(num_frames=8, every=2)),
        parts_from=(PartFrom("vae", BEFORE + "-cpu"),),
        trainable=Selected(("vae.decoder.*",)),
        optim=AdamW(learning_rate=3e-4, decay=CosineDecay(), warmup_steps=20),
        judge=PSNRJudge(num_videos=16),
        steps=200,
        batch_size=2,
        ema_decay=0.95,
        save_every=50,
        preview_every=100,
        held_out_samples=16,
    )


def smoke() -> TrainConfig:
    """The same parts, tiny: a few seconds after compiling."""
    model = ModelConfig(
        vae=replace(VAE, widths=(8, 8), blocks=1, groups=4, decoder=TemporalDecoderConfig(1)),
        lpips=RandomLPIPSConfig(stages=((8,), (8,))),
        discriminator=PatchDiscriminatorConfig(channels=8, layers=1, groups=4, kernel_frames=3),
    )
    return replace(
        config(),
        model=model,
        task=replace(TASK, video=VideoShape(num_frames=4, height=16, width=16), disc_start=3),
        data=replace(SHAPES, split="train"),
        held_out=replace(SHAPES, split="test"),
        parts_from=(),
        optim=replace(OPTIM, learning_rate=1e-3, warmup_steps=2),
        judge=PSNRJudge(num_videos=8),
        steps=6,
        batch_size=8,
        log_every=1,
        save_every=3,
        preview_every=3,
        num_previews=3,
        held_out_samples=8,
    )
