"""The latent space that a diffusion model works in: videos to latents, and latents to videos.

What every task of Stable Video Diffusion does alike. The latents of a video are the most likely
ones, scaled to unit variance; they have no gradient. Frames whose sizes are no multiple of the
autoencoder's stride are padded with their edge, and cropped when they come back. The number of
frames must be a multiple of its stride in time: a padded video would end in a still. Samples may
hold latents that were computed before (`data.latents`) instead of frames. Their captions'
embeddings, where these are held too, are read by `denoising.captioned`.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.density import LogNormal
from vdm_jax.diffusion.loss import OutputWeight
from vdm_jax.diffusion.precond import V
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.schedule import Karras
from vdm_jax.models.svd_unet import SVDUNetConfig
from vdm_jax.models.vae import VAE
from vdm_jax.models.video_vae import VideoVAE, VideoVAEConfig
from vdm_jax.nn.pieces import Pieces
from vdm_jax.tasks.task import Arrays, Denoising, ModelConfig, VideoModel, VideoShape, to_signal

PROCESS = Process(
    schedule=Karras(sigma_min=0.002, sigma_max=700.0, rho=7.0),
    precond=V(),
    density=LogNormal(p_mean=1.0, p_std=1.6),
    weight=OutputWeight(V()),
)
"""The published model's: EDM with unit-variance data; the density is that of its last stage."""

LATENTS = "x0"
"""The name of latents in the arrays of a task."""


@runtime_checkable
class Latent(Denoising, Protocol):
    """A task that works in latents, and takes those that were computed before."""

    @property
    def decoding(self) -> Pieces:
        """How latents become frames when they are too many for the device."""
        ...


def check_model(
    what: str,
    model: ModelConfig,
    video: VideoShape,
    *,
    beside: int,
    numbers: tuple[int | None, ...],
) -> None:
    """Refuse a model that cannot do the task `what`.

    beside: channels appended to the noisy latents. numbers: how many the network may be told.
    """
    network, vae = model.network, model.vae
    if not isinstance(network, SVDUNetConfig):
        raise Refusal(f"{what} needs an SVDUNetConfig, got {type(network).__name__}")
    if vae is None:
        raise Refusal(f"{what} needs model.vae")
    wanted = vae.latent_channels + beside
    if (network.in_channels, network.out_channels) != (wanted, vae.latent_channels):
        raise Refusal(
            f"{what} needs model.network.in_channels {wanted} and out_channels "
            f"{vae.latent_channels}, got {network.in_channels} and {network.out_channels}"
        )
    if network.vec_features not in numbers:
        raise Refusal(
            f"{what} needs model.network.vec_features {' or '.join(map(str, numbers))}, got "
            f"{network.vec_features}"
        )
    check_size(video, vae.stride)
    vae.frames(video.num_frames)


def check_frames_apart(what: str, model: ModelConfig) -> None:
    """Refuse, for a task that encodes single pictures, an autoencoder that has none."""
    if isinstance(model.vae, VideoVAEConfig):
        raise Refusal(f"{what} encodes single pictures: it needs a VAEConfig, got a VideoVAEConfig")


def check_size(video: VideoShape, stride: int) -> None:
    if min(video.height, video.width) < stride:
        raise Refusal(f"videos must be at least {stride} pixels high and wide")


def vae_of(model: VideoModel) -> VAE | VideoVAE:
    assert model.vae is not None  # as the task's `check` demands
    return model.vae


def frame_vae_of(model: VideoModel) -> VAE:
    assert isinstance(model.vae, VAE)  # as the task's `check` demands
    return model.vae


def padding(video: VideoShape, stride: int) -> tuple[tuple[int, int], ...]:
    """Pixels before and after height, width and colours, up to a multiple of the stride."""
    spare = [-size % stride for size in (video.height, video.width)]
    return *((s // 2, s - s // 2) for s in spare), (0, 0)


def padded(
    frames: UInt8[np.ndarray, "b t h w 3"], video: VideoShape, model: ModelConfig
) -> UInt8[np.ndarray, "b t H W 3"]:
    assert model.vae is not None
    return np.pad(frames, ((0, 0), (0, 0), *padding(video, model.vae.stride)), "edge")


def prepared(model: ModelConfig, video: VideoShape, batch: Mapping[str, Any]) -> Arrays:
    """What `clean` reads, of samples with a "video" or with "latents".

    Raises Refusal for a number of frames that the autoencoder does not take.
    """
    assert model.vae is not None
    model.vae.frames(video.num_frames)
    if "latents" in batch:
        return {LATENTS: batch["latents"]}
    return {"video": padded(batch["video"], video, model)}


def first_frames(batch: Mapping[str, Any]) -> UInt8[np.ndarray, "b h w 3"]:
    """Of samples with latents it is a picture of its own."""
    return batch["picture"] if "latents" in batch else batch["video"][:, 0]


def encode(model: VideoModel, frames: UInt8[Array, "b t H W 3"]) -> Float[Array, "b T h w c"]:
    """Scaled latents, without a gradient."""
    vae = vae_of(model)
    latents = vae.config.encoding(lambda video: vae.encode_video(video).mode())(to_signal(frames))
    return jax.lax.stop_gradient(vae.scaled(latents))


def clean(model: VideoModel, arrays: Arrays) -> Float[Array, "b t h w c"]:
    """The latents of the videos of `prepared`."""
    if LATENTS in arrays:
        return arrays[LATENTS].astype(jnp.float32)
    return encode(model, arrays["video"])


def decode(
    model: VideoModel, x0: Float[Array, "b T h w c"], video: VideoShape, decoding: Pieces
) -> Float[Array, "b t H W 3"]:
    """Scaled latents to frames in -1..1 of the video's size."""
    vae = vae_of(model)
    return cropped(decoding(vae.decode)(vae.unscaled(x0)), model, video)


def cropped(
    frames: Float[Array, "b t H W 3"], model: VideoModel, video: VideoShape
) -> Float[Array, "b t h w 3"]:
    """Frames without what `padded` added."""
    (top, _), (left, _), _ = padding(video, vae_of(model).config.stride)
    return frames[:, :, top : top + video.height, left : left + video.width]


def sizes(model: VideoModel, video: VideoShape) -> tuple[int, int, int, int]:
    """Frames, rows, columns and channels of the latents of a video."""
    config = vae_of(model).config
    rows, columns = (-(-size // config.stride) for size in (video.height, video.width))
    return config.frames(video.num_frames), rows, columns, config.latent_channels
