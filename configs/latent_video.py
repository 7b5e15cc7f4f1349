"""A latent image-to-video model of our own, end to end on a film: every part is trained here.

The autoencoder of `configs/vae_image.py` with the decoder of `configs/vae_temporal_decoder.py`, and
in its latents Stable Video Diffusion's network at a tenth of its size, with an encoder of pictures
that learns beside it:

    python -m vdm_jax.data.film --output data/film
    python -m vdm_jax.convert.lpips --output models/lpips_vgg16
    python -m vdm_jax.train --config configs/vae_image.py
    python -m vdm_jax.train --config configs/vae_temporal_decoder.py
    python -m vdm_jax.train --config configs/latent_video.py

Paper: Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127), section 4.3, with
log sigma ~ N(0.7, 1.6^2), at 96x160 pixels, 8 frames, 12 a second. For one GPU or TPU of 16 GB,
such as Colab's. The film is ten minutes long: expect its pictures to move, not a general model.
The number to watch is the held-out loss beside that of the constant answer.

`cpu` follows the other two configs' `cpu`, at 48x80 pixels, on two CPU cores: after its 1000 steps,
in two hours, the held-out loss is 0.083 (a constant answer: 8.3). `smoke` begins from nothing, on
moving shapes.

`vae.scaling_factor` is 1 / latent_std as the autoencoder's run writes it into its metrics.jsonl.
"""

from dataclasses import replace

from vdm_jax.adapters.trainable import Selected
from vdm_jax.data.shard import ShardedClips
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.data.transform import Windows
from vdm_jax.diffusion.density import LogNormal
from vdm_jax.models.clip_vision import CLIPVisionConfig
from vdm_jax.models.svd_unet import SVDUNetConfig
from vdm_jax.models.vae import TemporalDecoderConfig, VAEConfig
from vdm_jax.nn.remat import RematLayers
from vdm_jax.tasks.stable_video import PROCESS, FramewiseSampling, StableVideo
from vdm_jax.tasks.task import ModelConfig, VideoShape
from vdm_jax.train.config import PartFrom, TrainConfig
from vdm_jax.train.optim import AdamW, CosineDecay

BEFORE = "runs/vae_temporal_decoder"
ENCODER = CLIPVisionConfig(
    width=256, hidden=1024, layers=6, heads=4, patch_size=16, image_size=112, projection=256
)
NETWORK = SVDUNetConfig(
    widths=(128, 256, 512), attention_levels=(0, 1, 2), heads=(2, 4, 8), context_width=256,
    vec_width=64, dtype="bfloat16", remat=RematLayers(),
)  # fmt: skip
CPU_NETWORK = replace(
    NETWORK, widths=(64, 128), attention_levels=(0, 1), heads=(2, 4), blocks=1, context_width=64,
    vec_width=32, dtype="float32",
)  # fmt: skip
CPU_VAE = VAEConfig(
    widths=(32, 64, 64), blocks=1, decoder=TemporalDecoderConfig(1), scaling_factor=0.3688
)
MODEL = ModelConfig(
    network=NETWORK,
    vae=VAEConfig(widths=(32, 64, 128, 128), decoder=TemporalDecoderConfig()),
    image_encoder=ENCODER,
)
TASK = StableVideo(
    process=replace(PROCESS, density=LogNormal(p_mean=0.7, p_std=1.6)),
    video=VideoShape(num_frames=8, height=96, width=160, fps=12.0),
)
CLIPS = ShardedClips(
    directory="data/film", split="train", windows=Windows(num_frames=8, every=2, step=4),
    height=96, width=160,
)  # fmt: skip


def config() -> TrainConfig:
    return TrainConfig(
        model=MODEL,
        task=TASK,
        data=CLIPS,
        held_out=replace(CLIPS, split="test", windows=Windows(num_frames=8, every=2)),
        parts_from=(PartFrom("vae", BEFORE),),
        trainable=Selected(("network.*", "image_encoder.*")),
        optim=AdamW(learning_rate=2e-4, decay=CosineDecay(0.1), warmup_steps=500, b2=0.999),
        steps=100_000,
        batch_size=32,
        ema_decay=0.999,
        save_every=1000,
        preview_every=2000,
    )


def cpu() -> TrainConfig:
    """After the other two configs' `cpu`: 48x80 pixels, on two CPU cores."""
    clips = replace(CLIPS, height=48, width=80)
    return replace(
        config(),
        model=ModelConfig(
            network=CPU_NETWORK,
            vae=CPU_VAE,
            image_encoder=replace(ENCODER, width=64, hidden=256, layers=3, projection=64),
        ),
        task=replace(TASK, video=VideoShape(num_frames=8, height=48, width=80, fps=12.0)),
        data=clips,
        held_out=replace(clips, split="test", windows=Windows(num_frames=8, every=2)),
        parts_from=(PartFrom("vae", BEFORE + "-cpu"),),
        optim=AdamW(learning_rate=1e-3, decay=CosineDecay(0.1), warmup_steps=50, b2=0.99),
        steps=1000,
        batch_size=4,
        ema_decay=0.99,
        save_every=100,
        preview_every=250,
    )  # fmt: skip


def smoke() -> TrainConfig:
    """The same parts, tiny, from nothing: a few seconds after compiling."""
    shapes = MovingShapes(num_frames=3, height=16, width=16)
    encoder = CLIPVisionConfig(
        width=16, hidden=32, layers=1, heads=2, patch_size=14, image_size=28, projection=16
    )
    return replace(
        cpu(),
        model=ModelConfig(
            network=replace(
                CPU_NETWORK, widths=(16, 32), heads=(1, 2), attention_levels=(0,),
                context_width=16, vec_width=8, groups=8,
            ),
            vae=replace(CPU_VAE, widths=(8, 16), groups=4),
            image_encoder=encoder,
        ),
        task=replace(
            TASK,
            video=VideoShape(num_frames=3, height=16, width=16, fps=7.0),
            sampling=FramewiseSampling(num_steps=2),
        ),
        data=replace(shapes, split="train"),
        held_out=replace(shapes, split="test"),
        parts_from=(),
        optim=AdamW(learning_rate=1e-3, warmup_steps=2),
        steps=6,
        batch_size=8,
        log_every=1,
        save_every=3,
        preview_every=3,
        num_previews=3,
        held_out_samples=8,
    )  # fmt: skip
