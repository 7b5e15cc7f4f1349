"""Stage III of Stable Video Diffusion: from a text to a video of high resolution.

The video model of stage II on about a million clips of high quality, 14 frames of 576x1024:

    python -m vdm_jax.train --config configs/svd_stage3_text_to_video.py

Paper: Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127), section 4.2 and appendix D:
P_mean 0.5, P_std 1.4, batch 768, learning rate 3e-5, 50,000 steps, captions hidden in 15 %, EMA
0.9999. Its weights were never published; configs/svd_interpolation.py begins from them.

For 64 GPUs or TPU chips of 80 GB and up. Estimate, from 134 TFLOP a clip forward and back, 40 % of
the peak and no layer computed twice: 11,500 hours of an A100. The number to expect: FVD 242 on
UCF-101 without training on it (the paper's, of the base model; see configs/svd_stage2_video.py).

`smoke` begins from nothing, on moving shapes.
"""

from dataclasses import replace

from vdm_jax.adapters.trainable import NETWORK, Selected
from vdm_jax.conditioning.text import CLIPTextEncoderConfig, WordEncoderConfig
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.data.shard import ShardedClips
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.data.transform import Windows
from vdm_jax.diffusion.density import LogNormal
from vdm_jax.diffusion.sampler import Euler
from vdm_jax.models.svd_unet import STABILITY_EPS, SVD_TEXT
from vdm_jax.models.vae import SVD_IMAGE_VAE
from vdm_jax.nn.remat import RematBlocks
from vdm_jax.tasks.latent import PROCESS
from vdm_jax.tasks.stable_text import TOLD, StableText
from vdm_jax.tasks.task import ModelConfig, Sampling, VideoShape
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.optim import AdamW

VIDEO_NETWORK = replace(SVD_TEXT, vec_features=TOLD, eps=STABILITY_EPS)
TASK = StableText(
    process=replace(PROCESS, density=LogNormal(p_mean=0.5, p_std=1.4)),
    video=VideoShape(num_frames=14, height=576, width=1024, fps=7.0),
)
CLIPS = ShardedClips(
    directory="data/clips_hq", split="train", windows=Windows(num_frames=14, every=4, step=28),
    height=576, width=1024,
)  # fmt: skip
OPTIM = AdamW(learning_rate=3e-5, warmup_steps=1000, b2=0.999, weight_decay=0.01)


def config() -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(
            network=replace(VIDEO_NETWORK, dtype="bfloat16", remat=RematBlocks()),
            text=CLIPTextEncoderConfig(tokenizer="models/sd21/tokenizer"),
            vae=SVD_IMAGE_VAE,
        ),
        task=TASK,
        data=CLIPS,
        held_out=replace(CLIPS, split="test"),
        init_from="runs/svd_stage2_video-larger",
        trainable=NETWORK,
        frozen_dtype="bfloat16",
        optim=OPTIM,
        mesh=MeshConfig(fsdp=8),
        steps=50_000,
        batch_size=768,
        ema_decay=0.9999,
        save_every=250,
        preview_every=5000,
    )


def smoke() -> TrainConfig:
    """The same parts, tiny: a few seconds after compiling."""
    network = replace(
        VIDEO_NETWORK, widths=(16,), attention_levels=(), heads=(2,), blocks=1, groups=8,
        context_width=16, vec_width=8,
    )  # fmt: skip
    shapes = MovingShapes(num_frames=3, height=16, width=16)
    return replace(
        config(),
        model=ModelConfig(
            network=network,
            text=WordEncoderConfig(width=16, max_words=8),
            vae=replace(SVD_IMAGE_VAE, widths=(8, 8), blocks=1, groups=4),
        ),
        task=replace(
            TASK,
            video=VideoShape(num_frames=3, height=16, width=16),
            sampling=Sampling(Euler(), num_steps=2, guidance_scale=2.0),
        ),
        data=replace(shapes, split="train"),
        held_out=replace(shapes, split="test"),
        init_from=None,
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
