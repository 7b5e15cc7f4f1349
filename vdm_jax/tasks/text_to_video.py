"""Captions to videos; with a model that has no text encoder, videos from noise alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Float

from vdm_jax.conditioning.drop import drop
from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.denoiser import Denoiser, denoiser
from vdm_jax.diffusion.process import Process
from vdm_jax.tasks import denoising
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
class TextToVideo:
    """Videos in pixels, from their captions. A class is a caption of one word."""

    process: Process
    video: VideoShape = VideoShape()
    sampling: Sampling = Sampling()
    caption_drop: float = 0.1
    """Part of the training samples whose caption is hidden, for guidance."""

    def __post_init__(self) -> None:
        denoising.check_chances(caption_drop=self.caption_drop)

    @property
    def pictures(self) -> int:
        return 0

    def check(self, model: ModelConfig) -> None:
        denoising.check_network("text-to-video", model.network, self.video, concat=None, vec=None)

    def prepare(self, model: ModelConfig, batch: Mapping[str, Any]) -> Arrays:
        return {"video": batch["video"], **model.tokenize(batch["caption"])}

    def request(
        self,
        model: ModelConfig,
        captions: Sequence[str],
        pictures: Pictures | None,
    ) -> Arrays:
        if pictures is not None:
            raise Refusal("this model makes videos from captions only; it takes no picture")
        return model.tokenize(captions)

    def clean(self, model: VideoModel, arrays: Arrays) -> Float[Array, "b t h w c"]:
        return to_signal(arrays["video"])

    def answer(self, model: VideoModel) -> Denoiser:
        return denoiser(model.network, self.process.precond)

    def price(
        self, denoise: Denoiser, x0: Float[Array, "b t h w c"], cond: Any, key: Array
    ) -> Float[Array, ""]:
        """The loss of any denoiser, without dropped conditions: for comparisons."""
        return denoising.loss(self.process, denoise, x0, cond, key)

    def condition(self, model: VideoModel, arrays: Arrays) -> Any:
        return denoising.encode_text(model, arrays)

    def loss(
        self, model: VideoModel, arrays: Arrays, key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        drop_key, loss_key = jax.random.split(key)
        cond = drop(self.condition(model, arrays), drop_key, {"tokens": self.caption_drop})
        return self.price(self.answer(model), self.clean(model, arrays), cond, loss_key), {}

    def generate(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        cond = self.condition(model, arrays)
        return denoising.sample(
            self.process, self.sampling, model, self.video, arrays, cond, key, around
        )
