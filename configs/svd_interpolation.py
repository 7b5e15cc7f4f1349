"""Four times the frame rate: of five frames the first and the last are given.

The text-to-video model of stage III with five further input channels, which count for nothing at
first (`adapters.inflate`): the latents of the two frames where they stand, and where that is.

    python -m vdm_jax.train --config configs/svd_interpolation.py

Paper: Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127), section 4.4 and appendix D:
5 frames, 9 input channels with a mask, P_mean 1, P_std 1.2, batch 256, learning rate 1e-4, 10,000
steps, which it finds surprisingly few.

For 16 GPUs or TPU chips of 80 GB and up. Estimate, from 48 TFLOP a clip forward and back, 40 % of
the peak and no layer computed twice: 270 hours of an A100. The paper gives no number; expect a PSNR
of the middle frame above that of the mean of the two ends.

`smoke` begins from nothing, on moving shapes.
"""

from dataclasses import replace

from vdm_jax.adapters.trainable import NETWORK, Selected
from vdm_jax.conditioning.text import CLIPTextEncoderConfig, WordEncoderConfig
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.data.shard import ShardedClips
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.data.transform import Windows
from vdm_jax.diffusion.sampler import Euler
from vdm_jax.models.svd_unet import STABILITY_EPS, SVD_TEXT
from vdm_jax.models.vae import SVD_IMAGE_VAE
from vdm_jax.nn.remat import RematBlocks
from vdm_jax.tasks.stable_interpolation import StableInterpolation
from vdm_jax.tasks.stable_text import TOLD
from vdm_jax.tasks.task import ModelConfig, Sampling, VideoShape
from vdm_jax.train.config import PartFrom, TrainConfig
from vdm_jax.train.optim import AdamW

BEFORE = "runs/svd_stage3_text_to_video"
CHANNELS = 4 + 4 + 1  # noisy latents, given ones, and where there are some
BETWEEN_NETWORK = replace(SVD_TEXT, in_channels=CHANNELS, vec_features=TOLD, eps=STABILITY_EPS)
TASK = StableInterpolation()
CLIPS = ShardedClips(
    directory="data/clips_hq", split="train", windows=Windows(num_frames=5, step=10),
    height=576, width=1024,
)  # fmt: skip
OPTIM = AdamW(learning_rate=1e-4, warmup_steps=500, b2=0.999, weight_decay=0.01)


def config() -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(
            network=replace(BETWEEN_NETWORK, dtype="bfloat16", remat=RematBlocks()),
            text=CLIPTextEncoderConfig(tokenizer="models/sd21/tokenizer"),
            vae=SVD_IMAGE_VAE,
        ),
        task=TASK,
        data=CLIPS,
        held_out=replace(CLIPS, split="test"),
        parts_from=tuple(PartFrom(part, BEFORE) for part in ("network", "vae", "text")),
        trainable=NETWORK,
        frozen_dtype="bfloat16",
        optim=OPTIM,
        mesh=MeshConfig(fsdp=8),
        steps=10_000,
        batch_size=256,
        ema_decay=0.9999,
        save_every=250,
        preview_every=1000,
    )


def smoke() -> TrainConfig:
    """The same parts, tiny: a few seconds after compiling."""
    network = replace(
        BETWEEN_NETWORK, widths=(16,), attention_levels=(), heads=(2,), blocks=1, groups=8,
        context_width=16, vec_width=8,
    )  # fmt: skip
    shapes = MovingShapes(num_frames=5, height=16, width=16)
    return replace(
        config(),
        model=ModelConfig(
            network=network,
            text=WordEncoderConfig(width=16, max_words=8),
            vae=replace(SVD_IMAGE_VAE, widths=(8, 8), blocks=1, groups=4),
        ),
        task=replace(
            TASK,
            video=VideoShape(num_frames=5, height=16, width=16),
            sampling=Sampling(Euler(), num_steps=2),
        ),
        data=replace(shapes, split="train"),
        held_out=replace(shapes, split="test"),
        parts_from=(),
        trainable=Selected(("network.*", "text.*")),
        frozen_dtype="float32",
        optim=replace(OPTIM, learning_rate=1e-3, warmup_steps=2),
        mesh=MeshConfig(),
        steps=4,
        batch_size=8,
        log_every=1,
        save_every=4,
        preview_every=4,
        num_previews=2,
        held_out_samples=8,
    )
