"""A picture and a caption to a video that begins with the picture and does what the caption says.

The picture enters twice. It is frame 0 of the video, at level (1, 0): clean among noisy frames,
and it comes out as it went in. And it is appended to every frame as channels (with one more that
says whether there is a picture), so that each frame sees it where it stands, as Stable Video
Diffusion does with its image latent (Blattmann et al. 2023, section 4.3). Each frame is also told
its time, since how far things have moved from the picture depends on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from vdm_jax.conditioning.drop import drop
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.transform import cover
from vdm_jax.diffusion.denoiser import Denoiser, denoiser
from vdm_jax.diffusion.process import Process
from vdm_jax.models.cond import Cond
from vdm_jax.tasks import denoising, space
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

PICTURE_CHANNELS = 4  # the picture, and 1 where there is one
TIME_FEATURES = 8


@dataclass(frozen=True, kw_only=True)
class ImageToVideo:
    """Videos in pixels, from their first frame and, with a text encoder, a caption."""

    process: Process
    video: VideoShape = VideoShape()
    sampling: Sampling = Sampling()
    caption_drop: float = 0.1
    """Part of the training samples whose caption is hidden, for guidance."""
    picture_drop: float = 0.1
    """Part of the training samples whose picture is hidden: the model then makes it up."""

    def __post_init__(self) -> None:
        denoising.check_chances(caption_drop=self.caption_drop, picture_drop=self.picture_drop)

    @property
    def pictures(self) -> int:
        return 1

    def check(self, model: ModelConfig) -> None:
        if model.vae is not None:
            raise Refusal("image-to-video in pixels needs model.vae None")
        space.check_network(
            "image-to-video", model, self.video, beside=PICTURE_CHANNELS, numbers=(TIME_FEATURES,)
        )

    def prepare(self, model: ModelConfig, batch: Mapping[str, Any]) -> Arrays:
        video = batch["video"]
        return {"video": video, **self._pictured(video[:, 0]), **denoising.captioned(model, batch)}

    def request(
        self,
        model: ModelConfig,
        captions: Sequence[str],
        pictures: Pictures | None,
    ) -> Arrays:
        none = np.zeros((len(captions), *self.video.sizes[1:]), np.uint8)
        size = (self.video.height, self.video.width)
        fitted = none if pictures is None else np.stack([cover([p], size)[0] for p in pictures])
        arrays = self._pictured(fitted)
        if pictures is None:
            arrays["has_picture"][:] = False
        return {**arrays, **model.tokenize(captions)}

    @staticmethod
    def _pictured(pictures: UInt8[np.ndarray, "b h w c"]) -> Arrays:
        return {"picture": pictures, "has_picture": np.ones(len(pictures), bool)}

    def condition(self, model: VideoModel, arrays: Arrays) -> Cond:
        """Tokens of the caption, and the picture beside each frame."""
        t, h, w, _ = self.video.sizes
        present = arrays["has_picture"].astype(jnp.float32)[:, None, None, None, None]
        beside = (to_signal(arrays["picture"])[:, None] * present, present)
        sizes = (len(present), t, h, w)
        concat = [jnp.broadcast_to(part, (*sizes, part.shape[-1])) for part in beside]
        cond = denoising.encode_text(model, arrays)
        time = jnp.broadcast_to(time_features(t)[None], (len(present), t, TIME_FEATURES))
        return replace(cond, concat=jnp.concatenate(concat, axis=-1), vec=time)

    def known(self, cond: Cond) -> Bool[Array, "b t"]:
        """Frame 0 of the samples whose picture is there."""
        assert cond.concat is not None
        present = cond.concat[:, :, 0, 0, 3] > 0
        return present & (jnp.arange(self.video.num_frames) == 0)[None]

    def clean(self, model: VideoModel, arrays: Arrays) -> Float[Array, "b t h w c"]:
        return to_signal(arrays["video"])

    def answer(self, model: VideoModel) -> Denoiser:
        return denoiser(model.network, self.process.precond)

    def price(
        self, denoise: Denoiser, x0: Float[Array, "b t h w c"], cond: Cond, key: Array
    ) -> Float[Array, ""]:
        """The loss of any denoiser under these conditions, on the frames that it does not know."""
        return denoising.loss(self.process, denoise, x0, cond, key, known=self.known(cond))

    def loss(
        self, model: VideoModel, arrays: Arrays, key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        drop_key, loss_key = jax.random.split(key)
        hidden = {"tokens": self.caption_drop, "concat": self.picture_drop}
        cond = drop(self.condition(model, arrays), drop_key, hidden)
        return self.price(self.answer(model), self.clean(model, arrays), cond, loss_key), {}

    def draw(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        """Guidance hides the caption only: the picture stays in both of its branches."""
        cond, keys = self.condition(model, arrays), denoising.Walk(*denoising.split(key))
        assert cond.concat is not None
        known = cond.concat[..., :3], self.known(cond)
        denoise = denoising.guided(self.answer(model), cond, self.sampling, arrays)
        return denoising.walk(self, model, around(denoise), arrays, cond, keys, known=known)

    def decode(self, model: VideoModel, x0: Float[Array, "b t h w c"]) -> Float[Array, "b T H W 3"]:
        return x0

    def generate(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        return self.decode(model, self.draw(model, arrays, key, around=around))


def time_features(num_frames: int) -> Float[Array, "{num_frames} d"]:
    """cos and sin of k pi s for k = 1..4; s runs from 0 at the first frame to 1 at the last."""
    s = jnp.linspace(0.0, 1.0, num_frames)[:, None]
    angles = jnp.pi * s * jnp.arange(1, TIME_FEATURES // 2 + 1)[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
