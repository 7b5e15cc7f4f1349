"""The Task contract, and the model that tasks train: a network with the encoders it needs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from vdm_jax.conditioning.sentence import SentenceEncoderConfig
from vdm_jax.conditioning.text import CLIPTextEncoderConfig, WordEncoderConfig
from vdm_jax.core.mesh import build_abstract
from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.denoiser import Denoiser
from vdm_jax.diffusion.noise import Independent, NoisePlan
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.sampler import Heun, Sampler
from vdm_jax.models.clip_vision import CLIPVisionConfig
from vdm_jax.models.cond import Cond
from vdm_jax.models.lpips import LPIPSConfig
from vdm_jax.models.patch_discriminator import PatchDiscriminatorConfig
from vdm_jax.models.svd_unet import SVDUNetConfig
from vdm_jax.models.vae import VAEConfig
from vdm_jax.models.vdm_unet import VDMUNetConfig
from vdm_jax.models.video_vae import VideoVAEConfig

Arrays = dict[str, Any]
Around = Callable[[Denoiser], Denoiser]
"""A change of the denoiser from outside (Denoiser -> Denoiser): progress, a guidance."""
Pictures = Sequence[UInt8[np.ndarray, "_ _ 3"]]


@dataclass(frozen=True)
class ModelConfig:
    """The parts that a task needs; each is None where it does not.

    network: the denoiser. text: captions to tokens. vae: the latent space that the network works
    in; None is pixels. image_encoder: a picture to one token. lpips, discriminator: what an
    autoencoder is trained against.
    """

    network: VDMUNetConfig | SVDUNetConfig | None = None
    text: WordEncoderConfig | CLIPTextEncoderConfig | SentenceEncoderConfig | None = None
    vae: VAEConfig | VideoVAEConfig | None = None
    image_encoder: CLIPVisionConfig | None = None
    lpips: LPIPSConfig | None = None
    discriminator: PatchDiscriminatorConfig | None = None

    def build(self, *, rngs: nnx.Rngs) -> "VideoModel":
        return VideoModel(self, rngs=rngs)

    @property
    def text_width(self) -> int | None:
        """Features of the tokens of a text that the network reads; None where it reads none."""
        return None if self.network is None else self.network.text_width

    def tokenize(self, captions: Sequence[str]) -> Arrays:
        """The arrays that captions become; none for a model without text."""
        return {} if self.text is None else {"text": self.text.tokenize(captions)}


class VideoModel(nnx.Module):
    """The parts of a model, under one set of parameters."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        network, text, vae, encoder = config.network, config.text, config.vae, config.image_encoder
        lpips, discriminator = config.lpips, config.discriminator
        self.network: Any = None if network is None else network.build(rngs=rngs)
        self.text = None if text is None else text.build(rngs=rngs)
        self.vae = None if vae is None else vae.build(rngs=rngs)
        self.image_encoder = None if encoder is None else encoder.build(rngs=rngs)
        self.lpips = None if lpips is None else lpips.build(rngs=rngs)
        self.discriminator = None if discriminator is None else discriminator.build(rngs=rngs)


@cache
def abstract(model: ModelConfig) -> tuple[nnx.GraphDef[VideoModel], nnx.State]:
    """What a model is apart from its arrays, and its parameters as shapes; allocates nothing."""
    return nnx.split(build_abstract(lambda: model.build(rngs=nnx.Rngs(0))), nnx.Param)


