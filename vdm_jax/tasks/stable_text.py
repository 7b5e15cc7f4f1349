"""Captions to videos, or to pictures, in the latent space of an autoencoder.

The first two stages of Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127, sections
4.1 and 4.2, appendix D), and its text-to-video model. A picture is a video of one frame: with a
network that works frame by frame (`nn.mixing.FrameByFrame`) and one frame, this is the task of the
picture model, Stable Diffusion 2.1 in the parameterisation of EDM.

A network that is told numbers is told the frame rate and an amount of motion. Pictures may be
trained on beside videos (Ho et al. 2022, arXiv:2204.03458, section 3): a sample then also holds
"pictures" (`data.joint`), which pass the layers over time by and are told no numbers, and each
frame, of a video or alone, counts alike in the loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from vdm_jax.conditioning.micro import check_micro, micro
from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.denoiser import Denoiser, denoiser
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.sampler import Euler
from vdm_jax.models.cond import Cond
from vdm_jax.nn.pieces import Chunked, Pieces
from vdm_jax.tasks import denoising, joint, latent
from vdm_jax.tasks.task import (
    Around,
    Arrays,
    ModelConfig,
    Pictures,
    Sampling,
    VideoModel,
    VideoShape,
)

TOLD = 2
"""Numbers that are told of a video: [fps - 1, motion_bucket_id]."""


@dataclass(frozen=True, kw_only=True)
class StableText:
    """Latents of videos from their captions.

    motion_bucket_id: what the model is told where data do not say.
    decoding: how latents become frames when they are too many for the device.
    caption_drop: part of the training samples whose caption is hidden, for guidance.
    """

    process: Process = latent.PROCESS
    video: VideoShape = VideoShape(num_frames=14, height=320, width=576, fps=7.0)
    sampling: Sampling = Sampling(Euler(), num_steps=50, guidance_scale=7.0)
    motion_bucket_id: float | int = 127
    decoding: Pieces = Chunked(8)
    caption_drop: float = 0.15

    def __post_init__(self) -> None:
        denoising.check_chances(caption_drop=self.caption_drop)
        check_micro(
            fps=self.video.fps, motion_bucket_id=self.motion_bucket_id, noise_aug_strength=0.0
        )

    @property
    def pictures(self) -> int:
        return 0

    def check(self, model: ModelConfig) -> None:
        latent.check_model("Stable text", model, self.video, beside=0, numbers=(None, TOLD))

    def prepare(self, model: ModelConfig, batch: Mapping[str, Any]) -> Arrays:
        """Each clip is told its own frame rate, and its own "motion_bucket_id" if it has one."""
        told = numbers(self.video.fps, self.motion_bucket_id, len(batch["caption"]))
        arrays = {"micro": known(told, batch), **denoising.captioned(model, batch)}
        arrays |= latent.prepared(model, self.video, batch)
        return arrays | joint.prepared(model, self.video, batch)

    def request(
        self, model: ModelConfig, captions: Sequence[str], pictures: Pictures | None
    ) -> Arrays:
        if pictures is not None:
            raise Refusal("this model makes videos from captions only; it takes no picture")
        micro = numbers(self.video.fps, self.motion_bucket_id, len(captions))
        return {"micro": micro, **model.tokenize(captions)}

    def condition(self, model: VideoModel, arrays: Arrays) -> Cond:
        """Tokens of the caption, and the numbers where the network is told them."""
        frames = latent.sizes(model, self.video)[0]
        return told(denoising.encode_text(model, arrays), model, arrays, frames)

    def clean(self, model: VideoModel, arrays: Arrays) -> Float[Array, "b t h w c"]:
        return latent.clean(model, arrays)

    def answer(self, model: VideoModel) -> Denoiser:
        return denoiser(model.network, self.process.precond)

    def price(
        self, denoise: Denoiser, x0: Float[Array, "b t h w c"], cond: Cond, key: Array
    ) -> Float[Array, ""]:
        """The loss of any denoiser of latents under these conditions."""
        return denoising.loss(self.process, denoise, x0, cond, key)

    def loss(
        self, model: VideoModel, arrays: Arrays, key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The autoencoder is given: it has no gradient."""
        return joint.loss(self, model, arrays, key)

    def draw(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        """Guidance hides the caption; numbers are told to both of its branches."""
        cond, keys = self.condition(model, arrays), denoising.Walk(*denoising.split(key))
        denoise = denoising.guided(self.answer(model), cond, self.sampling, arrays)
        return denoising.walk(self, model, around(denoise), arrays, cond, keys)

    def decode(self, model: VideoModel, x0: Float[Array, "b t h w c"]) -> Float[Array, "b T H W 3"]:
        return latent.decode(model, x0, self.video, self.decoding)

    def generate(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        return self.decode(model, self.draw(model, arrays, key, around=around))


def numbers(
    fps: float | int, motion_bucket_id: float | int, count: int
) -> Float[np.ndarray, "{count} 2"]:
    """What is told of each of some videos."""
    return np.array([[fps, motion_bucket_id]] * count, np.float32)


def known(told: Float[np.ndarray, "b 2"], batch: Mapping[str, Any]) -> Float[np.ndarray, "b 2"]:
    """The numbers, replaced by those that the samples of a batch know of themselves."""
    columns = [batch.get(name, told[:, i]) for i, name in enumerate(("fps", "motion_bucket_id"))]
    return np.stack(columns, axis=1).astype(np.float32)


def told(cond: Cond, model: VideoModel, arrays: Arrays, num_frames: int) -> Cond:
    """`cond` with the numbers, for a network that is told them."""
    if model.network.config.vec_features is None:
        return cond
    fps, motion = arrays["micro"].T
    return replace(cond, vec=micro(fps, motion, 0 * fps, num_frames)[..., :TOLD])
