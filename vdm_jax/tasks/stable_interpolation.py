"""The frames between two frames, in the latent space of an autoencoder.

Stable Video Diffusion's interpolation model (Blattmann et al. 2023, arXiv:2311.15127, section 4.4):
of five frames the first and the last are given, which makes four times the frame rate of any
video. Their latents stand beside the noisy ones, with one more channel that says where there are
some (arXiv:2304.08818, section 3.2): nine input channels.

All five frames are noised, predicted and priced, the given ones too: while a video is drawn they
are at its noise level like their neighbours, as in training. What is given comes out as it went in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vdm_jax.conditioning.drop import drop
from vdm_jax.conditioning.micro import check_micro
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.transform import cover
from vdm_jax.diffusion.denoiser import Denoiser, denoiser
from vdm_jax.diffusion.density import LogNormal
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.sampler import Euler
from vdm_jax.models.cond import Cond
from vdm_jax.nn.pieces import Chunked, Pieces
from vdm_jax.tasks import denoising, latent, stable_text
from vdm_jax.tasks.task import (
    Around,
    Arrays,
    ModelConfig,
    Pictures,
    Sampling,
    VideoModel,
    VideoShape,
    to_signal,
)


@dataclass(frozen=True, kw_only=True)
class StableInterpolation:
    """Latents of videos from their first and last frame and, with a text encoder, a caption.

    motion_bucket_id: what the model is told where data do not say.
    decoding: how latents become frames when they are too many for the device.
    caption_drop: part of the training samples whose caption is hidden, for guidance.
    """

    process: Process = replace(latent.PROCESS, density=LogNormal(p_mean=1.0, p_std=1.2))
    video: VideoShape = VideoShape(num_frames=5, height=576, width=1024, fps=28.0)
    sampling: Sampling = Sampling(Euler(), num_steps=25, guidance_scale=1.0)
    motion_bucket_id: float | int = 127
    decoding: Pieces = Chunked(8)
    caption_drop: float = 0.15

    def __post_init__(self) -> None:
        denoising.check_chances(caption_drop=self.caption_drop)
        check_micro(
            fps=self.video.fps, motion_bucket_id=self.motion_bucket_id, noise_aug_strength=0.0
        )
        if self.video.num_frames < 3:
            raise Refusal(f"between {self.video.num_frames} frames there is none; 3 are the least")

    @property
    def pictures(self) -> int:
        return 2

    def check(self, model: ModelConfig) -> None:
        beside = 0 if model.vae is None else model.vae.latent_channels + 1
        latent.check_model(
            "interpolation", model, self.video, beside=beside, numbers=(None, stable_text.TOLD)
        )
        latent.check_frames_apart("interpolation", model)

    def prepare(self, model: ModelConfig, batch: Mapping[str, Any]) -> Arrays:
        """Each clip is told its own frame rate, and its own "motion_bucket_id" if it has one."""
        told = self._told(len(batch["caption"]))
        arrays = {"micro": stable_text.known(told, batch), **denoising.captioned(model, batch)}
        prepared = latent.prepared(model, self.video, batch)
        if "video" in prepared:
            arrays["ends"] = prepared["video"][:, (0, -1)]
        return {**arrays, **prepared}

    def request(
        self, model: ModelConfig, captions: Sequence[str], pictures: Pictures | None
    ) -> Arrays:
        """Two pictures for each caption, one after the other."""
        count = 0 if pictures is None else len(pictures)
        if pictures is None or count != 2 * len(captions):
            raise Refusal(
                f"interpolation needs two pictures a video, its first frame and its last; got "
                f"{count} for {len(captions)}"
            )
        size = self.video.height, self.video.width
        fitted = np.stack([cover([picture], size)[0] for picture in pictures])
        ends = fitted.reshape(len(captions), 2, *fitted.shape[1:])
        return {
            "micro": self._told(len(captions)),
            "ends": latent.padded(ends, self.video, model),
            **model.tokenize(captions),
        }

    def _told(self, count: int) -> Float[np.ndarray, "{count} 2"]:
        return stable_text.numbers(self.video.fps, self.motion_bucket_id, count)

    def condition(self, model: VideoModel, arrays: Arrays) -> Cond:
        """The caption, the numbers, and beside each frame its latents where they are given."""
        if latent.LATENTS in arrays:
            ends = self.clean(model, arrays)[:, (0, -1), ...]
        else:
            ends = latent.encode(model, arrays["ends"])
        marked = jnp.concatenate([ends, jnp.ones_like(ends[..., :1])], axis=-1)
        between = jnp.zeros((len(ends), self.video.num_frames - 2, *marked.shape[2:]))
        cond = denoising.encode_text(model, arrays)
        cond = replace(cond, concat=jnp.concatenate([marked[:, :1], between, marked[:, 1:]], 1))
        return stable_text.told(cond, model, arrays, self.video.num_frames)

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
        drop_key, loss_key = jax.random.split(key)
        x0 = self.clean(model, arrays)
        cond = self.condition(model, {**arrays, latent.LATENTS: x0})
        cond = drop(cond, drop_key, {"tokens": self.caption_drop})
        return self.price(self.answer(model), x0, cond, loss_key), {}

    def draw(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        """Guidance hides the caption; the given frames and the numbers stay in both branches."""
        cond, keys = self.condition(model, arrays), denoising.Walk(*denoising.split(key))
        denoise = denoising.guided(self.answer(model), cond, self.sampling, arrays)
        return denoising.walk(self, model, around(denoise), arrays, cond, keys)

    def decode(self, model: VideoModel, x0: Float[Array, "b t h w c"]) -> Float[Array, "b T H W 3"]:
        return latent.decode(model, x0, self.video, self.decoding)

    def generate(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        video = self.decode(model, self.draw(model, arrays, key, around=around))
        if "ends" not in arrays:
            return video
        given = latent.cropped(to_signal(arrays["ends"]), model, self.video)
        return jnp.concatenate([given[:, :1], video[:, 1:-1], given[:, 1:]], axis=1)
