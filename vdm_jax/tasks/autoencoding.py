"""Pictures or clips through an autoencoder and back: what makes the latents of a diffusion model.

Rombach et al. 2022 (arXiv:2112.10752), appendix G, after Esser et al. 2021 (arXiv:2012.09841): what
comes out is compared with what went in by colour and by LPIPS, a patch discriminator says whether
it looks real, and a little KL keeps latents near a unit normal. With `DECODER` as what is trained,
a temporal decoder learns to read the latents of an image encoder that stays as it is (Blattmann et
al. 2023, arXiv:2304.08818, section 3.1.1).

Both players learn in one backward pass. The decoder sees the discriminator as fixed, and the
discriminator sees what was decoded as fixed; so one gradient holds that of either loss by itself.
The last layer's weights balance the two demands on the decoder (`AdaptiveWeight`): since their
gradients by the decoded frames are known before the decoder is gone back through, that costs no
second pass either.

The published losses are sums over a frame; these are means, all divided alike, so the published
weights hold. Gradients are clipped together: keep `optim.clip_norm` above what either player needs.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from vdm_jax.adapters.trainable import Selected
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.transform import cover
from vdm_jax.diffusion.denoiser import Denoiser
from vdm_jax.diffusion.level import Level
from vdm_jax.models.cond import Cond
from vdm_jax.models.lpips import LPIPS
from vdm_jax.models.patch_discriminator import PatchDiscriminator
from vdm_jax.models.posterior import Posterior
from vdm_jax.models.vae import VAE
from vdm_jax.models.video_vae import VideoVAE
from vdm_jax.nn.conv import fold
from vdm_jax.nn.pieces import Pieces, Whole
from vdm_jax.tasks.task import (
    Around,
    Arrays,
    ModelConfig,
    Pictures,
    VideoModel,
    VideoShape,
    to_signal,
)

Module = TypeVar("Module", bound=nnx.Module)

PLAYERS = Selected(("vae.*", "discriminator.*"))
"""All but LPIPS, which is no player."""

DECODER = Selected(("vae.decoder.*", "discriminator.*"))
"""The latents stay as they are, and every diffusion model of them remains of use."""

LEAST = 1e-4  # added to the gradient that is divided by
LARGEST = 1e4  # of what is quotient


@runtime_checkable
class GeneratorWeight(Protocol):
    """How much the discriminator's opinion counts beside likeness."""

    def __call__(self, likeness: Array, opinion: Array) -> Float[Array, ""]:
        """The weight, from the gradients of both by the weights of the decoder's last layer."""
        ...


@dataclass(frozen=True)
class AdaptiveWeight:
    """As much as likeness, times `share` (Esser et al. 2021, equation 7)."""

    share: float = 0.5

    def __call__(self, likeness: Array, opinion: Array) -> Float[Array, ""]:
        quotient = optax.tree.norm(likeness) / (optax.tree.norm(opinion) + LEAST)
        return self.share * jnp.clip(quotient, 0.0, LARGEST)


@dataclass(frozen=True)
class FixedWeight:
    """Always the same."""

    weight: float = 0.1

    def __call__(self, likeness: Array, opinion: Array) -> Float[Array, ""]:
        del likeness, opinion
        return jnp.float32(self.weight)


class Decoded(NamedTuple):
    """Frames, and from their gradient that of the kernel which made them last."""

    video: Float[Array, "b t h w 3"]
    last_layer: Callable[[Array], Array]


class Told(NamedTuple):
    """A loss of decoded frames with its gradients, all of them constants."""

    value: Float[Array, ""]
    scalars: dict[str, Float[Array, ""]]
    gradient: Float[Array, "b t h w 3"]
    by_last_layer: Float[Array, "*window i o"]

    def plus(self, weight: Float[Array, ""], other: "Told") -> "Told":
        """The sum with `weight` times the other."""
        add = lambda mine, theirs: mine + weight * theirs  # noqa: E731
        return Told(
            add(self.value, other.value),
            {**self.scalars, **other.scalars},
            add(self.gradient, other.gradient),
            add(self.by_last_layer, other.by_last_layer),
        )


