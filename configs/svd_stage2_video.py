"""Stage II of Stable Video Diffusion: the picture model learns to move, on very many videos.

The network of stage I with layers over time, which at first change nothing (`adapters.inflate`),
told the frame rate and the amount of motion, on videos with pictures beside them; then larger:

    python -m vdm_jax.train --config configs/svd_stage2_video.py
    python -m vdm_jax.train --config configs/svd_stage2_video.py:larger

Paper: Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127), section 4.2 and appendix D.
14 frames of 256x384: EDM's own density, batch 1536, learning rate 1e-4, 150,000 steps. 14 frames of
320x576: P_mean 0, P_std 1, batch 768, 100,000 steps. All layers are trained. How many pictures
stand beside the videos is not stated; here four, as many frames as there are of video and a third.
data/clips and data/pictures hold shards with captions; clips that do not say how much they move are
told as 127.

For 64 GPUs or TPU chips of 80 GB and up. Estimates, from 18.8 and 36.5 TFLOP a clip forward and
back, 40 % of the peak and no layer computed twice: 9,600 and 6,200 hours of an A100. The number to
expect after stage III: FVD 242 on UCF-101 without training on it (the paper's; 16 frames at 25 fps,
guidance 7). Latents take a fifth of the time: compute them once (`vdm_jax.train.latents`).

`smoke` begins from nothing, on moving shapes.
"""

from dataclasses import replace

from vdm_jax.adapters.trainable import NETWORK, Selected
from vdm_jax.conditioning.text import CLIPTextEncoderConfig, WordEncoderConfig
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.data.joint import WithPictures
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
from vdm_jax.train.config import PartFrom, TrainConfig
from vdm_jax.train.optim import AdamW

BEFORE = "runs/svd_stage1_image"
VIDEO_NETWORK = replace(SVD_TEXT, vec_features=TOLD, eps=STABILITY_EPS)
TASK = StableText(
    process=replace(PROCESS, density=LogNormal(p_mean=-1.2, p_std=1.2)),
    video=VideoShape(num_frames=14, height=256, width=384, fps=7.0),
)
CLIPS = ShardedClips(
    directory="data/clips", split="train", windows=Windows(num_frames=14, every=4, step=28),
    height=256, width=384,
)  # fmt: skip
PICTURES = replace(CLIPS, directory="data/pictures", windows=Windows(num_frames=1))
BESIDE = 4  # pictures beside each video
OPTIM = AdamW(learning_rate=1e-4, warmup_steps=1000, b2=0.999, weight_decay=0.01)


def config() -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(
            network=replace(VIDEO_NETWORK, dtype="bfloat16", remat=RematBlocks()),
            text=CLIPTextEncoderConfig(tokenizer="models/sd21/tokenizer"),
            vae=SVD_IMAGE_VAE,
        ),
        task=TASK,
        data=WithPictures(videos=CLIPS, pictures=PICTURES, count=BESIDE),
        held_out=replace(CLIPS, split="test"),
        parts_from=tuple(PartFrom(part, BEFORE) for part in ("network", "vae", "text")),
        trainable=NETWORK,
        frozen_dtype="bfloat16",
        optim=OPTIM,
        mesh=MeshConfig(fsdp=8),
        steps=150_000,
        batch_size=1536,
        ema_decay=0.9999,
        save_every=500,
        preview_every=5000,
    )


def larger() -> TrainConfig:
    """320x576, from the model of `config`."""
    size = {"height": 320, "width": 576}
    clips, pictures = replace(CLIPS, **size), replace(PICTURES, **size)
    return replace(
        config(),
        task=replace(
            TASK,
            process=replace(PROCESS, density=LogNormal(p_mean=0.0, p_std=1.0)),
            video=replace(TASK.video, **size),
        ),
        data=WithPictures(videos=clips, pictures=pictures, count=BESIDE),
        held_out=replace(clips, split="test"),
        init_from="runs/svd_stage2_video",
        parts_from=(),
        steps=100_000,
        batch_size=768,
    )


def smoke() -> TrainConfig:
    """The same parts, tiny: a few seconds after compiling."""
    network = replace(
        VIDEO_NETWORK, widths=(16,), attention_levels=(), heads=(2,), blocks=1, groups=8,
        context_width=16, vec_width=8,
    )  # fmt: skip
    shapes = MovingShapes(num_frames=3, height=16, width=16)
    alone = replace(shapes, num_frames=1)
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
        data=WithPictures(
            videos=replace(shapes, split="train"), pictures=replace(alone, split="train"), count=2
        ),
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
