"""What is known of a video, imposed on a model that was not trained to be told it.

Video Diffusion Models (Ho et al. 2022, arXiv:2204.03458, section 3.1): extension, interpolation
and super-resolution from a model of whole videos, by the gradient of how far its answer is from
what is known (equation 7). Known frames themselves stand as they are. Any of the two, or both: the
frames that are KNOWN, and a smaller video of which the drawn one is the larger.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.denoiser import Denoiser
from vdm_jax.diffusion.guidance import (
    Downsample,
    Masked,
    Observation,
    imputation,
    reconstruction,
)
from vdm_jax.diffusion.process import Process
from vdm_jax.models.cond import Cond
from vdm_jax.tasks.completion import Completion
from vdm_jax.tasks.denoising import GIVEN, KNOWN
from vdm_jax.tasks.task import (
    Around,
    Arrays,
    Denoising,
    ModelConfig,
    Pictures,
    VideoModel,
    VideoShape,
)

SMALL = "small"
"""The name of the smaller video, in the space that the network works in: "b t h/f w/f c"."""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """`task`, its videos drawn to agree with KNOWN and GIVEN, and with SMALL, of its arrays.

    frames_weight, small_weight: w_r of each; 0 takes the gradient of neither, which leaves known
    frames standing among others that heed them only as far as the network does by itself. A pixel
    of the smaller video is a mean of factor^2, so its error reaches each of them divided by as
    much: small_weight = factor^2 is what corrects it whole where little noise is left.
    """

    task: Denoising
    frames_weight: float = 2.0
    small_weight: float = 2.0

    def __post_init__(self) -> None:
        for name in ("frames_weight", "small_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise Refusal(f"{name} must not be below 0, got {getattr(self, name)}")

    @property
    def process(self) -> Process:
        return self.task.process

    @property
    def sampling(self) -> Any:
        return self.task.sampling

    @property
    def video(self) -> VideoShape:
        return self.task.video

    @property
    def pictures(self) -> int:
        return self.task.pictures

    def check(self, model: ModelConfig) -> None:
        self.task.check(model)

    def prepare(self, model: ModelConfig, batch: Mapping[str, Any]) -> Arrays:
        return self.task.prepare(model, batch)

    def request(
        self, model: ModelConfig, captions: Sequence[str], pictures: Pictures | None
    ) -> Arrays:
        return self.task.request(model, captions, pictures)

    def condition(self, model: VideoModel, arrays: Arrays) -> Cond:
        return self.task.condition(model, arrays)

    def clean(self, model: VideoModel, arrays: Arrays) -> Float[Array, "b t h w c"]:
        return self.task.clean(model, arrays)

    def answer(self, model: VideoModel) -> Denoiser:
        return self.task.answer(model)

    def price(
        self, denoise: Denoiser, x0: Float[Array, "b t h w c"], cond: Cond, key: Array
    ) -> Float[Array, ""]:
        return self.task.price(denoise, x0, cond, key)

    def loss(
        self, model: VideoModel, arrays: Arrays, key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        return self.task.loss(model, arrays, key)

    def draw(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        def agreeing(denoise: Denoiser) -> Denoiser:
            return self._held(reconstruction(around(denoise), self._observed(arrays)), arrays)

        drawn = self.task.draw(model, arrays, key, around=agreeing)
        if GIVEN not in arrays:
            return drawn
        return jnp.where(arrays[KNOWN][..., None, None, None], arrays[GIVEN], drawn)

    def _observed(self, arrays: Arrays) -> list[Observation]:
        observed = []
        if GIVEN in arrays:
            seen = Masked(arrays[KNOWN])
            observed.append(Observation(seen, seen.observe(arrays[GIVEN]), self.frames_weight))
        if SMALL in arrays:
            small = arrays[SMALL]
            factor = self.video.height // small.shape[2]
            observed.append(Observation(Downsample(factor), small, self.small_weight))
        return observed

    @staticmethod
    def _held(denoise: Denoiser, arrays: Arrays) -> Denoiser:
        if GIVEN not in arrays:
            return denoise
        return imputation(denoise, arrays[KNOWN], arrays[GIVEN])

    def decode(self, model: VideoModel, x0: Float[Array, "b t h w c"]) -> Float[Array, "b T H W 3"]:
        return self.task.decode(model, x0)

    def generate(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        return self.decode(model, self.draw(model, arrays, key, around=around))


def completing(task: Denoising) -> Denoising:
    """`task` if it was trained to be told KNOWN frames, else made to agree with them."""
    return task if isinstance(task, Completion) else Reconstruction(task=task)
