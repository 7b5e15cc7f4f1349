"""The factorised space-time U-Net of Video Diffusion Models (Ho et al. 2022, arXiv:2204.03458).

A 2-D diffusion U-Net whose 3x3 convolutions become 1x3x3, and in which every block of attention
over a frame's pixels is followed by one over time with relative position bias (section 3). Text
enters as the paper has it: attention-pooled and added to the noise-level embedding. Pictures may
stand beside a video in one batch (section 3.1): `cond.image_only` keeps them apart in time.

Where it differs: the noise level is one per frame, not one per video; group norm pools over a
single frame; attention comes once per level, after its residual blocks; the resolution changes
by a strided 2x2 convolution down and by a nearest-neighbour 3x3 convolution up; a patch size
folds squares of pixels into channels, for speed on a small machine.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress, pairwise
from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vdm_jax.core.mesh import VIDEO, constrain, frames_apart, frames_together
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.cond import Cond, Tokens
from vdm_jax.nn.attention import (
    AttentionPool,
    Frames,
    Mixer,
    SpaceAttention,
    TimeAttention,
)
from vdm_jax.nn.conv import Conv, Downsample, Upsample, depth_to_space, framewise, space_to_depth
from vdm_jax.nn.embed import RelativeBias, sinusoid
from vdm_jax.nn.init import lecun_normal
from vdm_jax.nn.norm import GroupNorm
from vdm_jax.nn.patterns import AllFrames, OwnFrame, SpacePattern, TimePattern, check_patterns
from vdm_jax.nn.resblock import ResBlock

TEXT = "text"


@dataclass(frozen=True, kw_only=True)
class VDMUNetConfig:
    """Shape of the network. Levels count from 0, the finest.

    channels: width of the finest level; level i is channels * multipliers[i] wide.
    blocks: residual blocks of each level, on the way down and again on the way up.
    space_attention, time_attention: levels that attend over pixels, over frames. The middle of
        the U does both.
    space_pattern, time_pattern: who looks at whom there; parameters are the same for all.
    concat_channels, vec_features, token_width: sizes of the ports cond.concat, cond.vec and
        cond.tokens["text"]; None: the network has no such port.
    patch_size: side of the square of pixels that becomes one position.
    dtype: what the layers compute in; parameters are always float32.
    """

    in_channels: int = 3
    out_channels: int = 3
    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2
    space_attention: tuple[int, ...] = (1, 2)
    time_attention: tuple[int, ...] = (0, 1, 2)
    space_pattern: SpacePattern = OwnFrame()
    time_pattern: TimePattern = AllFrames()
    heads: int = 4
    head_size: int = 32
    groups: int = 8
    patch_size: int = 1
    concat_channels: int | None = None
    vec_features: int | None = None
    token_width: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        check_patterns(self.time_pattern, self.space_pattern)
        for name in ("channels", "blocks", "heads", "head_size", "groups", "patch_size"):
            if getattr(self, name) < 1:
                raise Refusal(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.channels % 2:
            raise Refusal(f"channels is {self.channels}; it must be even")
        for width in self.widths:
            if width % self.groups:
                raise Refusal(f"{width} channels do not divide into {self.groups} groups")
        levels = len(self.multipliers)
        for name in ("space_attention", "time_attention"):
            for level in getattr(self, name):
                if not 0 <= level < levels:
                    raise Refusal(f"{name} names level {level}; levels are 0 to {levels - 1}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.channels * m for m in self.multipliers)

    @property
    def text_width(self) -> int | None:
        """Features of the tokens of a text; None: it reads none."""
        return self.token_width

    @property
    def embed_width(self) -> int:
        return 4 * self.channels

    @property
    def signal_channels(self) -> int:
        """Of the noisy video that enters."""
        return self.in_channels

    @property
    def stride(self) -> int:
        """Height and width of a video must be multiples of this."""
        return self.patch_size * 2 ** (len(self.multipliers) - 1)

    @property
    def middle_mixers(self) -> tuple[Callable[..., Mixer], ...]:
        """Both kinds of attention, in order."""
        space = partial(SpaceAttention, pattern=self.space_pattern)
        return space, partial(TimeAttention, pattern=self.time_pattern)

    def mixers(self, level: int) -> tuple[Callable[..., Mixer], ...]:
        """The kinds of attention at a level, in order."""
        attends = (level in self.space_attention, level in self.time_attention)
        return tuple(compress(self.middle_mixers, attends))

    def attending(self, time: TimePattern) -> "VDMUNetConfig":
        """The same network, its frames looking at each other by another pattern."""
        return replace(self, time_pattern=time)

    def build(self, *, rngs: nnx.Rngs) -> "VDMUNet":
        return VDMUNet(self, rngs=rngs)


class Embedding(nnx.Module):
    """Noise level, features and text of each frame: one vector per frame."""

    def __init__(self, config: VDMUNetConfig, *, rngs: nnx.Rngs):
        base, width = config.channels, config.embed_width
        linear = partial(nnx.Linear, kernel_init=lecun_normal, rngs=rngs)
        column, row = {"out_sharding": ("embed", "mlp")}, {"out_sharding": ("mlp", "embed")}
        self.base = base
        self.level = linear(base, width, kernel_metadata=column)
        self.hidden = linear(width, width, kernel_metadata=row)
        self.out = linear(width, width, kernel_metadata=column)
        self.vec = nnx.data(None)
        if config.vec_features is not None:
            self.vec = linear(config.vec_features, width, kernel_metadata=column)
        self.text = nnx.data(None)
        if config.token_width is not None:
            self.text = AttentionPool(
                config.token_width,
                width,
                heads=config.heads,
                head_size=config.head_size,
                rngs=rngs,
            )

    def __call__(self, c_noise: Float[Array, "b t"], cond: Cond) -> Float[Array, "b t d"]:
        """All parts summed and mixed by a perceptron, ready for the FiLM projection of each block.

        What a condition means may depend on the others (how far to move: on direction, speed and
        time), so they meet before the nonlinear layers.
        """
        embed = self.level(sinusoid(c_noise, self.base))
        b, t = c_noise.shape
        if self.vec is not None:
            vec = jnp.zeros((b, t, self.vec.in_features)) if cond.vec is None else cond.vec
            embed = embed + self.vec(vec)
        if self.text is not None:
            width = self.text.token_width
            nothing = Tokens(jnp.zeros((b, 0, width)), jnp.zeros((b, 0), bool))
            tokens = cond.tokens.get(TEXT, nothing).by_frame(t)
            parts = map(frames_together, (tokens.embedding, tokens.mask))
            embed = embed + frames_apart(self.text(*parts), b)
        return nnx.silu(self.out(nnx.silu(self.hidden(nnx.silu(embed)))))


class Stage(nnx.Module):
    """Everything at one resolution: residual blocks, then attention over space, then over time.

    widths: channels before, between and after the residual blocks.
    """

    def __init__(
        self,
        config: VDMUNetConfig,
        widths: tuple[int, ...],
        mixers: tuple[Callable[..., Mixer], ...],
        *,
        rngs: nnx.Rngs,
    ):
        sizes = {"groups": config.groups, "dtype": config.dtype, "rngs": rngs}
        self.blocks = nnx.List(
            ResBlock(i, o, config.embed_width, **sizes) for i, o in pairwise(widths)
        )
        self.mixers = nnx.List(
            mixer(widths[-1], heads=config.heads, head_size=config.head_size, **sizes)
            for mixer in mixers
        )

    def __call__(
        self, x: Float[Array, "b t h w i"], embed: Float[Array, "b t d"], frames: Frames
    ) -> Float[Array, "b t h w o"]:
        x = constrain(x, VIDEO)
        for block in self.blocks:
            x = framewise(block, x, embed)
        for mixer in self.mixers:
            x = mixer(x, frames)
        return x


class VDMUNet(nnx.Module):
    """(z, c_noise, cond) -> the network's raw output F, of z's shape; see `VDMUNetConfig`.

    One skip per level (the paper's figure 1). The last convolution starts at zero.
    """

    def __init__(self, config: VDMUNetConfig, *, rngs: nnx.Rngs):
        widths, dtype = config.widths, config.dtype
        area = config.patch_size**2
        inputs = config.in_channels + (config.concat_channels or 0)
        self.config = config
        self.embedding = Embedding(config, rngs=rngs)
        self.time_bias = RelativeBias(config.heads, rngs=rngs)
        self.stem = Conv(area * inputs, widths[0], dtype=dtype, rngs=rngs)
        self.down, self.shrink = nnx.List(), nnx.List()
        self.up, self.grow = nnx.List(), nnx.List()
        for level, (finer, width) in enumerate(pairwise((widths[0], *widths))):
            mixers = config.mixers(level)
            down = (finer, *(width,) * config.blocks)
            up = (2 * width, *(finer,) * config.blocks)
            self.down.append(Stage(config, down, mixers, rngs=rngs))
            self.up.append(Stage(config, up, mixers, rngs=rngs))
        for width in widths[:-1]:
            self.shrink.append(Downsample(width, width, dtype=dtype, rngs=rngs))
            self.grow.append(Upsample(width, width, dtype=dtype, rngs=rngs))
        middle = (widths[-1],) * (config.blocks + 1)
        self.middle = Stage(config, middle, config.middle_mixers, rngs=rngs)
        self.norm = GroupNorm(widths[0], config.groups, rngs=rngs)
        self.head = Conv(
            widths[0],
            area * config.out_channels,
            kernel_init=nnx.initializers.zeros,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self, z: Float[Array, "b t h w c"], c_noise: Float[Array, "b t"], cond: Cond
    ) -> Float[Array, "b t h w o"]:
        _check(self.config, z, cond)
        embed = self.embedding(c_noise, cond)
        span = self.config.time_pattern.span(z.shape[1])
        frames = Frames(self.time_bias(span), cond.image_only)
        x = constrain(cond.beside(z, self.config.concat_channels or 0), VIDEO)
        x = framewise(self._entered, x)
        x = self._levels(x, embed, frames)
        return framewise(self._left, x).astype(z.dtype)

    def _entered(self, x: Float[Array, "f h w i"]) -> Float[Array, "f H W c"]:
        return self.stem(space_to_depth(x, self.config.patch_size).astype(self.config.dtype))

    def _left(self, x: Float[Array, "f H W c"]) -> Float[Array, "f h w o"]:
        return depth_to_space(self.head(self.norm.silu(x)), self.config.patch_size)

    def _levels(self, x, embed, frames):
        """Down the levels, through the middle, and up again beside what each level left."""
        skips = []
        for level, stage in enumerate(self.down):
            if level > 0:
                x = framewise(self.shrink[level - 1], x)
            x = stage(x, embed, frames)
            skips.append(x)
        x = self.middle(x, embed, frames)
        for level in reversed(range(len(self.up))):
            x = self.up[level](jnp.concatenate([x, skips[level]], -1), embed, frames)
            if level > 0:
                x = framewise(self.grow[level - 1], x)
        return x


def _check(config, z, cond):
    """Refuse, before anything compiles, a video or a condition this network cannot take."""
    _, _, h, w, c = z.shape
    if h % config.stride or w % config.stride:
        raise Refusal(f"frames are {h}x{w}; this network takes multiples of {config.stride}")
    text = cond.tokens.get(TEXT)
    unknown = sorted(set(cond.tokens) - {TEXT})
    if unknown:
        raise Refusal(f"cond.tokens has {unknown}; this network reads only {TEXT!r}")
    ports = (
        ("z", c, config.in_channels),
        ("cond.concat", _width(cond.concat), config.concat_channels),
        ("cond.vec", _width(cond.vec), config.vec_features),
        (f"cond.tokens[{TEXT!r}]", _width(text and text.embedding), config.token_width),
    )
    for name, got, wanted in ports:
        if got is not None and got != wanted:
            raise Refusal(f"{name} has {got} channels; this network takes {wanted}")


def _width(port):
    return None if port is None else port.shape[-1]


VDM_BASE = VDMUNetConfig(
    channels=64,
    multipliers=(1, 2, 4, 8),
    space_attention=(1, 2, 3),
    time_attention=(0, 1, 2, 3),
    heads=8,
    head_size=32,
)
"""64 wide at the finest of four levels, 8 heads of 32: 16 frames of 64x64 pixels."""

VDM_SMALL = VDMUNetConfig(
    channels=32,
    multipliers=(1, 2),
    blocks=1,
    space_attention=(1,),
    time_attention=(0, 1),
    heads=4,
    head_size=16,
    patch_size=2,
)
"""Trains within minutes on two CPU cores: 8 frames of 32x32 pixels."""
