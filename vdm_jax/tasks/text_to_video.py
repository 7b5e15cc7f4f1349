"""Captions to videos, in pixels or in latents; without a text encoder, videos from noise alone.

Pictures may be trained on beside videos (`tasks.joint`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.denoiser import Denoiser, denoiser
from vdm_jax.diffusion.process import Process
from vdm_jax.nn.pieces import Chunked, Pieces
from vdm_jax.tasks import denoising, joint, space
from vdm_jax.tasks.task import (
    Around,
    Arrays,
    ModelConfig,
    Pictures,
    Sampling,
    VideoModel,
    VideoShape,
)


@dataclass(frozen=True, kw_only=True)
class TextToVideo:
    """Videos from their captions. A class is a caption of one word.

    decoding: how latents become frames when they are too many for the device.
    """

    process: Process
    video: VideoShape = VideoShape()
    sampling: Sampling = Sampling()
    decoding: Pieces = Chunked(8)
    caption_drop: float = 0.1
    """Part of the training samples whose caption is hidden, for guidance."""

    def __post_init__(self) -> None:
        denoising.check_chances(caption_drop=self.caption_drop)

    @property
    def pictures(self) -> int:
        return 0

    def check(self, model: ModelConfig) -> None:
        space.check_network("text-to-video", model, self.video, beside=0)

    def prepare(self, model: ModelConfig, batch: Mapping[str, Any]) -> Arrays:
        return {
            **space.prepared(model, self.video, batch),
            **denoising.captioned(model, batch),
            **joint.prepared(model, self.video, batch),
        }

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
        return space.clean(model, arrays)

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
        return joint.loss(self, model, arrays, key)

    def draw(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        cond, keys = self.condition(model, arrays), denoising.Walk(*denoising.split(key))
        denoise = denoising.guided(self.answer(model), cond, self.sampling, arrays)
        return denoising.walk(self, model, around(denoise), arrays, cond, keys)

    def decode(self, model: VideoModel, x0: Float[Array, "b t h w c"]) -> Float[Array, "b T H W 3"]:
        return space.decode(model, x0, self.video, self.decoding)

    def generate(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        return self.decode(model, self.draw(model, arrays, key, around=around))
