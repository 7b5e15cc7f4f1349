"""Stage III of Stable Video Diffusion: from a picture to a video of high resolution.

The video model of stage II attends to CLIP's token of a picture instead of a text, and sees its
latents, noised in pixels, beside each noisy frame: input channels that count for nothing at first
(`adapters.inflate`). Small, then at full size with 14 frames, then with 25:

    python -m vdm_jax.train --config configs/svd_stage3_image_to_video.py:small
    python -m vdm_jax.train --config configs/svd_stage3_image_to_video.py
    python -m vdm_jax.train --config configs/svd_stage3_image_to_video.py:longer

Paper: Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127), sections 4.3 and appendix
D: 320x576 with P_mean 0.7, P_std 1.6, then 576x1024 with 1.0 and 1.6; each batch 768, learning rate
3e-5, 50,000 steps; the picture's noise ln s ~ N(-3, 0.5^2), pictures hidden in 15 %, EMA 0.9999.
models/svd is a converted Stable Video Diffusion, of which the picture encoder alone is taken.

For 64 GPUs or TPU chips of 80 GB and up. Estimates, from 36.5, 134 and 240 TFLOP a clip forward and
back, 40 % of the peak and no layer computed twice: 3,100, 11,500 and 20,500 hours of an A100. The
number to expect: that of the published model, which the paper gives as preferences of people alone
(against GEN-2 and PikaLabs, figure 6).

`smoke` begins from nothing, on moving shapes.
"""

from dataclasses import replace

from vdm_jax.adapters.trainable import NETWORK
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.data.shard import ShardedClips
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.data.transform import Windows
from vdm_jax.diffusion.density import LogNormal
from vdm_jax.models.clip_vision import CLIP_VIT_H, CLIPVisionConfig
from vdm_jax.models.svd_unet import STABILITY_EPS, SVD
from vdm_jax.models.vae import SVD_IMAGE_VAE
from vdm_jax.nn.pieces import Chunked
from vdm_jax.nn.remat import RematBlocks
from vdm_jax.tasks.latent import PROCESS
from vdm_jax.tasks.stable_video import FramewiseSampling, StableVideo
from vdm_jax.tasks.task import ModelConfig, VideoShape
from vdm_jax.train.config import PartFrom, TrainConfig
from vdm_jax.train.optim import AdamW

BEFORE = "runs/svd_stage2_video-larger"
ENCODER = "models/svd"
IMAGE_NETWORK = replace(SVD, eps=STABILITY_EPS)
TASK = StableVideo(
    process=replace(PROCESS, density=LogNormal(p_mean=1.0, p_std=1.6)),
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
            network=replace(IMAGE_NETWORK, dtype="bfloat16", remat=RematBlocks()),
            vae=SVD_IMAGE_VAE,
            image_encoder=CLIP_VIT_H,
        ),
        task=TASK,
        data=CLIPS,
        held_out=replace(CLIPS, split="test"),
        init_from="runs/svd_stage3_image_to_video-small",
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


def small() -> TrainConfig:
    """320x576, from the text-to-video model of stage II."""
    size = {"height": 320, "width": 576}
    clips = replace(CLIPS, **size)
    return replace(
        config(),
        task=replace(
            TASK,
            process=replace(PROCESS, density=LogNormal(p_mean=0.7, p_std=1.6)),
            video=replace(TASK.video, **size),
        ),
        data=clips,
        held_out=replace(clips, split="test"),
        init_from=None,
        parts_from=(
            PartFrom("network", BEFORE),
            PartFrom("vae", BEFORE),
            PartFrom("image_encoder", ENCODER),
        ),
    )


def longer() -> TrainConfig:
    """25 frames, from the model of `config`: SVD-XT."""
    clips = replace(CLIPS, windows=replace(CLIPS.windows, num_frames=25))
    return replace(
        config(),
        task=replace(TASK, video=replace(TASK.video, num_frames=25)),
        data=clips,
        held_out=replace(clips, split="test"),
        init_from="runs/svd_stage3_image_to_video",
    )


def smoke() -> TrainConfig:
    """The same parts, tiny: a few seconds after compiling."""
    network = replace(
        IMAGE_NETWORK, widths=(16,), attention_levels=(), heads=(2,), blocks=1, groups=8,
        context_width=16, vec_width=8,
    )  # fmt: skip
    encoder = CLIPVisionConfig(
        width=16, hidden=32, layers=1, heads=2, patch_size=14, image_size=28, projection=16
    )
    shapes = MovingShapes(num_frames=3, height=16, width=16)
    return replace(
        config(),
        model=ModelConfig(
            network=network,
            vae=replace(SVD_IMAGE_VAE, widths=(8, 8), blocks=1, groups=4),
            image_encoder=encoder,
        ),
        task=replace(
            TASK,
            video=VideoShape(num_frames=3, height=16, width=16),
            sampling=FramewiseSampling(num_steps=2),
            decoding=Chunked(2),
        ),
        data=replace(shapes, split="train"),
        held_out=replace(shapes, split="test"),
        init_from=None,
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
