"""The autoencoder of Latent Video Diffusion: 4 frames of 8x8 pixels per latent, and back.

He et al. 2022 (arXiv:2211.13221), section 3.1: a KL-regularised autoencoder of convolutions over
frames, rows and columns alike, without attention, after that of TATS (Ge et al. 2022,
arXiv:2204.03638). Each level halves rows and columns, the first ones frames too, and doubles the
channels; on the way up the first levels double the frames, as in the published code, with one
residual block more. Edges are repeated, not padded with zeros, in time too.

It differs from the published one in two ways. Group norm takes the statistics of each frame, not
of the whole clip: a frame then depends on no frame further away than `VideoVAEConfig.reach`, what
was learnt from 16 frames holds for any number, and a long video decoded in pieces that overlap by
twice the reach (`vdm_jax.nn.pieces.Trimmed`) is that of the whole. And where frames are not halved,
kernels span three of them instead of four, which are centred on a frame.

4k frames become k latent frames and come back as 4k; other numbers are refused, for what would be
added to them would have to be learnt as a still. The paper's long videos fit: from 4 + 3n latent
frames, interpolated to 4(4 + 3n) - 3, come 52 + 48n.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal

from flax import nnx
from jaxtyping import Array, Float

from vdm_jax.core.mesh import VIDEO, constrain
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.posterior import Posterior
from vdm_jax.nn.conv import framewise
from vdm_jax.nn.conv3d import Conv3d, Grow3d, Shrink3d, Three
from vdm_jax.nn.init import lecun_normal, streamed
from vdm_jax.nn.norm import GroupNorm
from vdm_jax.nn.pieces import Pieces, Whole

EPS = 1e-6  # of group norms
COLOURS = 3


@dataclass(frozen=True, kw_only=True)
class VideoVAEConfig:
    """Shape of the autoencoder. Levels count from 0, the finest; each halves rows and columns.

    widths: channels of each level; the decoder ends with those of level 1.
    time_stride: frames per latent frame, a power of two: so many of the levels halve frames too.
    blocks: residual blocks of each level on the way down; on the way up, one more.
    scaling_factor: what latents are multiplied by for a diffusion model, to have unit variance;
        it depends on the videos: the run of an autoencoder says it (1 / latent_std).
    dtype: what the layers compute in; parameters are always float32.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256)
    time_stride: int = 4
    blocks: int = 1
    latent_channels: int = 4
    groups: int = 32
    scaling_factor: float = 1.0
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name in ("blocks", "latent_channels", "groups"):
            if getattr(self, name) < 1:
                raise Refusal(f"{name} is {getattr(self, name)}; it must be at least 1")
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise Refusal(f"widths are {self.widths}; at least two levels have a width")
        for width in self.widths[1:]:
            if width % self.groups:
                raise Refusal(f"{width} channels do not divide into {self.groups} groups")
        allowed = [2**halvings for halvings in range(len(self.widths))]
        if self.time_stride not in allowed:
            raise Refusal(
                f"time_stride is {self.time_stride}; {len(self.widths)} levels allow "
                f"{', '.join(map(str, allowed))}"
            )
        if not 0 < self.scaling_factor < float("inf"):
            raise Refusal(f"scaling_factor is {self.scaling_factor}; it must be positive")

    @property
    def stride(self) -> int:
        """Pixels of height and of width per latent; frames must be multiples of this."""
        return 2 ** (len(self.widths) - 1)

    @property
    def steps(self) -> tuple[Three, ...]:
        """By how much frames, rows and columns change between levels, in the order of layers."""
        halvings = self.time_stride.bit_length() - 1
        return tuple((2 if i < halvings else 1, 2, 2) for i in range(len(self.widths) - 1))

    @property
    def reach(self) -> int:
        """Latent frames to either side of its own that a decoded frame depends on."""
        rate, span = 1, (1 - 1 / self.time_stride) / 2  # from the middle of a latent to its ends
        for step, _, _ in self.steps:
            span += (1 - (step - 1) / 4) / rate
            rate *= step
            span += 2 * (self.blocks + 1) / rate
        return math.floor(span + 1 / rate)

    @property
    def encoding(self) -> Pieces:
        """How many frames are encoded: all at once, for they are mixed."""
        return Whole()

    def frames(self, num_frames: int) -> int:
        """Latent frames of so many frames.

        Raises:
            Refusal: for a number that is no multiple of `time_stride`.
        """
        if num_frames < 1 or num_frames % self.time_stride:
            raise Refusal(
                f"a video of {num_frames} frames; this autoencoder takes multiples of "
                f"{self.time_stride}"
            )
        return num_frames // self.time_stride

    def encodes_as(self, other: object) -> bool:
        """Whether the encoder of `other`, with the same weights, makes the same latents."""
        return isinstance(other, VideoVAEConfig) and replace(other, dtype=self.dtype) == self

    def build(self, *, rngs: nnx.Rngs) -> "VideoVAE":
        return VideoVAE(self, rngs=streamed(rngs))


