"""Moving shapes: a caption and a first frame become a clip in which the shape moves as told.

The first run on any machine: nothing is downloaded, an oracle grades the result.

    python -m vdm_jax.train --config configs/quickstart.py

Paper: Video Diffusion Models (Ho et al. 2022, arXiv:2204.03458), its factorised U-Net at toy size;
it predicts the clean video, and is drawn by DDIM (Song et al. 2021, arXiv:2010.02502).
"""

from dataclasses import replace

from vdm_jax.conditioning.text import WordEncoderConfig
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.diffusion.density import Uniform
from vdm_jax.diffusion.loss import UniformWeight
from vdm_jax.diffusion.precond import X0
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.sampler import DDIM
from vdm_jax.diffusion.schedule import Cosine, LogSNRShift
from vdm_jax.models.vdm_unet import VDM_SMALL
from vdm_jax.tasks.image_to_video import PICTURE_CHANNELS, TIME_FEATURES, ImageToVideo
from vdm_jax.tasks.task import ModelConfig, Sampling, VideoShape
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.judge import ShapesJudge
from vdm_jax.train.optim import AdamW, CosineDecay

WORDS = WordEncoderConfig(width=64)
NETWORK = replace(
    VDM_SMALL,
    channels=64,
    patch_size=4,
    concat_channels=PICTURE_CHANNELS,
    vec_features=TIME_FEATURES,
    token_width=WORDS.width,
)
# A flat shape is seen through far more noise than a photograph is, and a model that sees where it
# goes need not read the caption: so most levels are noisier than usual (Hoogeboom et al. 2023).
SCHEDULE = LogSNRShift(Cosine(), ratio=2.0)
TASK = ImageToVideo(
    process=Process(
        schedule=SCHEDULE,
        precond=X0(),
        density=Uniform(SCHEDULE),
        weight=UniformWeight(),
    ),
    video=VideoShape(num_frames=8, height=32, width=32, fps=8.0),
    sampling=Sampling(DDIM(), num_steps=12),
    caption_drop=0.05,
    picture_drop=0.05,
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
        judge=ShapesJudge(),
        steps=510,
        batch_size=16,
        ema_decay=0.99,
        preview_every=85,
        save_every=255,
    )


def smoke() -> TrainConfig:
    """The same parts, tiny: a few seconds after compiling."""
    shapes = replace(SHAPES, num_frames=4, height=16, width=16)
    return TrainConfig(
        model=ModelConfig(replace(NETWORK, channels=8, heads=2, head_size=8, groups=4), WORDS),
        task=replace(
            TASK,
            video=VideoShape(num_frames=4, height=16, width=16),
            sampling=Sampling(DDIM(), num_steps=2),
        ),
        data=replace(shapes, split="train"),
        held_out=replace(shapes, split="test"),
        optim=replace(OPTIM, warmup_steps=2),
        judge=ShapesJudge(num_videos=16),
        steps=6,
        batch_size=8,
        log_every=1,
        save_every=3,
        preview_every=3,
        num_previews=3,
        held_out_samples=8,
    )
