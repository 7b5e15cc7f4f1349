"""The autoencoder of Stable Video Diffusion: frames of 8x8 pixels per latent, and back.

A KL-regularised autoencoder (Rombach et al. 2022, arXiv:2112.10752, appendix G): residual blocks
at four resolutions with one layer of attention at the coarsest. The encoder sees one frame at a
time. Of the decoders, `TemporalDecoderConfig` adds a residual block over time after each one over
space and a convolution over time at the end (Blattmann et al. 2023, arXiv:2311.15127, appendix D;
published as diffusers' AutoencoderKLTemporalDecoder); `ImageDecoderConfig` decodes each frame by
itself (the checkpoint "svd_xt_image_decoder", and Stable Diffusion).

A video too large for the device goes through in pieces: see `vdm_jax.nn.pieces`.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, Protocol, runtime_checkable

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vdm_jax.core.mesh import VIDEO, constrain
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.posterior import Posterior
from vdm_jax.nn.attention import attend
from vdm_jax.nn.conv import Conv, Padding, Upsample, fold, framewise
from vdm_jax.nn.init import lecun_normal, streamed
from vdm_jax.nn.norm import GroupNorm
from vdm_jax.nn.pieces import Chunked, Pieces
from vdm_jax.nn.resblock import Blend, ResnetBlock, SpaceTimeResBlock

SPACE_EPS = 1e-6  # of group norms of frames
TIME_EPS = 1e-5  # of group norms of videos
COLOURS = 3
FRAMES = ("batch", "space", None, None)  # logical axes of "f h w c"
ENCODING = Chunked(8)  # frames, each by itself: exact


@runtime_checkable
class DecoderConfig(Protocol):
    """Which decoder an autoencoder has."""

    def build(self, config: "VAEConfig", *, rngs: nnx.Rngs) -> "Decoder": ...

    def build_post_quant(self, config: "VAEConfig", *, rngs: nnx.Rngs) -> nnx.Linear | None:
        """What latents pass through before they are decoded; None: nothing."""
        ...


@dataclass(frozen=True)
class TemporalDecoderConfig:
    """The decoder that mixes frames in time.

    middle_blocks: residual blocks before and after the attention at the coarsest resolution. With
        one, the second block is absent and the attention is never computed, though it has
        weights: what diffusers builds from `layers_per_block=1`.
    """

    middle_blocks: int = 2

    def __post_init__(self) -> None:
        if self.middle_blocks not in (1, 2):
            raise Refusal(f"middle_blocks is {self.middle_blocks}; it must be 1 or 2")

    def build(self, config: "VAEConfig", *, rngs: nnx.Rngs) -> "TemporalDecoder":
        return TemporalDecoder(config, self.middle_blocks, rngs=rngs)

    def build_post_quant(self, config: "VAEConfig", *, rngs: nnx.Rngs) -> None:
        return None


@dataclass(frozen=True)
class ImageDecoderConfig:
    """The decoder of single frames."""

    def build(self, config: "VAEConfig", *, rngs: nnx.Rngs) -> "ImageDecoder":
        return ImageDecoder(config, rngs=rngs)

    def build_post_quant(self, config: "VAEConfig", *, rngs: nnx.Rngs) -> nnx.Linear:
        return _linear(config.latent_channels, config.latent_channels, config.dtype, rngs)


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Shape of the autoencoder. Levels count from 0, the finest; each halves the size.

    widths: channels of each level.
    blocks: residual blocks of each level on the way down; on the way up, one more.
    scaling_factor: what latents are multiplied by for a diffusion model, to have unit variance.
    dtype: what the layers compute in; parameters are always float32.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    latent_channels: int = 4
    groups: int = 32
    scaling_factor: float = 0.18215
    decoder: DecoderConfig = TemporalDecoderConfig()
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name in ("blocks", "latent_channels", "groups"):
            if getattr(self, name) < 1:
                raise Refusal(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.widths:
            raise Refusal("widths is empty; an autoencoder has at least one level")
        for width in self.widths:
            if width < 1 or width % self.groups:
                raise Refusal(f"{width} channels do not divide into {self.groups} groups")
        if not 0 < self.scaling_factor < float("inf"):
            raise Refusal(f"scaling_factor is {self.scaling_factor}; it must be positive")

    @property
    def stride(self) -> int:
        """Pixels of height and of width per latent; frames must be multiples of this."""
        return 2 ** (len(self.widths) - 1)

    @property
    def time_stride(self) -> int:
        """Frames per latent frame."""
        return 1

    @property
    def encoding(self) -> Pieces:
        """How many frames are encoded."""
        return ENCODING

    def frames(self, num_frames: int) -> int:
        """Latent frames of so many frames."""
        return num_frames

    def encodes_as(self, other: object) -> bool:
        """Whether the encoder of `other`, with the same weights, makes the same latents."""
        mine = {"decoder": self.decoder, "dtype": self.dtype}
        return isinstance(other, VAEConfig) and replace(other, **mine) == self

    def build(self, *, rngs: nnx.Rngs) -> "VAE":
        return VAE(self, rngs=streamed(rngs))


def _linear(in_width: int, out_width: int, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Linear:
    return nnx.Linear(
        in_width,
        out_width,
        kernel_init=lecun_normal,
        dtype=dtype,
        rngs=rngs,
        kernel_metadata={"out_sharding": ("conv_in", "conv_out")},
    )


class FrameAttention(nnx.Module):
    """Every pixel attends to those of its frame, with one head; added to the input."""

    def __init__(self, config: VAEConfig, channels: int, *, rngs: nnx.Rngs):
        linear = partial(
            nnx.Linear, channels, channels, kernel_init=lecun_normal, dtype=config.dtype, rngs=rngs
        )
        self.norm = GroupNorm(channels, config.groups, eps=SPACE_EPS, rngs=rngs)
        self.to_q = linear(kernel_metadata={"out_sharding": ("embed", None)})
        self.to_k = linear(kernel_metadata={"out_sharding": ("embed", None)})
        self.to_v = linear(kernel_metadata={"out_sharding": ("embed", None)})
        self.to_out = linear(kernel_metadata={"out_sharding": (None, "embed")})

    def __call__(self, x: Float[Array, "f h w c"]) -> Float[Array, "f h w c"]:
        f, h, w, c = x.shape
        pixels = self.norm(x).reshape(f, 1, h * w, c)
        mixed = attend(self.to_q(pixels), self.to_k(pixels), self.to_v(pixels))
        return x + self.to_out(mixed).reshape(x.shape)


Block = Callable[..., Any]
"""(in_channels, out_channels) -> a residual block."""
Apply = Callable[[Any, Array], Array]
"""(residual block, "b t h w i") -> "b t h w o"."""


def apply_to_frames(block: ResnetBlock, x: Float[Array, "b t h w i"]) -> Float[Array, "b t h w o"]:
    """A block over space."""
    return framewise(lambda x: block(x, None), x)


def apply_to_video(
    block: SpaceTimeResBlock, x: Float[Array, "b t h w i"]
) -> Float[Array, "b t h w o"]:
    """A block over space and time."""
    return block(x, None, None)


class Middle(nnx.Module):
    """The coarsest resolution: a residual block, attention in each frame, a second block.

    blocks: 2, or 1 for the first block alone (see `TemporalDecoderConfig.middle_blocks`).
    """

    def __init__(self, config: VAEConfig, block: Block, blocks: int, *, rngs: nnx.Rngs):
        width = config.widths[-1]
        self.resnets = nnx.List(block(width, width) for _ in range(blocks))
        self.attention = FrameAttention(config, width, rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w c"], apply: Apply) -> Float[Array, "b t h w c"]:
        x = apply(self.resnets[0], x)
        for block in self.resnets[1:]:
            x = apply(block, framewise(self.attention, x))
        return x


class Down(nnx.Module):
    """One level of the encoder: residual blocks, then half the size."""

    def __init__(self, widths: tuple[int, ...], shrink: Conv | None, block: Block):
        self.resnets = nnx.List(block(i, o) for i, o in pairwise(widths))
        self.downsample = nnx.data(shrink)

    def __call__(self, x: Float[Array, "f h w i"]) -> Float[Array, "f H W o"]:
        for block in self.resnets:
            x = block(x, None)
        return x if self.downsample is None else self.downsample(x)


class Up(nnx.Module):
    """One level of a decoder: residual blocks, then twice the size."""

    def __init__(self, widths: tuple[int, ...], grow: Upsample | None, block: Block):
        self.resnets = nnx.List(block(i, o) for i, o in pairwise(widths))
        self.upsample = nnx.data(grow)

    def __call__(self, x: Float[Array, "b t h w i"], apply: Apply) -> Float[Array, "b t H W o"]:
        for block in self.resnets:
            x = apply(block, x)
        return x if self.upsample is None else framewise(self.upsample, x)


class Encoder(nnx.Module):
    """Frames to twice the latents' channels, the moments of their distribution."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        widths, sizes = config.widths, {"dtype": config.dtype, "rngs": rngs}
        block = partial(ResnetBlock, groups=config.groups, eps=SPACE_EPS, embed_width=None, **sizes)
        shrink = partial(Conv, stride=2, padding=Padding(0, 1, 0, 1), **sizes)
        self.conv_in = Conv(COLOURS, widths[0], **sizes)
        self.down = nnx.List()
        for level, (finer, width) in enumerate(pairwise((widths[0], *widths))):
            last = level == len(widths) - 1
            chain = (finer, *(width,) * config.blocks)
            self.down.append(Down(chain, None if last else shrink(width, width), block))
        self.middle = Middle(config, block, 2, rngs=rngs)
        self.norm_out = GroupNorm(widths[-1], config.groups, eps=SPACE_EPS, rngs=rngs)
        self.conv_out = Conv(widths[-1], 2 * config.latent_channels, **sizes)

    def __call__(self, video: Float[Array, "f h w 3"]) -> Float[Array, "f H W c"]:
        x = self.conv_in(constrain(video, FRAMES))
        for level in self.down:
            x = level(constrain(x, FRAMES))
        x = self.middle(constrain(x, FRAMES)[None], apply_to_frames)[0]
        return self.conv_out(self.norm_out.silu(x))


