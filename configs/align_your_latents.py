"""Align Your Latents, all of it at toy size: a model of pictures learns to move, and to be told.

Moving shapes that bounce, 8 frames of 32x32 pixels, in the 8x8 latents of an autoencoder of their
own. Nothing is downloaded. Each stage begins where those before it ended:

    python -m vdm_jax.train --config configs/align_your_latents.py:autoencoder
    python -m vdm_jax.train --config configs/align_your_latents.py:decoder
    python -m vdm_jax.train --config configs/align_your_latents.py:picture
    python -m vdm_jax.train --config configs/align_your_latents.py:video
    python -m vdm_jax.train --config configs/align_your_latents.py:complete
    python -m vdm_jax.sample --task extend --model runs/align_your_latents-complete \\
        --num-frames 32 --prompt "a red circle bounces"

- `autoencoder`, of pictures; `decoder`, what reads its latents mixes frames (section 3.1.1).
- `picture`: latents of single frames from their captions.
- `video`: layers over time join (`adapters.inflate`), and alone are trained: the layers of the
  picture model stay as they are to the bit, so that another model of pictures can take their place
  (`TIME_LAYERS.join`; section 4.2.1).
- `complete`: known frames stand beside the noisy ones, and one model predicts, interpolates and
  makes up videos, guided by what is known (section 3.2, equation 4). Trained are the layers over
  time, and the first convolution, whose new inputs are zero at first.

Paper: Align your Latents (Blattmann et al. 2023, arXiv:2304.08818), with the layers and the noise
of Stable Video Diffusion (arXiv:2311.15127). Where this differs: the paper's known frames enter
through the layers over time, here beside the noisy video; and its networks are a thousand times as
large. Estimate: minutes on two CPU cores for each stage. The number to watch of `video` is the
held-out loss: before its first step it is that of the picture model, frame by frame.

`smoke` is the last stage, `smoke_picture` and `smoke_video` are those before it; each begins from
nothing.
"""

from dataclasses import replace

from vdm_jax.adapters.trainable import TIME_LAYERS, Selected
from vdm_jax.conditioning.text import WordEncoderConfig
from vdm_jax.data.paths import Bouncing
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.diffusion.density import LogNormal
from vdm_jax.diffusion.sampler import Euler
from vdm_jax.models.svd_unet import SVDUNetConfig
from vdm_jax.models.vae import ImageDecoderConfig, TemporalDecoderConfig, VAEConfig
from vdm_jax.nn.mixing import FrameByFrame, SpaceTime
from vdm_jax.tasks.autoencoding import Autoencoding
from vdm_jax.tasks.completion import Completion, ContextSampling
from vdm_jax.tasks.latent import PROCESS
from vdm_jax.tasks.task import ModelConfig, Sampling, VideoShape, tuned
from vdm_jax.tasks.text_to_video import TextToVideo
from vdm_jax.train.config import PartFrom, TrainConfig
from vdm_jax.train.judge import PSNRJudge
from vdm_jax.train.optim import AdamW, CosineDecay

RUNS = "runs/align_your_latents-"
VIDEO = VideoShape(num_frames=8, height=32, width=32, fps=8.0)
PICTURE = replace(VIDEO, num_frames=1)
SHAPES = MovingShapes(num_frames=8, height=32, width=32, path=Bouncing(slowest=0.2, quickest=1.0))
STILLS = replace(SHAPES, num_frames=1)
VAE = VAEConfig(
    widths=(16, 32, 64), blocks=1, groups=8, scaling_factor=1.0, decoder=ImageDecoderConfig()
)
VIDEO_VAE = replace(VAE, decoder=TemporalDecoderConfig(1))
WORDS = WordEncoderConfig(width=64, max_words=8, table_rows=256)
PICTURE_NETWORK = SVDUNetConfig(
    in_channels=4, widths=(64, 128), attention_levels=(0, 1), heads=(2, 4), blocks=1, groups=16,
    context="text", context_width=64, vec_features=None, mixing=FrameByFrame(),
)  # fmt: skip
VIDEO_NETWORK = replace(PICTURE_NETWORK, mixing=SpaceTime())
TOLD_NETWORK = replace(VIDEO_NETWORK, in_channels=4 + 4 + 1)  # known frames, and where there are
TOY = replace(PROCESS, density=LogNormal(p_mean=0.5, p_std=1.6))
SAMPLING = Sampling(Euler(), num_steps=20, guidance_scale=1.0)
OPTIM = AdamW(learning_rate=1e-3, decay=CosineDecay(0.02), warmup_steps=50)


