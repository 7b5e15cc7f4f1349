"""One model, many tasks: videos from a caption, from some of their frames, or from both.

Moving shapes that bounce from wall to wall: 16 frames are trained on, and any number can follow.
Nothing is downloaded; an oracle reads what was drawn.

    python -m vdm_jax.train --config configs/completion.py
    python -m vdm_jax.sample --task extend --model runs/completion --num-frames 64 \\
        --prompt "a red circle bounces"

The film is what `configs/real_video.py` has; `film_cpu` is a narrower network for two CPU cores:

    python -m vdm_jax.data.film --output data/film
    python -m vdm_jax.train --config configs/completion.py:film_cpu

Paper: mask conditioning as in Align Your Latents (Blattmann et al. 2023, arXiv:2304.08818, section
3.2), in pixels, with the U-Net of Video Diffusion Models (Ho et al. 2022, arXiv:2204.03458).
Two CPU cores take 45 minutes, which is not enough for what it should learn: `python
tests/bench/completion.py runs/completion` says how far it got, and the README has the figures.
`film` is meant for one GPU or TPU. Neither it nor `film_cpu` was run yet.
"""

from dataclasses import replace

from vdm_jax.conditioning.known import AnyFrames, EndFrames, FirstFrames, NoFrames, OneOf
from vdm_jax.conditioning.text import WordEncoderConfig
from vdm_jax.data.paths import Bouncing
from vdm_jax.data.shard import ShardedClips
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.data.transform import Windows
from vdm_jax.diffusion.density import LogitNormal, Uniform
from vdm_jax.diffusion.loss import UniformWeight
from vdm_jax.diffusion.precond import X0
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.sampler import DDIM
from vdm_jax.diffusion.schedule import Cosine, LogSNRShift
from vdm_jax.models.vdm_unet import VDM_SMALL, VDMUNetConfig
from vdm_jax.tasks.completion import Completion, ContextSampling
from vdm_jax.tasks.task import ModelConfig, VideoShape
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.optim import AdamW, CosineDecay

WORDS = WordEncoderConfig(width=64)
# A frame that is not given sees what is given through attention over time, at its own place, and
# over space: both at every level, or little of it gets to where the shape has moved.
NETWORK = replace(
    VDM_SMALL, channels=64, space_attention=(0, 1), head_size=32, patch_size=4, concat_channels=4,
    token_width=WORDS.width,
)  # fmt: skip
SCHEDULE = LogSNRShift(Cosine(), ratio=2.0)  # flat shapes are seen through much noise
TASK = Completion(
    process=Process(
        schedule=SCHEDULE, precond=X0(), density=Uniform(SCHEDULE), weight=UniformWeight()
    ),
    video=VideoShape(num_frames=16, height=32, width=32, fps=8.0),
    sampling=ContextSampling(DDIM(), num_steps=20),
    given=(0, 1, 2, 3),
    known=OneOf((NoFrames(), FirstFrames(8), EndFrames(), AnyFrames()), (0.25, 0.3, 0.1, 0.35)),
    caption_drop=0.1,
)
SHAPES = MovingShapes(num_frames=16, height=32, width=32, path=Bouncing(0.3, 1.0))
OPTIM = AdamW(learning_rate=1.5e-3, decay=CosineDecay(0.02), warmup_steps=50)

FILM_NETWORK = VDMUNetConfig(
    channels=128, multipliers=(1, 2, 4), blocks=2, space_attention=(1, 2),
    time_attention=(0, 1, 2), heads=4, head_size=32, patch_size=4, concat_channels=4,
)  # fmt: skip
FILM_TASK = replace(
    TASK,
    process=Process(
        schedule=Cosine(), precond=X0(), density=LogitNormal(Cosine()), weight=UniformWeight()
    ),
    video=VideoShape(num_frames=16, height=64, width=64, fps=12.0),
    sampling=ContextSampling(DDIM(), num_steps=30),
)
FILM = ShardedClips(
    directory="data/film", split="train", windows=Windows(num_frames=16, every=2, step=4),
    height=64, width=64,
)  # fmt: skip


def config() -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(NETWORK, WORDS),
        task=TASK,
        data=replace(SHAPES, split="train"),
        held_out=replace(SHAPES, split="test"),
        optim=OPTIM,
        steps=3000,
        batch_size=8,
        ema_decay=0.99,
        preview_every=1000,
        save_every=250,
    )


def film() -> TrainConfig:
    """The same of real video: one GPU or TPU."""
    return TrainConfig(
        model=ModelConfig(FILM_NETWORK),
        task=FILM_TASK,
        data=FILM,
        held_out=replace(FILM, split="test", windows=Windows(num_frames=16, every=2)),
        optim=AdamW(learning_rate=3e-4, warmup_steps=100),
        steps=50_000,
        batch_size=32,
        ema_decay=0.999,
        save_every=100,
        preview_every=1000,
    )


def film_cpu() -> TrainConfig:
    """The same clips, a narrower network: two CPU cores."""
    return replace(
        film(),
        model=ModelConfig(replace(FILM_NETWORK, channels=64, multipliers=(1, 2, 2), blocks=1)),
        optim=replace(OPTIM, learning_rate=1e-3),
        steps=1500,
        batch_size=4,
        ema_decay=0.99,
        preview_every=500,
    )


def smoke() -> TrainConfig:
    """The same parts, tiny: a few seconds after compiling."""
    shapes = replace(SHAPES, num_frames=5, height=16, width=16)
    return replace(
        config(),
        model=ModelConfig(replace(NETWORK, channels=8, heads=2, head_size=8, groups=4), WORDS),
        task=replace(
            TASK,
            video=VideoShape(num_frames=5, height=16, width=16),
            sampling=ContextSampling(DDIM(), num_steps=2),
            given=(0, -1),
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