class Decoder(nnx.Module):
    """Latents to frames: the part that decoders share; they differ in their residual blocks."""

    LAST = "conv_out"  # what makes the frames

    def __init__(self, config: VAEConfig, block: Block, middle_blocks: int, *, rngs: nnx.Rngs):
        widths, sizes = config.widths[::-1], {"dtype": config.dtype, "rngs": rngs}
        self.conv_in = Conv(config.latent_channels, widths[0], **sizes)
        self.middle = Middle(config, block, middle_blocks, rngs=rngs)
        self.up = nnx.List()
        for level, (coarser, width) in enumerate(pairwise((widths[0], *widths))):
            last = level == len(widths) - 1
            chain = (coarser, *(width,) * (config.blocks + 1))
            self.up.append(Up(chain, None if last else Upsample(width, width, **sizes), block))
        self.norm_out = GroupNorm(widths[-1], config.groups, eps=SPACE_EPS, rngs=rngs)
        self.conv_out = Conv(widths[-1], COLOURS, **sizes)

    @abstractmethod
    def __call__(self, latents: Float[Array, "b t h w c"]) -> Float[Array, "b t H W 3"]:
        """The frames of each video."""

    def trunk(self, latents: Float[Array, "b t h w c"], apply: Apply) -> Float[Array, "b t H W 3"]:
        """All that decoders share, with `apply` for their residual blocks."""
        x = framewise(self.conv_in, constrain(latents, VIDEO))
        x = self.middle(constrain(x, VIDEO), apply)
        for level in self.up:
            x = level(constrain(x, VIDEO), apply)
        return framewise(lambda x: self.conv_out(self.norm_out.silu(x)), x)


