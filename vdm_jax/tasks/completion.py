"""Videos from some of their frames: prediction, interpolation, extension, or from none of them.

One model for what Align Your Latents (Blattmann et al. 2023, arXiv:2304.08818, section 3.2) and
LVDM (He et al. 2022, arXiv:2211.13221, section 3.3) train two for. Which frames are known is drawn
for each training video (`known`); they stand beside the noisy ones, as they are or noised a little
(`conditioning.known`), and only the others are priced. All frames are noised alike, so that hiding
what is known is to hide the port, which context guidance does.

While a video is drawn, known frames are what they are at every step (`guidance.imputation`), and
they come out as they went in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vdm_jax.conditioning import known as knowing
from vdm_jax.conditioning.drop import drop, null
from vdm_jax.conditioning.known import AnyFrames, EndFrames, FirstFrames, KnownFrames, NoFrames
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.transform import cover
from vdm_jax.diffusion.denoiser import Denoiser, denoiser
from vdm_jax.diffusion.guidance import imputation, two_stream
from vdm_jax.diffusion.level import Level
from vdm_jax.diffusion.process import Process
from vdm_jax.models.cond import Cond
from vdm_jax.nn.pieces import Chunked, Pieces
from vdm_jax.tasks import denoising, space
from vdm_jax.tasks.denoising import GIVEN, KNOWN
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


@dataclass(frozen=True)
class ContextSampling(Sampling):
    """How videos are drawn from a model that is told frames."""

    context_scale: float = 1.0
    """Weight of the known frames (Blattmann et al. 2023, equation 4): more follows them harder."""


@dataclass(frozen=True)
class Noised:
    """Noise on the known frames, so that a model that reads its own output forgives its faults.

    Times along the schedule of the process, 0 is clean. LVDM trains on 0 to 0.25 and draws at 0.1.
    """

    most: float = 0.25
    drawing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.drawing <= self.most <= 1:
            raise Refusal(f"0 <= drawing <= most <= 1, got {self.drawing} and {self.most}")


@dataclass(frozen=True, kw_only=True)
class Completion:
    """Videos from known frames and, with a text encoder, a caption.

    given: the frames that a request's pictures are, by number; negative ones count from the end.
    known: which frames are known in training. noised: noise on them, in training and drawing.
    decoding: how latents become frames when they are too many for the device. With an autoencoder
        that mixes frames, `nn.pieces.Trimmed` shows no seam; `Chunked` does.
    caption_drop: part of the training samples whose caption is hidden, for guidance.
    """

    process: Process
    video: VideoShape = VideoShape()
    sampling: ContextSampling = ContextSampling()
    given: tuple[int, ...] = (0,)
    known: KnownFrames = knowing.OneOf(
        (NoFrames(), FirstFrames(8), EndFrames(), AnyFrames()), (0.25, 0.25, 0.25, 0.25)
    )
    noised: Noised | None = None
    decoding: Pieces = Chunked(8)
    caption_drop: float = 0.1

    def __post_init__(self) -> None:
        denoising.check_chances(caption_drop=self.caption_drop)
        knowing.at(self.given, self.video.num_frames, 1)

    @property
    def pictures(self) -> int:
        return len(self.given)

    def check(self, model: ModelConfig) -> None:
        beside = space.channels(model) + 1
        space.check_network("completion", model, self.video, beside=beside)
        self._known(model, self.given, 1)

    def prepare(self, model: ModelConfig, batch: Mapping[str, Any]) -> Arrays:
        """Known are the frames that a request gives."""
        count = len(batch["caption"])
        return {
            **space.prepared(model, self.video, batch),
            **denoising.captioned(model, batch),
            KNOWN: self._known(model, self.given, count),
        }

    def _known(self, model: ModelConfig, given: Sequence[int], count: int) -> np.ndarray:
        """Of the space that the network works in: each frame there whose frames are all `given`."""
        known = knowing.at(given, self.video.num_frames, count)
        parts = known.reshape(count, -1, space.span(model, self.video))
        whole = np.all(parts, axis=-1)
        if (parts.any(-1) != whole).any():
            raise Refusal(
                f"this model takes {parts.shape[-1]} frames at once, from the first on; of some it "
                f"would be given a part: {tuple(given)}"
            )
        return np.asarray(whole)

    def request(
        self, model: ModelConfig, captions: Sequence[str], pictures: Pictures | None
    ) -> Arrays:
        """For each caption as many pictures as are `given`, or none for all."""
        frames = np.zeros((len(captions), *self.video.sizes), np.uint8)
        given = self.given if pictures is not None else ()
        if pictures is not None:
            if len(pictures) != len(given) * len(captions):
                raise Refusal(
                    f"each video takes {len(given)} pictures, its frames {given}; got "
                    f"{len(pictures)} for {len(captions)}"
                )
            fitted = [cover([picture], self.video.sizes[1:3])[0] for picture in pictures]
            frames[:, given] = np.reshape(fitted, (len(captions), -1, *self.video.sizes[1:]))
        return {
            "video": space.padded(model, self.video, frames),
            KNOWN: self._known(model, given, len(captions)),
            **model.tokenize(captions),
        }

    def condition(self, model: VideoModel, arrays: Arrays) -> Cond:
        """Tokens of the caption, and the known frames as they are."""
        x0 = self._there(model, arrays)
        return self._told(model, arrays, x0, arrays[KNOWN], _clean(), jnp.zeros_like(x0))

    def _there(self, model: VideoModel, arrays: Arrays) -> Float[Array, "b t h w c"]:
        """What is known, in the space that the network works in.

        Where the autoencoder mixes frames, those of "video" that are not known are first made the
        nearest known ones: they are not to be told of. Training tells of latents of whole clips,
        as Latent Video Diffusion's does; those that a film goes on from are of whole clips too.
        """
        if GIVEN in arrays:
            return arrays[GIVEN]
        span = self.video.num_frames // arrays[KNOWN].shape[1]
        if span > 1 and "video" in arrays:
            near = knowing.nearest(jnp.repeat(arrays[KNOWN], span, axis=1))
            frames = jnp.take_along_axis(arrays["video"], near[..., None, None, None], axis=1)
            arrays = {**arrays, "video": frames}
        return self.clean(model, arrays)

    def _told(self, model, arrays, x0, known, level, eps) -> Cond:
        concat = knowing.beside(x0, known, level, eps)
        return replace(denoising.encode_text(model, arrays), concat=concat)

    def clean(self, model: VideoModel, arrays: Arrays) -> Float[Array, "b t h w c"]:
        return space.clean(model, arrays)

    def answer(self, model: VideoModel) -> Denoiser:
        return denoiser(model.network, self.process.precond)

    def price(
        self, denoise: Denoiser, x0: Float[Array, "b t h w c"], cond: Cond, key: Array
    ) -> Float[Array, ""]:
        """The loss of any denoiser under these conditions, of the frames that it is not told."""
        assert cond.concat is not None
        counts = 1.0 - knowing.told(cond.concat).astype(jnp.float32)
        return denoising.loss(self.process, denoise, x0, cond, key, counts=counts)

    def loss(
        self, model: VideoModel, arrays: Arrays, key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        known_key, noise_key, drop_key, loss_key = jax.random.split(key, 4)
        x0 = self.clean(model, arrays)
        known = self.known.sample(known_key, (x0.shape[0], x0.shape[1]))
        cond = self._told(model, arrays, x0, known, *self._noise_on(noise_key, x0))
        cond = drop(cond, drop_key, {"tokens": self.caption_drop})
        return self.price(self.answer(model), x0, cond, loss_key), {}

    def _noise_on(self, key: Array, x0: Float[Array, "b t h w c"]) -> tuple[Level, Array]:
        """Level and noise of the known frames of each training video."""
        if self.noised is None:
            return _clean(), jnp.zeros_like(x0)
        time_key, eps_key = jax.random.split(key)
        time = self.noised.most * jax.random.uniform(time_key, (len(x0), 1))
        return self.process.schedule.level(time), jax.random.normal(eps_key, x0.shape)

    def _noise_drawn(
        self, key: Array, rows: Array, x0: Float[Array, "b t h w c"]
    ) -> tuple[Level, Array]:
        """The same of videos that are drawn."""
        if self.noised is None:
            return _clean(), jnp.zeros_like(x0)
        level = self.process.schedule.level(jnp.float32(self.noised.drawing))
        return level, denoising.noise({}, "", key, rows, x0.shape[1:])

    def draw(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        """KNOWN of `arrays` says which frames are known, GIVEN or "video" what they are."""
        keys, eps_key = denoising.Walk(*denoising.split(key)), denoising.folded(key, 1)
        known, rows = arrays[KNOWN], arrays["row"]
        x0 = self._there(model, arrays)
        cond = self._told(model, arrays, x0, known, *self._noise_drawn(eps_key, rows, x0))
        denoise = imputation(around(self._guided(self.answer(model), arrays)), known, x0)
        drawn = denoising.walk(self, model, denoise, arrays, cond, keys)
        return _imputed(drawn, known, x0)

    def _guided(self, denoise: Denoiser, arrays: Arrays) -> Denoiser:
        """Compared with its answer without what is known, and without the caption either."""
        scales = self.sampling.context_scale, denoising.guidance_scale(self.sampling, arrays)
        if denoising.GUIDANCE not in arrays and scales == (1.0, 1.0):
            return denoise
        return two_stream(
            denoise,
            lambda cond: null(cond, ("tokens", "concat")),
            lambda cond: null(cond, ("tokens",)),
            *scales,
        )

    def decode(self, model: VideoModel, x0: Float[Array, "b t h w c"]) -> Float[Array, "b T H W 3"]:
        return space.decode(model, x0, self.video, self.decoding)

    def generate(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        """Known frames come out as they went in, not by way of the autoencoder."""
        video = self.decode(model, self.draw(model, arrays, key, around=around))
        if "video" not in arrays:
            return video
        given = space.cropped(model, self.video, to_signal(arrays["video"]))
        span = given.shape[1] // arrays[KNOWN].shape[1]
        return _imputed(video, jnp.repeat(arrays[KNOWN], span, axis=1), given)


def _clean() -> Level:
    return Level(jnp.float32(1), jnp.float32(0))


def _imputed(
    video: Float[Array, "b t h w c"],
    known: Bool[Array, "b t"],
    given: Float[Array, "b t h w c"],
) -> Float[Array, "b t h w c"]:
    return jnp.where(known[..., None, None, None], given, video)