@dataclass(frozen=True)
class VideoShape:
    """Size of the videos of a task: frames, pixels, and frames a second."""

    num_frames: int = 16
    height: int = 64
    width: int = 64
    fps: float | int = 8.0

    def __post_init__(self) -> None:
        for name in ("num_frames", "height", "width"):
            if getattr(self, name) < 1:
                raise Refusal(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.fps <= 1000:
            raise Refusal(f"fps must lie in (0, 1000], got {self.fps}")

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        return self.num_frames, self.height, self.width, 3


@dataclass(frozen=True)
class Sampling:
    """How videos are drawn from a trained model."""

    sampler: Sampler = Heun()
    num_steps: int = 25
    """Noise levels that are walked down."""
    guidance_scale: float = 1.0
    """Weight of the caption (Ho and Salimans 2022): 1 takes the model as trained, at half the
    cost; more follows the caption harder."""
    noise: NoisePlan = Independent()
    """How the noise is related that the frames of a video are drawn from."""

    def __post_init__(self) -> None:
        if self.num_steps < 1 or not 0 <= self.guidance_scale < math.inf:
            raise Refusal(
                f"num_steps must be at least 1 and guidance_scale not below 0, got "
                f"{self.num_steps} and {self.guidance_scale}"
            )


@runtime_checkable
class Task(Protocol):
    """One problem: the loss that trains a model for it and the generation that uses the model.

    Both take the same arrays, which `prepare` makes from samples of a source and `request` from
    what a user asks for. `loss` also reads "video", and "step", how many steps were taken.
    """

    @property
    def video(self) -> VideoShape: ...

    @property
    def pictures(self) -> int:
        """How many pictures `request` reads for each video, at most."""
        ...

    def check(self, model: ModelConfig) -> None:
        """Refuse a model that cannot do this task."""
        ...

    def prepare(self, model: ModelConfig, batch: Mapping[str, Any]) -> Arrays:
        """Numpy arrays "b ..." of one batch of samples."""
        ...

    def request(
        self,
        model: ModelConfig,
        captions: Sequence[str],
        pictures: Pictures | None,
    ) -> Arrays:
        """The same arrays, as far as `generate` reads them; refuses what the task cannot do.

        `pictures` for each caption, one after the other, of any size.
        """
        ...

    def condition(self, model: VideoModel, arrays: Arrays) -> Cond:
        """The conditioning ports of these arrays, nothing hidden."""
        ...

    def clean(self, model: VideoModel, arrays: Arrays) -> Float[Array, "b t h w c"]:
        """What the network is to recover: the videos of `prepare`, in the space it works in."""
        ...

    def answer(self, model: VideoModel) -> Denoiser:
        """The model, as what recovers clean videos."""
        ...

    def price(
        self, denoise: Denoiser, x0: Float[Array, "b t h w c"], cond: Cond, key: Array
    ) -> Float[Array, ""]:
        """The loss of any denoiser of x0 under these conditions: for comparisons."""
        ...

    def loss(
        self, model: VideoModel, arrays: Arrays, key: Array
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Mean loss over the batch, and further scalars worth logging."""
        ...

    def generate(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        """One video in -1..1 for each row, which depends on its "row" number and its key alone.

        key: one for all rows, or "b", one for each.
        """
        ...


@runtime_checkable
class Denoising(Task, Protocol):
    """A task whose videos are drawn from noise, step by step."""

    @property
    def process(self) -> Process: ...

    @property
    def sampling(self) -> Any:
        """How videos are drawn: a part with `num_steps` and `sampler`."""
        ...

    def draw(
        self, model: VideoModel, arrays: Arrays, key: Array, *, around: Around
    ) -> Float[Array, "b t h w c"]:
        """What `generate` draws, in the space that the network works in."""
        ...

    def decode(self, model: VideoModel, x0: Float[Array, "b t h w c"]) -> Float[Array, "b T H W 3"]:
        """What was drawn, as frames in -1..1, of as many frames as there are."""
        ...


@dataclass(frozen=True)
class Parts:
    """What the config.json of a directory says that holds parts of a model and does no task."""

    model: ModelConfig


@dataclass(frozen=True)
class Pretrained:
    """What the config.json of a model directory says: a model and the task that it does."""

    model: ModelConfig
    task: Task

    def __post_init__(self) -> None:
        self.task.check(self.model)


def tuned(task: Task, settings: Mapping[str, Any]) -> Task:
    """`task` with settings changed by name, whether its own, its video's or its sampling's.

    Raises Refusal naming a setting that this task does not have.
    """
    changed: Any = task
    for name, value in settings.items():
        if name in _names(changed):
            changed = replace(changed, **{name: value})
            continue
        parts = [part for part in ("video", "sampling") if part in _names(changed)]
        owner = next((part for part in parts if name in _names(getattr(changed, part))), None)
        if owner is None:
            raise Refusal(f"{type(task).__name__} has no setting {name}")
        tuned_part = replace(getattr(changed, owner), **{name: value})
        changed = replace(changed, **{owner: tuned_part})
    return changed


def _names(part: Any) -> set[str]:
    return {field.name for field in fields(part)}


def to_signal(video: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Bytes 0..255 to -1..1."""
    return video.astype(jnp.float32) / 127.5 - 1.0


def to_bytes(x: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    """-1..1 to bytes; what lies outside is clipped."""
    return jnp.round((jnp.clip(x, -1.0, 1.0) + 1.0) * 127.5).astype(jnp.uint8)
