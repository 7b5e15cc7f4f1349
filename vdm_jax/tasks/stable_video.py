"""Stable Video Diffusion: a picture to a video, in the latent space of an autoencoder.

Blattmann et al. 2023 (arXiv:2311.15127), section 4.3 and appendix D. The picture enters twice: as
the token of a CLIP image encoder, which every layer of cross-attention reads, and as its latents,
slightly noised in pixels and not scaled, which are appended to each noisy frame. The frame rate,
an amount of motion and that noise's strength are told as numbers. Guidance compares with neither
picture, but with the same numbers, and grows from the first frame to the last.

No frame is given: the first one resembles the picture, it is not the picture. Where the published
pipelines differ from each other, this follows diffusers; where diffusers turns guidance off
(max_guidance_scale of at most 1 beside a larger minimum), this computes what is asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vdm_jax.conditioning import image
from vdm_jax.conditioning.drop import SVD_NULL_PORTS, null
from vdm_jax.conditioning.micro import MICRO_FEATURES, check_micro, micro
from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.denoiser import Denoiser, denoiser
from vdm_jax.diffusion.guidance import cfg, frame_ramp
from vdm_jax.diffusion.noise import Independent, NoisePlan
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.sampler import Euler, Sampler
from vdm_jax.models.cond import Cond
from vdm_jax.nn.pieces import Chunked, Pieces
from vdm_jax.tasks import denoising, latent
from vdm_jax.tasks.latent import PROCESS
from vdm_jax.tasks.task import (
    Around,
    Arrays,
    ModelConfig,
    Pictures,
    VideoModel,
    VideoShape,
)

GUIDANCE = ("min_guidance_scale", "max_guidance_scale")
"""The names, in the arrays of a request, of the guidance scales of each video: "b"."""


@dataclass(frozen=True)
class FramewiseSampling:
    """How videos are drawn: guidance grows evenly from the first frame to the last."""

    sampler: Sampler = Euler()
    num_steps: int = 25
    min_guidance_scale: float | int = 1.0
    max_guidance_scale: float | int = 3.0
    noise: NoisePlan = Independent()

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise Refusal(f"num_steps must be at least 1, got {self.num_steps}")
        scales = self.min_guidance_scale, self.max_guidance_scale
        if not all(0 <= scale < float("inf") for scale in scales):
            raise Refusal(f"guidance scales must be finite and not below 0, got {scales}")

    def guided(self, denoise: Denoiser, arrays: Arrays) -> Denoiser:
        """`denoise`, compared with its answer where the picture is unknown.

        The first frame is that of what the denoiser sees: of a window, where it sees windows.
        arrays: may hold both of `GUIDANCE`, of each video.
        """
        if all(name in arrays for name in GUIDANCE):
            ramp = partial(frame_ramp, *(arrays[name] for name in GUIDANCE))
        elif self.min_guidance_scale == self.max_guidance_scale == 1:
            return denoise
        else:
            ramp = partial(frame_ramp, self.min_guidance_scale, self.max_guidance_scale)
        return cfg(denoise, lambda cond: null(cond, SVD_NULL_PORTS), ramp)


@dataclass(frozen=True, kw_only=True)
class StableVideo:
    """Videos from pictures. Sizes that are no multiple of the latents' are padded, then cropped.

    motion_bucket_id, noise_aug_strength: what the model is told beside the frame rate.
    decoding: how latents become frames when they are too many for the device.
    picture_drop: part of the training samples that see no picture: its token, its latents, or
        both, a third each.
    """

    process: Process = PROCESS
    video: VideoShape = VideoShape(num_frames=25, height=576, width=1024, fps=7.0)
    sampling: FramewiseSampling = FramewiseSampling()
    motion_bucket_id: float | int = 127
    noise_aug_strength: float | int = 0.02
    decoding: Pieces = Chunked(8)
    picture_drop: float = 0.15

    def __post_init__(self) -> None:
        denoising.check_chances(picture_drop=self.picture_drop)
        check_micro(
            fps=self.video.fps,
            motion_bucket_id=self.motion_bucket_id,
            noise_aug_strength=self.noise_aug_strength,
        )

    @property
    def pictures(self) -> int:
        return 1

    def check(self, model: ModelConfig) -> None:
        beside = 0 if model.vae is None else model.vae.latent_channels
        latent.check_model(
            "Stable Video", model, self.video, beside=beside, numbers=(MICRO_FEATURES,)
        )
        latent.check_frames_apart("Stable Video", model)
        if model.image_encoder is None:
            raise Refusal("Stable Video needs model.image_encoder")

    def prepare(self, model: ModelConfig, batch: Mapping[str, Any]) -> Arrays:
        """Each clip is told its own frame rate, and its own "motion_bucket_id" if it has one."""
        arrays = self.request(model, batch["caption"], list(latent.first_frames(batch)))
        for number, name in enumerate(("fps", "motion_bucket_id")):
            arrays["micro"][:, number] = batch.get(name, arrays["micro"][:, number])
        return {**arrays, **latent.prepared(model, self.video, batch)}

    def request(
        self, model: ModelConfig, captions: Sequence[str], pictures: Pictures | None
    ) -> Arrays:
        if pictures is None:
            raise Refusal("this model makes videos from pictures: give it one")
        assert model.image_encoder is not None and model.vae is not None
        size = self.video.height, self.video.width
        pad = latent.padding(self.video, model.vae.stride)
        seen = [image.clip_pixels(p, model.image_encoder.image_size) for p in pictures]
        known = [np.pad(image.vae_pixels(p, *size), pad, "edge") for p in pictures]
        told = [[self.video.fps, self.motion_bucket_id, self.noise_aug_strength]] * len(pictures)
        return {
            "seen": np.stack(seen),
            "picture": np.stack(known),
            "micro": np.array(told, np.float32),
        }

    def condition(self, model: VideoModel, arrays: Arrays) -> Cond:
        """All ports. "image_noise" of `arrays`, where there, is added to the picture."""
        assert model.image_encoder is not None
        noise = arrays.get("image_noise", jnp.zeros_like(arrays["picture"]))
        told = arrays["micro"]
        vae = latent.frame_vae_of(model)
        latents = image.image_latents(vae, arrays["picture"], told[:, 2], noise)
        count = self.video.num_frames
        return Cond(
            tokens={"image": image.encode_image(model.image_encoder, arrays["seen"])},
            vec=micro(told[:, 0], told[:, 1], told[:, 2], count),
            concat=jnp.repeat(latents[:, None], count, axis=1),
        )

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
        """The encoders are given: they have no gradient."""
        strength_key, noise_key, drop_key, loss_key = jax.random.split(key, 4)
        size = arrays["picture"].shape
        told = arrays["micro"].at[:, 2].set(_strengths(strength_key, size[0]))
        noised = {**arrays, "micro": told, "image_noise": jax.random.normal(noise_key, size)}
        cond = jax.lax.stop_gradient(self.condition(model, noised))
        cond = self._with_hidden(cond, drop_key)
        return self.price(self.answer(model), self.clean(model, arrays), cond, loss_key), {}

    def _with_hidden(self, cond: Cond, key: Array) -> Cond:
        """Of the samples that lose their picture, two thirds lose either way that it enters."""
        assert cond.vec is not None
        u, p = jax.random.uniform(key, cond.vec.shape[:1]), self.picture_drop
        cond = null(cond, ("tokens",), where=u < 2 / 3 * p)
        return null(cond, ("concat",), where=(p / 3 <= u) & (u < p))

    def draw(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        start_key, walk_key, picture_key = denoising.split(key, 3)
        rows, size = arrays["row"], arrays["picture"].shape[1:]
        pictures = denoising.noise(arrays, "image_noise", picture_key, rows, size)
        cond = self.condition(model, {**arrays, "image_noise": pictures})
        denoise = self.sampling.guided(self.answer(model), arrays)
        keys = denoising.Walk(start_key, walk_key)
        return denoising.walk(self, model, around(denoise), arrays, cond, keys)

    def decode(self, model: VideoModel, x0: Float[Array, "b t h w c"]) -> Float[Array, "b T H W 3"]:
        return latent.decode(model, x0, self.video, self.decoding)

    def generate(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        return self.decode(model, self.draw(model, arrays, key, around=around))


def _strengths(key: Array, count: int) -> Float[Array, " n"]:
    """ln s ~ N(-3, 0.5^2): the noise that training adds to pictures (appendix D)."""
    return jnp.exp(-3.0 + 0.5 * jax.random.normal(key, (count,)))