class ImageDecoder(Decoder):
    """Residual blocks over space alone."""

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        block = partial(
            ResnetBlock,
            groups=config.groups,
            eps=SPACE_EPS,
            embed_width=None,
            dtype=config.dtype,
            rngs=rngs,
        )
        super().__init__(config, block, 2, rngs=rngs)

    def __call__(self, latents: Float[Array, "b t h w c"]) -> Float[Array, "b t H W 3"]:
        return self.trunk(latents, apply_to_frames)


class TemporalDecoder(Decoder):
    """Residual blocks over space and time; at the end, a convolution of colours over time."""

    LAST = "time_conv_out"

    def __init__(self, config: VAEConfig, middle_blocks: int, *, rngs: nnx.Rngs):
        def block(in_channels: int, out_channels: int) -> SpaceTimeResBlock:
            made = SpaceTimeResBlock(
                in_channels,
                out_channels,
                embed_width=None,
                groups=config.groups,
                eps=SPACE_EPS,
                time_eps=TIME_EPS,
                dtype=config.dtype,
                rngs=rngs,
            )
            made.blend = Blend(0.0)
            return made

        super().__init__(config, block, middle_blocks, rngs=rngs)
        self.time_conv_out = Conv(
            COLOURS, COLOURS, kernel_size=(3, 1), dtype=config.dtype, rngs=rngs
        )

    def __call__(self, latents: Float[Array, "b t h w c"]) -> Float[Array, "b t H W 3"]:
        video = self.trunk(latents, apply_to_video)
        b, t, h, w, c = video.shape
        return self.time_conv_out(video.reshape(b, t, h * w, c)).reshape(video.shape)


