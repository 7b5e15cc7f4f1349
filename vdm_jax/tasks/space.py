"""The space that a network works in: latents of the model's autoencoder, or pixels without one."""

from vdm_jax.tasks import latent
from vdm_jax.tasks.task import VideoModel, VideoShape


def sizes(model: VideoModel, video: VideoShape) -> tuple[int, int, int, int]:
    """Frames, rows, columns and channels of a video in this space."""
    return video.sizes if model.vae is None else latent.sizes(model, video)