def config() -> TrainConfig:
    """The end of the chain."""
    return complete()


def autoencoder() -> TrainConfig:
    """Frames to latents and back, by colours alone."""
    return TrainConfig(
        model=ModelConfig(vae=VAE),
        task=Autoencoding(video=PICTURE, kl_weight=1e-3),
        data=replace(STILLS, split="train"),
        held_out=replace(STILLS, split="test"),
        optim=OPTIM,
        judge=PSNRJudge(),
        steps=800,
        batch_size=32,
        ema_decay=0.99,
        save_every=200,
        preview_every=400,
    )


def decoder() -> TrainConfig:
    """The same latents, read by a decoder that mixes frames."""
    return replace(
        autoencoder(),
        model=ModelConfig(vae=VIDEO_VAE),
        task=Autoencoding(video=VIDEO, kl_weight=0.0),
        data=replace(SHAPES, split="train"),
        held_out=replace(SHAPES, split="test"),
        parts_from=_of("autoencoder", "vae"),
        trainable=Selected(("vae.decoder.*",)),
        steps=200,
        batch_size=8,
        save_every=100,
        preview_every=100,
    )


def picture() -> TrainConfig:
    """A diffusion model of single frames."""
    return TrainConfig(
        model=ModelConfig(network=PICTURE_NETWORK, text=WORDS, vae=VAE),
        task=TextToVideo(process=TOY, video=PICTURE, sampling=SAMPLING),
        data=replace(STILLS, split="train"),
        held_out=replace(STILLS, split="test"),
        parts_from=_of("autoencoder", "vae"),
        trainable=Selected(("network.*", "text.*")),
        optim=OPTIM,
        steps=1500,
        batch_size=64,
        ema_decay=0.99,
        save_every=250,
        preview_every=500,
    )


def video() -> TrainConfig:
    """Layers over time learn how the pictures of `picture` follow one another."""
    return replace(
        picture(),
        model=ModelConfig(network=VIDEO_NETWORK, text=WORDS, vae=VIDEO_VAE),
        task=TextToVideo(process=TOY, video=VIDEO, sampling=SAMPLING),
        data=replace(SHAPES, split="train"),
        held_out=replace(SHAPES, split="test"),
        parts_from=(*_of("picture", "network", "text"), *_of("decoder", "vae")),
        trainable=TIME_LAYERS,
        steps=800,
        batch_size=16,
        save_every=200,
        preview_every=400,
    )


def complete() -> TrainConfig:
    """Prediction, interpolation and videos from nothing, by one model."""
    return replace(
        video(),
        model=ModelConfig(network=TOLD_NETWORK, text=WORDS, vae=VIDEO_VAE),
        task=Completion(
            process=TOY, video=VIDEO, sampling=ContextSampling(Euler(), num_steps=20), given=(0, 1)
        ),
        parts_from=_of("video", "network", "text", "vae"),
        trainable=Selected((*TIME_LAYERS.patterns, "network.conv_in.*")),
        judge=PSNRJudge(num_videos=32),
    )


def smoke() -> TrainConfig:
    """The same parts, tiny: a few seconds after compiling."""
    return _tiny(complete())


def smoke_picture() -> TrainConfig:
    return _tiny(picture())


def smoke_video() -> TrainConfig:
    return _tiny(video())


def _of(stage: str, *parts: str) -> tuple[PartFrom, ...]:
    return tuple(PartFrom(part, RUNS + stage) for part in parts)


def _tiny(full: TrainConfig) -> TrainConfig:
    """From nothing, and so everything is trained that is no autoencoder."""
    network, vae = full.model.network, full.model.vae
    assert isinstance(network, SVDUNetConfig) and vae is not None
    frames = min(4, full.task.video.num_frames)
    shapes = replace(SHAPES, num_frames=frames, height=16, width=16)
    return replace(
        full,
        model=ModelConfig(
            network=replace(
                network, widths=(16,), attention_levels=(), heads=(2,), groups=8, context_width=16
            ),
            text=replace(WORDS, width=16),
            vae=replace(vae, widths=(8, 8), groups=4),
        ),
        task=tuned(full.task, {"num_frames": frames, "height": 16, "width": 16, "num_steps": 2}),
        data=replace(shapes, split="train"),
        held_out=replace(shapes, split="test"),
        parts_from=(),
        trainable=Selected(("network.*", "text.*")),
        optim=replace(OPTIM, warmup_steps=2),
        judge=None,
        steps=4,
        batch_size=8,
        log_every=1,
        save_every=4,
        preview_every=4,
        num_previews=2,
        held_out_samples=8,
    )