class VAE(nnx.Module):
    """Pixels in -1..1 to the distribution of their latents, and latents to pixels.

    Latents here are as the encoder makes them; `scaled` and `unscaled` convert to and from those
    of a diffusion model.
    """

    def __init__(self, config: VAEConfig, *, rngs: nnx.Rngs):
        moments = 2 * config.latent_channels
        self.config = config
        self.encoder = Encoder(config, rngs=rngs)
        self.quant = _linear(moments, moments, config.dtype, rngs)
        self.post_quant = nnx.data(config.decoder.build_post_quant(config, rngs=rngs))
        self.decoder = config.decoder.build(config, rngs=rngs)

    def encode(self, video: Float[Array, "f h w 3"]) -> Posterior:
        """The latents' distribution, "f h/stride w/stride c", of each frame by itself.

        Raises:
            Refusal: where the frames are no multiples of the stride.
        """
        _, h, w, _ = video.shape
        stride = self.config.stride
        if h % stride or w % stride:
            raise Refusal(f"frames are {h}x{w}; this autoencoder takes multiples of {stride}")
        return Posterior.of(self.quant(self.encoder(video)))

    def encode_video(self, video: Float[Array, "b t h w 3"]) -> Posterior:
        """As `encode`, of the frames of several videos: "b t h/stride w/stride c"."""
        posterior = self.encode(fold(video))
        return Posterior(*(part.reshape(*video.shape[:2], *part.shape[1:]) for part in posterior))

    def decode(self, latents: Float[Array, "b t h w c"]) -> Float[Array, "b t H W 3"]:
        """The frames of each video, all at once, in the latents' dtype.

        Raises:
            Refusal: where the latents have another number of channels.
        """
        channels, wanted = latents.shape[-1], self.config.latent_channels
        if channels != wanted:
            raise Refusal(f"latents have {channels} channels; this autoencoder takes {wanted}")
        x = latents if self.post_quant is None else self.post_quant(latents)
        return self.decoder(x).astype(latents.dtype)

    def scaled(self, latents: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The encoder's latents as a diffusion model takes them, of about unit variance."""
        return latents * self.config.scaling_factor

    def unscaled(self, latents: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """A diffusion model's latents as `decode` takes them."""
        return latents / self.config.scaling_factor


SVD_VAE = VAEConfig()
"""Stable Video Diffusion's, all published versions: 97,742,847 parameters."""

SVD_IMAGE_VAE = VAEConfig(decoder=ImageDecoderConfig())
"""The decoder of single frames, "svd_xt_image_decoder"; the autoencoder of Stable Diffusion."""
