"""Two small runs whose videos and weights can be cut in every way: for runs on many layouts.

python -m vdm_jax.train --config tests/topology/configs.py:pixels --mesh.context 2
"""

from vdm_jax.adapters.trainable import NETWORK
from vdm_jax.conditioning.text import WordEncoderConfig
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.diffusion.density import LogNormal
from vdm_jax.diffusion.loss import OutputWeight
from vdm_jax.diffusion.precond import EDM
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.sampler import Euler
from vdm_jax.diffusion.schedule import Karras
from vdm_jax.models.clip_vision import CLIPVisionConfig
from vdm_jax.models.svd_unet import SVDUNetConfig
from vdm_jax.models.vae import VAEConfig
from vdm_jax.models.vdm_unet import VDMUNetConfig
from vdm_jax.tasks.stable_video import FramewiseSampling, StableVideo
from vdm_jax.tasks.task import ModelConfig, Sampling, VideoShape
from vdm_jax.tasks.text_to_video import TextToVideo
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.optim import AdamW

PRECOND = EDM(sigma_data=0.5)
SIZES = {"num_frames": 4, "height": 8, "width": 8}
TIMES = {"steps": 30, "batch_size": 4, "log_every": 1, "save_every": 15, "preview_every": 30,
         "num_previews": 2, "held_out_samples": 4}  # fmt: skip


def pixels() -> TrainConfig:
    """Text to video in pixels, everything trained."""
    words = WordEncoderConfig(width=8)
    return TrainConfig(
        model=ModelConfig(
            network=VDMUNetConfig(
                channels=8, multipliers=(1,), blocks=1, space_attention=(), time_attention=(0,),
                heads=2, head_size=4, groups=4, token_width=words.width,
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
            video=VideoShape(**SIZES, fps=8.0),
            sampling=Sampling(Euler(), num_steps=1),
        ),
        data=shapes("train"),
        held_out=shapes("test"),
        optim=AdamW(learning_rate=1e-3, warmup_steps=5),
        **TIMES,
    )  # fmt: skip


def latents() -> TrainConfig:
    """Stable Video in small: the network alone is trained, the encoders are read."""
    return TrainConfig(
        model=ModelConfig(
            network=SVDUNetConfig(
                widths=(16, 32), attention_levels=(0,), heads=(2, 2), blocks=1, context_width=12,
                vec_width=8, groups=8,
            ),
            vae=VAEConfig(widths=(8, 16), blocks=1, groups=4),
            image_encoder=CLIPVisionConfig(
                width=16, hidden=32, layers=1, heads=2, patch_size=14, image_size=28, projection=12
            ),
        ),
        task=StableVideo(
            video=VideoShape(**SIZES, fps=8.0), sampling=FramewiseSampling(num_steps=2)
        ),
        data=shapes("train"),
        held_out=shapes("test"),
        trainable=NETWORK,
        optim=AdamW(learning_rate=1e-3, warmup_steps=5),
        **TIMES,
    )  # fmt: skip


def shapes(split: str) -> MovingShapes:
    return MovingShapes(split=split, length=50, radius=(0.08, 0.1), **SIZES)
