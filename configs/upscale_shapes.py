"""Small videos to large ones: moving shapes of 8x8 pixels, four times as high and as wide.

At 8x8 a circle, a square and a triangle are the same few pixels: which one it is the caption says.
Nothing is downloaded.

    python -m vdm_jax.train --config configs/upscale_shapes.py
    python -m vdm_jax.sample --task upscale --model runs/upscale_shapes --video small.mp4 \\
        --prompt "a red circle moves slowly left" --output large.mp4

Papers: Cascaded Diffusion Models (Ho et al. 2021, arXiv:2106.15282) with the U-Net of Video
Diffusion Models (Ho et al. 2022, arXiv:2204.03458), in pixels.
"""

from dataclasses import replace

from vdm_jax.conditioning.text import WordEncoderConfig
from vdm_jax.data.degrade import AreaMean
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.diffusion.density import Uniform
from vdm_jax.diffusion.loss import UniformWeight
from vdm_jax.diffusion.precond import X0
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.sampler import DDIM
from vdm_jax.diffusion.schedule import Cosine, LogSNRShift
from vdm_jax.models.vdm_unet import VDM_SMALL
from vdm_jax.tasks.super_resolution import SuperResolution
from vdm_jax.tasks.task import ModelConfig, Sampling, VideoShape
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.optim import AdamW, CosineDecay

WORDS = WordEncoderConfig(width=64)
NETWORK = replace(VDM_SMALL, channels=64, patch_size=4, concat_channels=4, token_width=WORDS.width)
SCHEDULE = LogSNRShift(Cosine(), ratio=2.0)  # flat shapes are seen through much noise
TASK = SuperResolution(
    process=Process(
        schedule=SCHEDULE, precond=X0(), density=Uniform(SCHEDULE), weight=UniformWeight()
    ),
    video=VideoShape(num_frames=8, height=32, width=32, fps=8.0),
    degrade=AreaMean(4),
    sampling=Sampling(DDIM(), num_steps=12),
    noise_aug=0.05,
    most_noise=0.3,
)
SHAPES = MovingShapes(num_frames=8, height=32, width=32)
OPTIM = AdamW(learning_rate=2e-3, decay=CosineDecay(0.02), warmup_steps=50)


def config() -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(NETWORK, WORDS),
        task=TASK,
        data=replace(SHAPES, split="train"),
        held_out=replace(SHAPES, split="test"),
        optim=OPTIM,
        steps=1000,
        batch_size=16,
        ema_decay=0.99,
        preview_every=250,
        save_every=250,
    )


def smoke() -> TrainConfig:
    """The same parts, tiny: a few seconds after compiling."""
    shapes = replace(SHAPES, num_frames=3, height=16, width=16)
    return replace(
        config(),
        model=ModelConfig(replace(NETWORK, channels=8, heads=2, head_size=8, groups=4), WORDS),
        task=replace(
            TASK,
            video=VideoShape(num_frames=3, height=16, width=16),
            sampling=Sampling(DDIM(), num_steps=2),
        ),
        data=replace(shapes, split="train"),
        held_out=replace(shapes, split="test"),
        optim=replace(OPTIM, warmup_steps=2),
        steps=6,
        batch_size=8,
        log_every=1,
        save_every=3,
        preview_every=3,
        num_previews=3,
        held_out_samples=8,
    )
