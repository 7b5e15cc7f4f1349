"""Stage I of Stable Video Diffusion: the picture model that the video model is made of.

Stable Diffusion 2.1's U-Net, moved from its own noise levels to those of EDM: first the embedding
of the level alone, for 1000 steps at 512x512, then everything, at the size of stage II:

    python -m vdm_jax.convert --from stable-diffusion-2-1 --output models/sd21
    python -m vdm_jax.train --config configs/svd_stage1_image.py:levels
    python -m vdm_jax.train --config configs/svd_stage1_image.py

Paper: Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127), section 4.1 and appendix D:
1000 and 30,000 steps, P_mean -1.2, P_std 1.0. It states neither batch nor learning rate of this
stage; here they are those of stage II. models/sd21 is a model directory with Stable Diffusion 2.1's
network, vae and text; data/pictures holds shards of clips of one frame with captions.

For 8 GPUs or TPU chips of 80 GB, or more with --mesh. Estimate, from 0.9 TFLOP a picture forward
and back and 40 % of the peak: 90 hours of an A100 for the 30,000 steps, the autoencoder aside. The
paper gives no number for this stage; expect a held-out loss below the constant answer's from the
first report on, for the weights know pictures already.

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
from vdm_jax.models.svd_unet import SVD_PICTURE
from vdm_jax.models.vae import SVD_IMAGE_VAE
from vdm_jax.nn.remat import RematBlocks
from vdm_jax.tasks.latent import PROCESS
from vdm_jax.tasks.stable_text import StableText
from vdm_jax.tasks.task import ModelConfig, Sampling, VideoShape
from vdm_jax.train.config import PartFrom, TrainConfig
from vdm_jax.train.optim import AdamW

BEFORE = "models/sd21"
NETWORK_CONFIG = replace(SVD_PICTURE, dtype="bfloat16", remat=RematBlocks())
TEXT = CLIPTextEncoderConfig(tokenizer=f"{BEFORE}/tokenizer")
TASK = StableText(
    process=replace(PROCESS, density=LogNormal(p_mean=-1.2, p_std=1.0)),
    video=VideoShape(num_frames=1, height=256, width=384, fps=7.0),
)
PICTURES = ShardedClips(
    directory="data/pictures", split="train", windows=Windows(num_frames=1), height=256, width=384
)
OPTIM = AdamW(learning_rate=1e-4, warmup_steps=1000, b2=0.999, weight_decay=0.01)


def config() -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(network=NETWORK_CONFIG, text=TEXT, vae=SVD_IMAGE_VAE),
        task=TASK,
        data=PICTURES,
        held_out=replace(PICTURES, split="test"),
        init_from="runs/svd_stage1_image-levels",
        trainable=NETWORK,
        frozen_dtype="bfloat16",
        optim=OPTIM,
        mesh=MeshConfig(fsdp=8),
        steps=30_000,
        batch_size=1536,
        ema_decay=0.9999,
        save_every=500,
        preview_every=2500,
    )


def levels() -> TrainConfig:
    """The embedding of the noise level alone learns what EDM's levels mean."""
    at_512 = replace(PICTURES, height=512, width=512)
    return replace(
        config(),
        task=replace(TASK, video=replace(TASK.video, height=512, width=512)),
        data=at_512,
        held_out=replace(at_512, split="test"),
        init_from=None,
        parts_from=tuple(PartFrom(part, BEFORE) for part in ("network", "vae", "text")),
        trainable=Selected(("network.time_embedding.*",)),
        optim=replace(OPTIM, warmup_steps=100),
        steps=1000,
    )


def smoke() -> TrainConfig:
    """The same parts, tiny: a few seconds after compiling."""
    network = replace(
        SVD_PICTURE, widths=(16,), attention_levels=(), heads=(2,), blocks=1, groups=8,
        context_width=16, vec_width=8,
    )  # fmt: skip
    shapes = MovingShapes(num_frames=1, height=16, width=16)
    return replace(
        config(),
        model=ModelConfig(
            network=network,
            text=WordEncoderConfig(width=16, max_words=8),
            vae=replace(SVD_IMAGE_VAE, widths=(8, 8), blocks=1, groups=4),
        ),
        task=replace(
            TASK,
            video=VideoShape(num_frames=1, height=16, width=16),
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
