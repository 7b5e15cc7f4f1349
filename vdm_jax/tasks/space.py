"""The space that a network works in: latents of the model's autoencoder, or pixels without one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float, UInt8

from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.pieces import Pieces
from vdm_jax.tasks import latent
from vdm_jax.tasks.task import Arrays, ModelConfig, VideoModel, VideoShape, to_signal


def channels(model: ModelConfig) -> int:
    """Of a frame in this space."""
    return 3 if model.vae is None else model.vae.latent_channels


def sizes(model: VideoModel, video: VideoShape) -> tuple[int, int, int, int]:
    """Frames, rows, columns and channels of a video in this space."""
    return video.sizes if model.vae is None else latent.sizes(model, video)


def frame(model: ModelConfig, video: VideoShape) -> tuple[int, int, int]:
    """Rows, columns and channels of a frame in this space."""
    if model.vae is None:
        return video.height, video.width, 3
    stride = model.vae.stride
    return -(-video.height // stride), -(-video.width // stride), model.vae.latent_channels


def span(model: ModelConfig, video: VideoShape) -> int:
    """Frames of a video that each frame in this space stands for."""
    return 1 if model.vae is None else video.num_frames // model.vae.frames(video.num_frames)


def prepared(model: ModelConfig, video: VideoShape, batch: Mapping[str, Any]) -> Arrays:
    """What `clean` reads, of a batch of samples."""
    return {"video": batch["video"]} if model.vae is None else latent.prepared(model, video, batch)


def clean(model: VideoModel, arrays: Arrays) -> Float[Array, "b t h w c"]:
    """The videos of `prepared`, without a gradient."""
    return to_signal(arrays["video"]) if model.vae is None else latent.clean(model, arrays)


def padded(
    model: ModelConfig, video: VideoShape, frames: UInt8[np.ndarray, "b t h w 3"]
) -> UInt8[np.ndarray, "b t H W 3"]:
    """What `encode` reads."""
    return frames if model.vae is None else latent.padded(frames, video, model)


def encode(model: VideoModel, frames: UInt8[Array, "b t H W 3"]) -> Float[Array, "b T h w c"]:
    """Frames of `padded` in this space, each by itself where the autoencoder is one of pictures."""
    return to_signal(frames) if model.vae is None else latent.encode(model, frames)


def decode(
    model: VideoModel, x0: Float[Array, "b t h w c"], video: VideoShape, decoding: Pieces
) -> Float[Array, "b T H W 3"]:
    """Frames in -1..1, of the video's size."""
    return x0 if model.vae is None else latent.decode(model, x0, video, decoding)


def cropped(
    model: VideoModel, video: VideoShape, frames: Float[Array, "b t H W 3"]
) -> Float[Array, "b t h w 3"]:
    """Frames without what `padded` added."""
    return frames if model.vae is None else latent.cropped(frames, model, video)


def check_network(
    what: str,
    model: ModelConfig,
    video: VideoShape,
    *,
    beside: int,
    numbers: tuple[int | None, ...] = (None,),
) -> None:
    """Refuse a network that cannot take the videos, or the ports, of the task `what`.

    beside: channels appended to each noisy frame. numbers: how many it may be told of a frame.
    """
    network, signal = model.network, channels(model)
    if network is None:
        raise Refusal(f"{what} needs model.network")
    wanted = signal, beside, signal
    got = network.signal_channels, network.concat_channels or 0, network.out_channels
    if got != wanted:
        ask = "{} channels with {} beside them, and {} out of it"
        raise Refusal(
            f"{what} needs a model.network of {ask.format(*wanted)}; got {ask.format(*got)}"
        )
    if network.vec_features not in numbers:
        raise Refusal(
            f"{what} needs model.network.vec_features {' or '.join(map(str, numbers))}, got "
            f"{network.vec_features}"
        )
    if model.vae is not None:
        latent.check_size(video, model.vae.stride)
    stride = network.stride * (1 if model.vae is None else model.vae.stride)
    if network.stride > 1 and (video.height % stride or video.width % stride):
        raise Refusal(
            f"task.video is {video.height}x{video.width}; this model takes multiples of {stride}"
        )