@dataclass(frozen=True, kw_only=True)
class Autoencoding:
    """Videos, or pictures as videos of one frame, from their own latents.

    Of the model's parts a `vae` is needed. Without `lpips` colours alone are compared, without a
    `discriminator` nothing is asked to look real.

    lpips_weight: of LPIPS beside the mean absolute difference of colours in -1..1.
    kl_weight: of the KL divergence from a unit normal, in nats a latent frame over the number of
        values in the frames that it stands for.
    disc_start: the step from which the discriminator learns and is heard.
    decoding: how latents become frames when they are too many for the device; not in training.
    """

    video: VideoShape = VideoShape(num_frames=1, height=256, width=256)
    lpips_weight: float = 1.0
    kl_weight: float = 1e-6
    disc_start: int = 50_000
    disc_weight: GeneratorWeight = AdaptiveWeight()
    decoding: Pieces = Whole()

    def __post_init__(self) -> None:
        for name in ("lpips_weight", "kl_weight", "disc_start"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise Refusal(f"{name} must not be below 0, got {getattr(self, name)}")

    @property
    def pictures(self) -> int:
        return 1

    def check(self, model: ModelConfig) -> None:
        if model.vae is None or model.network is not None:
            raise Refusal("autoencoding needs model.vae, and model.network None")
        h, w, stride = self.video.height, self.video.width, model.vae.stride
        if h % stride or w % stride:
            raise Refusal(f"task.video is {h}x{w}; model.vae takes multiples of {stride}")
        model.vae.frames(self.video.num_frames)
        for name in ("lpips", "discriminator"):
            part = getattr(model, name)
            if part is not None and min(h, w) < part.smallest:
                raise Refusal(f"task.video is {h}x{w}; model.{name} takes {part.smallest} and more")

    def prepare(self, model: ModelConfig, batch: Mapping[str, Any]) -> Arrays:
        return {"video": batch["video"]}

    def request(
        self, model: ModelConfig, captions: Sequence[str], pictures: Pictures | None
    ) -> Arrays:
        """Of pictures the videos in which they stand still."""
        if pictures is None:
            raise Refusal("an autoencoder gives back pictures: give it one")
        size, frames = (self.video.height, self.video.width), self.video.num_frames
        fitted = np.stack([cover([picture], size)[0] for picture in pictures])
        return {"video": np.repeat(fitted[:, None], frames, axis=1)}

    def condition(self, model: VideoModel, arrays: Arrays) -> Cond:
        return Cond()

    def clean(self, model: VideoModel, arrays: Arrays) -> Float[Array, "b t h w c"]:
        return to_signal(arrays["video"])

    def answer(self, model: VideoModel) -> Denoiser:
        """What comes out is the answer to what goes in, whatever its level."""
        return lambda z, level, cond: self.reconstruct(model, z)

    def price(
        self, denoise: Denoiser, x0: Float[Array, "b t h w c"], cond: Any, key: Array
    ) -> Float[Array, ""]:
        """Mean absolute difference of colours in -1..1: the same for every model and answer."""
        clean = Level(jnp.ones(x0.shape[:2]), jnp.zeros(x0.shape[:2]))
        return jnp.abs(denoise(x0, clean, cond) - x0).mean()

    def reconstruct(
        self, model: VideoModel, video: Float[Array, "b t h w 3"]
    ) -> Float[Array, "b t h w 3"]:
        """By way of the most likely latents."""
        vae = _vae(model)
        latents = vae.config.encoding(lambda video: vae.encode_video(video).mode())(video)
        return self.decoding(vae.decode)(latents)

    def generate(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        del key, around  # nothing is drawn
        return self.reconstruct(model, self.clean(model, arrays))

    def loss(
        self, model: VideoModel, arrays: Arrays, key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """That of the autoencoder and that of the discriminator; see the module's docstring.

        Reads "step", how many steps were taken. "latent_std" among the scalars is what a diffusion
        model on these latents divides by: its `vae.scaling_factor` is 1 / latent_std.
        """
        vae, video = _vae(model), self.clean(model, arrays)
        posterior = vae.encode_video(video)
        decoded = _decoded(vae, posterior.sample(key))
        told_by_each = math.prod(video.shape[1:]) // posterior.mean.shape[1]
        kl = divergence(posterior) / told_by_each
        scalars = {"kl": kl, "latent_std": jnp.std(posterior.mode())}
        told = self._likeness(model.lpips, video, decoded)
        judged = jnp.float32(0)
        if model.discriminator is not None:
            heard = (arrays["step"] >= self.disc_start).astype(jnp.float32)
            opinion = _opinion(model.discriminator, decoded)
            weight = heard * self.disc_weight(told.by_last_layer, opinion.by_last_layer)
            told = told.plus(weight, opinion)
            judged = hinge(model.discriminator, video, jax.lax.stop_gradient(decoded.video))
            scalars |= {"generator_weight": weight, "discriminator_loss": judged}
            judged *= heard
        loss = with_gradient(told.value, decoded.video, told.gradient)
        return loss + self.kl_weight * kl + judged, {**scalars, **told.scalars}

    def _likeness(
        self, lpips: LPIPS | None, video: Float[Array, "b t h w 3"], decoded: Decoded
    ) -> "Told":
        """How far what was decoded is from the video, by colour and by LPIPS."""

        def unlike(made: Float[Array, "b t h w 3"]) -> tuple[Float[Array, ""], dict]:
            l1 = jnp.abs(made - video).mean()
            if lpips is None:
                return l1, {"l1": l1}
            seen = still(lpips)(fold(made), fold(video)).mean()
            return l1 + self.lpips_weight * seen, {"l1": l1, "lpips": seen}

        return _told(unlike, decoded)


def _told(
    loss: Callable[[Array], tuple[Float[Array, ""], dict[str, Float[Array, ""]]]], decoded: Decoded
) -> Told:
    copy = jax.lax.stop_gradient(decoded.video)
    (value, scalars), gradient = jax.value_and_grad(loss, has_aux=True)(copy)
    return Told(value, scalars, gradient, decoded.last_layer(gradient))


def _opinion(discriminator: PatchDiscriminator, decoded: Decoded) -> Told:
    """How little the discriminator, as it is, takes what was decoded for true."""
    judge = still(discriminator)
    return _told(lambda made: (-judge(made).mean(), {}), decoded)


def hinge(
    discriminator: PatchDiscriminator,
    true: Float[Array, "b t h w 3"],
    made: Float[Array, "b t h w 3"],
) -> Float[Array, ""]:
    """The discriminator's loss: 0 where it says at least 1 of true, at most -1 of made patches."""
    relu = jax.nn.relu
    return (relu(1 - discriminator(true)).mean() + relu(1 + discriminator(made)).mean()) / 2


def divergence(posterior: Posterior) -> Float[Array, ""]:
    """KL(posterior || unit normal) of a latent frame, in nats; the mean over them."""
    mean, logvar = posterior
    return (mean**2 + jnp.exp(logvar) - 1 - logvar).sum((-3, -2, -1)).mean() / 2


def with_gradient(
    value: Float[Array, ""], x: Float[Array, "*shape"], gradient: Float[Array, "*shape"]
) -> Float[Array, ""]:
    """`value`, with `gradient` for its derivative by `x` and none by anything else."""
    pull = jnp.vdot(jax.lax.stop_gradient(gradient), x)
    return jax.lax.stop_gradient(value) + (pull - jax.lax.stop_gradient(pull))


def still(module: Module) -> Module:
    """The module with weights that have no gradient."""
    graphdef, params = nnx.split(module)
    return nnx.merge(graphdef, jax.lax.stop_gradient(params))


def _decoded(vae: VAE | VideoVAE, latents: Float[Array, "b t h w c"]) -> Decoded:
    graphdef, params = nnx.split(vae)
    weights = dict(nnx.to_flat_state(params))
    path = ("decoder", vae.decoder.LAST, "kernel")
    last = weights[path]

    def decode(kernel: Array) -> Array:
        changed = nnx.from_flat_state({**weights, path: last.replace(kernel)})
        return nnx.merge(graphdef, changed).decode(latents)

    video, pull = jax.vjp(decode, last.get_value())
    return Decoded(video, lambda gradient: pull(gradient)[0])


def _vae(model: VideoModel) -> VAE | VideoVAE:
    assert model.vae is not None  # as `check` demands
    return model.vae
