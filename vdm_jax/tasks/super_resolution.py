"""A small video, and with a text encoder its caption, to a large one: the last stage of a cascade.

The small video, enlarged, stands beside the noisy one as channels (Ho et al. 2021, Cascaded
Diffusion Models, arXiv:2106.15282, section 4; over video Blattmann et al. 2023, arXiv:2304.08818,
section 3.4), in pixels or encoded into latents. Noise is added to it (the first, section 4.2), in
training as much as is drawn for each video, and how much is told: what is drawn from another
model's video is then no stranger than what was trained on.

The noise is told as `conditioning.known` tells it, by one more channel that says how much beside
it is signal. So any network can be told, without the port `vec`; the null of all of it is zeros,
which is no signal, as it should be; and tiles and windows of a video are cut with what they are
told, in one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from vdm_jax.conditioning import known as knowing
from vdm_jax.conditioning.drop import drop
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.degrade import AreaMean, Degradation, smaller
from vdm_jax.data.transform import cover
from vdm_jax.diffusion.denoiser import Denoiser, denoiser
from vdm_jax.diffusion.process import Process
from vdm_jax.models.cond import Cond
from vdm_jax.nn.pieces import Chunked, Pieces
from vdm_jax.tasks import denoising, space
from vdm_jax.tasks.task import (
    Around,
    Arrays,
    ModelConfig,
    Pictures,
    Sampling,
    VideoModel,
    VideoShape,
)

ENLARGED = "enlarged"
"""The name, in the arrays of a task, of the small video at the size of the large one."""


@dataclass(frozen=True, kw_only=True)
class SuperResolution:
    """Large videos from small ones; a request's pictures are the frames of the small video.

    video: the large ones. degrade: how the small ones of training are made.
    noise_aug, most_noise: noise on the small video in drawing, and at most in training, as times
        along the schedule of the process: 0 is none. More forgives more that is wrong in it.
    decoding: how latents become frames when they are too many for the device.
    caption_drop: part of the training samples whose caption is hidden, for guidance.
    """

    process: Process
    video: VideoShape = VideoShape()
    degrade: Degradation = AreaMean(4)
    sampling: Sampling = Sampling()
    noise_aug: float = 0.1
    most_noise: float = 0.5
    decoding: Pieces = Chunked(8)
    caption_drop: float = 0.1

    def __post_init__(self) -> None:
        denoising.check_chances(caption_drop=self.caption_drop)
        if not 0 <= self.noise_aug <= self.most_noise <= 1:
            raise Refusal(
                f"0 <= noise_aug <= most_noise <= 1, got {self.noise_aug} and {self.most_noise}"
            )
        smaller(self.video.height, self.video.width, self.degrade.factor)

    @property
    def pictures(self) -> int:
        return self.video.num_frames

    @property
    def small(self) -> tuple[int, int]:
        """Height and width of the small videos."""
        return smaller(self.video.height, self.video.width, self.degrade.factor)

    def check(self, model: ModelConfig) -> None:
        beside = space.channels(model) + 1
        space.check_network("super-resolution", model, self.video, beside=beside)

    def prepare(self, model: ModelConfig, batch: Mapping[str, Any]) -> Arrays:
        if "video" not in batch:
            raise Refusal(
                "super-resolution makes the small video from frames; these samples hold latents"
            )
        small = np.stack([self.degrade(video) for video in batch["video"]])
        return {
            **space.prepared(model, self.video, batch),
            **denoising.captioned(model, batch),
            **self._enlarged(model, small),
        }

    def request(
        self, model: ModelConfig, captions: Sequence[str], pictures: Pictures | None
    ) -> Arrays:
        """For each caption the frames of a small video, in order."""
        count = 0 if pictures is None else len(pictures)
        if pictures is None or count != self.pictures * len(captions):
            raise Refusal(
                f"each video takes the {self.pictures} frames of a small one of "
                f"{self.small[0]}x{self.small[1]}; got {count} for {len(captions)}"
            )
        fitted = np.stack([cover([picture], self.small)[0] for picture in pictures])
        small = fitted.reshape(len(captions), -1, *fitted.shape[1:])
        return {**self._enlarged(model, small), **model.tokenize(captions)}

    def _enlarged(self, model: ModelConfig, small: UInt8[np.ndarray, "b t _ _ 3"]) -> Arrays:
        size = self.video.height, self.video.width
        large = np.stack([cover(video, size) for video in small])
        return {ENLARGED: space.padded(model, self.video, large)}

    def condition(self, model: VideoModel, arrays: Arrays) -> Cond:
        """Tokens of the caption, and the small video as it is."""
        x = space.encode(model, arrays[ENLARGED])
        return self._told(model, arrays, x, jnp.zeros((1, 1)), jnp.zeros_like(x))

    def _told(
        self,
        model: VideoModel,
        arrays: Arrays,
        x: Float[Array, "b t h w c"],
        time: Float[Array, "#b 1"],
        eps: Float[Array, "b t h w c"],
    ) -> Cond:
        """The enlarged video with the noise `eps` of that time beside it."""
        everywhere = jnp.ones(x.shape[:2], bool)
        concat = knowing.beside(x, everywhere, self.process.schedule.level(time), eps)
        return replace(denoising.encode_text(model, arrays), concat=concat)

    def clean(self, model: VideoModel, arrays: Arrays) -> Float[Array, "b t h w c"]:
        return space.clean(model, arrays)

    def answer(self, model: VideoModel) -> Denoiser:
        return denoiser(model.network, self.process.precond)

    def price(
        self, denoise: Denoiser, x0: Float[Array, "b t h w c"], cond: Cond, key: Array
    ) -> Float[Array, ""]:
        """The loss of any denoiser under these conditions."""
        return denoising.loss(self.process, denoise, x0, cond, key)

    def loss(
        self, model: VideoModel, arrays: Arrays, key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        time_key, eps_key, drop_key, loss_key = jax.random.split(key, 4)
        x = space.encode(model, arrays[ENLARGED])
        time = self.most_noise * jax.random.uniform(time_key, (len(x), 1))
        cond = self._told(model, arrays, x, time, jax.random.normal(eps_key, x.shape))
        cond = drop(cond, drop_key, {"tokens": self.caption_drop})
        return self.price(self.answer(model), self.clean(model, arrays), cond, loss_key), {}

    def draw(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        """Guidance hides the caption; the small video stays in both branches."""
        start_key, walk_key, eps_key = denoising.split(key, 3)
        x = space.encode(model, arrays[ENLARGED])
        eps = denoising.noise({}, "", eps_key, arrays["row"], x.shape[1:])
        cond = self._told(model, arrays, x, jnp.full((1, 1), self.noise_aug), eps)
        denoise = denoising.guided(self.answer(model), cond, self.sampling, arrays)
        keys = denoising.Walk(start_key, walk_key)
        return denoising.walk(self, model, around(denoise), arrays, cond, keys)

    def decode(self, model: VideoModel, x0: Float[Array, "b t h w c"]) -> Float[Array, "b T H W 3"]:
        return space.decode(model, x0, self.video, self.decoding)

    def generate(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        return self.decode(model, self.draw(model, arrays, key, around=around))