def _linear(channels: int, config: VideoVAEConfig, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(
        channels,
        channels,
        kernel_init=lecun_normal,
        dtype=config.dtype,
        rngs=rngs,
        kernel_metadata={"out_sharding": ("conv_in", "conv_out")},
    )


class ResBlock3d(nnx.Module):
    """norm, SiLU, conv, twice; added to the input. The last convolution starts at zero."""

    def __init__(self, channels: int, config: VideoVAEConfig, *, rngs: nnx.Rngs):
        conv = partial(Conv3d, channels, channels, dtype=config.dtype, rngs=rngs)
        self.norm1 = GroupNorm(channels, config.groups, eps=EPS, rngs=rngs)
        self.conv1 = conv()
        self.norm2 = GroupNorm(channels, config.groups, eps=EPS, rngs=rngs)
        self.conv2 = conv(kernel_init=nnx.initializers.zeros)

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        hidden = self.conv1(framewise(self.norm1.silu, x))
        return x + self.conv2(framewise(self.norm2.silu, hidden))


class Level(nnx.Module):
    """Another size, then residual blocks."""

    def __init__(self, resize: Shrink3d | Grow3d, resnets: list[ResBlock3d]):
        self.resize = resize
        self.resnets = nnx.List(resnets)

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b T H W o"]:
        x = self.resize(constrain(x, VIDEO))
        for block in self.resnets:
            x = block(constrain(x, VIDEO))
        return x


class Encoder(nnx.Module):
    """Videos to twice the latents' channels, the moments of their distribution."""

    def __init__(self, config: VideoVAEConfig, *, rngs: nnx.Rngs):
        sizes = {"dtype": config.dtype, "rngs": rngs}
        self.conv_in = Conv3d(COLOURS, config.widths[0], **sizes)
        self.levels = nnx.List()
        for (finer, width), step in zip(pairwise(config.widths), config.steps, strict=True):
            resize = Shrink3d(finer, width, step, **sizes)
            blocks = [ResBlock3d(width, config, rngs=rngs) for _ in range(config.blocks)]
            self.levels.append(Level(resize, blocks))
        self.norm_out = GroupNorm(config.widths[-1], config.groups, eps=EPS, rngs=rngs)
        self.conv_out = Conv3d(config.widths[-1], 2 * config.latent_channels, **sizes)

    def __call__(self, video: Float[Array, "b t h w 3"]) -> Float[Array, "b T H W c"]:
        x = self.conv_in(constrain(video, VIDEO))
        for level in self.levels:
            x = level(x)
        return self.conv_out(framewise(self.norm_out.silu, x))


class Decoder(nnx.Module):
    """Latents to videos."""

    LAST = "conv_out"  # what makes the frames

    def __init__(self, config: VideoVAEConfig, *, rngs: nnx.Rngs):
        sizes = {"dtype": config.dtype, "rngs": rngs}
        widths = (config.latent_channels, *config.widths[:0:-1])
        self.levels = nnx.List()
        for (coarser, width), step in zip(pairwise(widths), config.steps, strict=True):
            resize = Grow3d(coarser, width, step, **sizes)
            blocks = [ResBlock3d(width, config, rngs=rngs) for _ in range(config.blocks + 1)]
            self.levels.append(Level(resize, blocks))
        self.conv_out = Conv3d(widths[-1], COLOURS, **sizes)

    def __call__(self, latents: Float[Array, "b T H W c"]) -> Float[Array, "b t h w 3"]:
        x = latents
        for level in self.levels:
            x = level(x)
        return self.conv_out(constrain(x, VIDEO))


class VideoVAE(nnx.Module):
    """Videos in -1..1 to the distribution of their latents, and latents to videos.

    Latents here are as the encoder makes them; `scaled` and `unscaled` convert to and from those
    of a diffusion model.
    """

    def __init__(self, config: VideoVAEConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.quant = _linear(2 * config.latent_channels, config, rngs)
        self.post_quant = _linear(config.latent_channels, config, rngs)
        self.decoder = Decoder(config, rngs=rngs)

    def encode_video(self, video: Float[Array, "b t h w 3"]) -> Posterior:
        """The latents' distribution, "b t/time_stride h/stride w/stride c".

        Raises:
            Refusal: where frames, or their sizes, are no multiples of the strides.
        """
        _, frames, h, w, _ = video.shape
        self.config.frames(frames)
        stride = self.config.stride
        if h % stride or w % stride:
            raise Refusal(f"frames are {h}x{w}; this autoencoder takes multiples of {stride}")
        return Posterior.of(self.quant(self.encoder(video)))

    def decode(self, latents: Float[Array, "b T H W c"]) -> Float[Array, "b t h w 3"]:
        """The frames of each video, `time_stride` of each latent frame, in the latents' dtype.

        Raises:
            Refusal: where the latents have another number of channels.
        """
        channels, wanted = latents.shape[-1], self.config.latent_channels
        if channels != wanted:
            raise Refusal(f"latents have {channels} channels; this autoencoder takes {wanted}")
        return self.decoder(self.post_quant(latents)).astype(latents.dtype)

    def scaled(self, latents: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The encoder's latents as a diffusion model takes them, of about unit variance."""
        return latents * self.config.scaling_factor

    def unscaled(self, latents: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """A diffusion model's latents as `decode` takes them."""
        return latents / self.config.scaling_factor


LVDM_AE = VideoVAEConfig()
"""That of Latent Video Diffusion: 4x8x8 to a latent of 4 numbers."""
