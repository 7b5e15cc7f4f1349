"""The smallest run that has all parts: for tests that start and end it many times.

python -m vdm_jax.train --config tests/train/tiny.py
"""

from vdm_jax.conditioning.text import WordEncoderConfig
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.diffusion.density import LogNormal
from vdm_jax.diffusion.loss import OutputWeight
from vdm_jax.diffusion.precond import EDM
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.sampler import Euler
from vdm_jax.diffusion.schedule import Karras
from vdm_jax.models.vdm_unet import VDMUNetConfig
from vdm_jax.tasks.task import ModelConfig, Sampling, VideoShape
from vdm_jax.tasks.text_to_video import TextToVideo
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.optim import AdamW

PRECOND = EDM(sigma_data=0.5)


def config() -> TrainConfig:
    words = WordEncoderConfig(width=8)
    shapes = {"num_frames": 2, "height": 8, "width": 8, "radius": (0.08, 0.1)}
    return TrainConfig(
        model=ModelConfig(
            network=VDMUNetConfig(
                channels=8, multipliers=(1,), blocks=1, space_attention=(), time_attention=(0,),
                heads=1, head_size=8, groups=4, token_width=words.width,
            ),
            text=words,
        ),
        task=TextToVideo(
            process=Process(
                schedule=Karras(sigma_min=0.02, sigma_max=80.0),
                precond=PRECOND,
                density=LogNormal(p_mean=-0.8, p_std=1.4),
                weight=OutputWeight(PRECOND),
            ),
            video=VideoShape(num_frames=2, height=8, width=8, fps=8.0),
            sampling=Sampling(Euler(), num_steps=1),
        ),
        data=MovingShapes(split="train", length=50, **shapes),
        held_out=MovingShapes(split="test", length=10, **shapes),
        optim=AdamW(learning_rate=1e-3, warmup_steps=2),
        steps=40,
        batch_size=2,
        log_every=1,
        save_every=1,
        preview_every=1000,
        num_previews=1,
        held_out_samples=2,
    )  # fmt: skip
