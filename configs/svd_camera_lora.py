"""How the camera moves: a LoRA of the attention between frames for each kind of motion.

Convert the published weights once, put clips of one camera motion into a folder for each, then
train what is wanted:

    python -m vdm_jax.convert --from svd.safetensors --output models/svd
    python -m vdm_jax.train --config configs/svd_camera_lora.py          # clips/horizontal
    python -m vdm_jax.train --config configs/svd_camera_lora.py:zooming  # clips/zooming
    python -m vdm_jax.train --config configs/svd_camera_lora.py:static   # clips/static
    python -m vdm_jax.convert --from runs/svd_camera_lora --to lora --output horizontal.safetensors

Paper: Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127), section 4.3: rank 16, the
layers of attention over time alone, 5000 steps, small sets of clips of horizontal motion, of zoom
and of a static camera. It states neither batch nor learning rate; here 8 and 1e-4.

For one GPU or TPU chip of 40 GB and up: less than 1 % of the weights have gradients and moments.
Estimate, from 24 TFLOP a clip (forward, back to what enters) and 40 % of the peak, layers computed
twice: 3 hours of an A100. Expect the camera to move as in the clips from any first picture; the
paper shows samples (figure 7) and no number.

`smoke` begins from nothing, on shapes that all move to the right.
"""

from dataclasses import replace

from vdm_jax.adapters.lora import TIME_ATTENTION, LoRA
from vdm_jax.data.folder import VideoFolder
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.data.transform import Windows
from vdm_jax.diffusion.density import LogNormal
from vdm_jax.models.clip_vision import CLIP_VIT_H, CLIPVisionConfig
from vdm_jax.models.svd_unet import SVD
from vdm_jax.models.vae import SVD_VAE
from vdm_jax.nn.pieces import Chunked
from vdm_jax.nn.remat import RematLayers
from vdm_jax.tasks.latent import PROCESS
from vdm_jax.tasks.stable_video import FramewiseSampling, StableVideo
from vdm_jax.tasks.task import ModelConfig, VideoShape
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.optim import AdamW

TASK = StableVideo(
    process=replace(PROCESS, density=LogNormal(p_mean=0.7, p_std=1.6)),
    video=VideoShape(num_frames=14, height=320, width=576, fps=7.0),
    decoding=Chunked(2),
)
CLIPS = VideoFolder(
    directory="clips/horizontal", windows=Windows(num_frames=14, step=7), height=320, width=576,
    fps=7.0, split="train",
)  # fmt: skip


def config() -> TrainConfig:
    """The camera moves to a side."""
    return TrainConfig(
        model=ModelConfig(
            network=replace(SVD, dtype="bfloat16", remat=RematLayers()),
            vae=SVD_VAE,
            image_encoder=CLIP_VIT_H,
        ),
        task=TASK,
        data=CLIPS,
        held_out=replace(CLIPS, split="test"),
        init_from="models/svd",
        trainable=LoRA(rank=16, targets=TIME_ATTENTION),
        frozen_dtype="bfloat16",
        optim=AdamW(learning_rate=1e-4, warmup_steps=100, b2=0.999),
        steps=5000,
        batch_size=8,
        ema_decay=0.999,
        save_every=250,
        preview_every=1000,
        num_previews=2,
        held_out_samples=8,
    )


def zooming() -> TrainConfig:
    """The camera moves in or out."""
    return _of("clips/zooming")


def static() -> TrainConfig:
    """The camera rests."""
    return _of("clips/static")


def _of(directory: str) -> TrainConfig:
    clips = replace(CLIPS, directory=directory)
    return replace(config(), data=clips, held_out=replace(clips, split="test"))


def smoke() -> TrainConfig:
    """The same parts, tiny: a few seconds after compiling."""
    network = replace(
        SVD, widths=(16,), attention_levels=(), heads=(2,), blocks=1, groups=8,
        context_width=16, vec_width=8,
    )  # fmt: skip
    encoder = CLIPVisionConfig(
        width=16, hidden=32, layers=1, heads=2, patch_size=14, image_size=28, projection=16
    )
    shapes = MovingShapes(num_frames=3, height=16, width=16, directions=("right",))
    return replace(
        config(),
        model=ModelConfig(
            network=network,
            vae=replace(SVD_VAE, widths=(8, 8), blocks=1, groups=4),
            image_encoder=encoder,
        ),
        task=replace(
            TASK,
            video=VideoShape(num_frames=3, height=16, width=16),
            sampling=FramewiseSampling(num_steps=2),
        ),
        data=replace(shapes, split="train"),
        held_out=replace(shapes, split="test"),
        init_from=None,
        trainable=LoRA(rank=2, targets=TIME_ATTENTION),
        frozen_dtype="float32",
        optim=AdamW(learning_rate=1e-3, warmup_steps=2),
        steps=4,
        log_every=1,
        save_every=4,
        preview_every=4,
    )
