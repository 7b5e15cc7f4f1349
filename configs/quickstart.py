"""Moving shapes: a caption and a first frame become a clip in which the shape moves as told.

The first run on any machine: nothing is downloaded, an oracle grades the result.

    python -m vdm_jax.train --config configs/quickstart.py

Paper: Video Diffusion Models (Ho et al. 2022, arXiv:2204.03458), its factorised U-Net at toy size,
in the parameterisation of EDM (Karras et al. 2022, arXiv:2206.00364).
"""

from dataclasses import replace

from vdm_jax.conditioning.text import WordEncoderConfig
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.diffusion.density import LogNormal
from vdm_jax.diffusion.loss import OutputWeight
from vdm_jax.diffusion.precond import EDM
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.sampler import Heun
from vdm_jax.diffusion.schedule import Karras
from vdm_jax.models.vdm_unet import VDM_SMALL
from vdm_jax.tasks.denoising import Sampling
from vdm_jax.tasks.image_to_video import PICTURE_CHANNELS, ImageToVideo
from vdm_jax.tasks.task import ModelConfig, VideoShape
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.judge import ShapesJudge
from vdm_jax.train.optim import AdamW, CosineDecay

PRECOND = EDM(sigma_data=0.5)


def config() -> TrainConfig:
    words = WordEncoderConfig(width=64)
    return TrainConfig(
        model=ModelConfig(
            network=replace(VDM_SMALL, concat_channels=PICTURE_CHANNELS, token_width=words.width),
            text=words,
        ),
        task=ImageToVideo(
            process=Process(
                schedule=Karras(sigma_min=0.02, sigma_max=80.0),
                precond=PRECOND,
                density=LogNormal(p_mean=-0.8, p_std=1.4),
                weight=OutputWeight(PRECOND),
            ),
            video=VideoShape(num_frames=8, height=32, width=32, fps=8.0),
            sampling=Sampling(Heun(), num_steps=12),
        ),
        data=MovingShapes(split="train"),
        held_out=MovingShapes(split="test"),
        optim=AdamW(learning_rate=2e-3, decay=CosineDecay(0.02), warmup_steps=50),
        steps=1000,
        batch_size=16,
        ema_decay=0.99,
        judge=ShapesJudge(),
        preview_every=250,
        save_every=250,
    )


def smoke() -> TrainConfig:
    """The same parts, tiny: a few seconds after compiling."""
    full = config()
    network = replace(full.model.network, channels=8, heads=2, head_size=8, groups=4)
    return replace(
        full,
        model=replace(full.model, network=network),
        task=replace(
            full.task,
            video=replace(full.task.video, num_frames=4, height=16, width=16),
            sampling=Sampling(Heun(), num_steps=2),
        ),
        data=replace(full.data, num_frames=4, height=16, width=16),
        held_out=replace(full.held_out, num_frames=4, height=16, width=16),
        judge=ShapesJudge(num_videos=16),
        optim=replace(full.optim, warmup_steps=2),
        steps=6,
        batch_size=8,
        log_every=1,
        preview_every=3,
        save_every=3,
        held_out_samples=8,
        num_previews=3,
    )
