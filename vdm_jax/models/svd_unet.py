"""The space-time U-Net of Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127).

The U-Net of Stable Diffusion 2.1 with a temporal layer after every spatial one, blended by one
learned weight per layer (Blattmann et al. 2023, arXiv:2304.08818): a residual block over each
frame, then over each pixel's frames; a transformer likewise, told the index of its frame. Image
to video: the image enters as one CLIP token that everything attends to, and as latents beside
the noisy input. Text to video: the tokens of the text are attended to, nothing stands beside.

Output and parameters are those of the published implementations, diffusers'
UNetSpatioTemporalConditionModel and Stability's VideoUNet. It differs from both on purpose:
- noise level and features are given for each frame; the same in all frames, they are theirs.
- the number of frames is that of the input, never of the configuration.
- embeddings, norms and the softmax are computed in float32 whatever `dtype` says.
- a context of one token is not attended to: its value is added (exact; see `nn.transformer`).
- last layers start at zero as Stability's do, where diffusers starts them at random.
- `cond.vec` holds raw numbers [fps - 1, motion_bucket_id, noise_aug_strength], as diffusers has it.
- the context is the video's, or each frame's: then over time too a position attends to that of its
  own frame, not of the first. Each token counts, masked or not: the null is zeros.
And the two differ from each other in the eps of group norms (see `Eps`) and in odd heights and
widths: on the way up frames are cut to the size they had on the way down, as diffusers does.

`cond.image_only`, as in both: such a frame comes out as the spatial layers alone make it, so that
no other frame changes it. Nothing hides it from the video frames beside it: mark whole clips.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from vdm_jax.core.mesh import VIDEO, constrain
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.cond import Cond
from vdm_jax.nn.conv import Conv, Padding, Upsample, framewise
from vdm_jax.nn.embed import EmbeddingMLP, timestep_embedding
from vdm_jax.nn.init import streamed
from vdm_jax.nn.mixing import FrameByFrame, Mixing, SpaceTime
from vdm_jax.nn.norm import GroupNorm
from vdm_jax.nn.patterns import TimePattern
from vdm_jax.nn.remat import KEEP_ALL, Remat


@dataclass(frozen=True, kw_only=True)
class Eps:
    """What the group norms add to a variance, by place; as diffusers has it.

    Training ran with Stability's values, `STABILITY_EPS`; outputs differ by about 1e-4.
    """

    down: float = 1e-5
    attending_down: float = 1e-6
    middle: float = 1e-5
    up: float = 1e-6
    transformer: float = 1e-6
    out: float = 1e-5


STABILITY_EPS = Eps(attending_down=1e-5, up=1e-5)


@dataclass(frozen=True, kw_only=True)
class SVDUNetConfig:
    """Shape of the network. Levels count from 0, the finest.

    in_channels: of the noisy video, which has out_channels, and of what cond.concat adds to it.
    widths: channels of each level. heads: of its attention.
    attention_levels: levels with transformers. The middle of the U has one, of the last level's
        heads and layers.
    blocks: residual blocks of each level on the way down; one more on the way up.
    transformer_layers: pairs of spatial and temporal blocks of a transformer, in all or by level.
    context: the stream of cond.tokens that is attended to. context_width: features of its tokens.
    vec_features: numbers in cond.vec; None: the network has no such port. vec_width: sinusoids of
        each.
    mixing: what frames learn of each other, and by which patterns of attention.
    dtype: what the layers compute in; parameters are always float32.
    remat: what the backward pass computes again.
    """

    in_channels: int = 8
    out_channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    attention_levels: tuple[int, ...] = (0, 1, 2)
    heads: tuple[int, ...] = (5, 10, 20, 20)
    blocks: int = 2
    transformer_layers: int | tuple[int, ...] = 1
    context: str = "image"
    context_width: int = 1024
    vec_features: int | None = 3
    vec_width: int = 256
    groups: int = 32
    eps: Eps = Eps()
    mixing: Mixing = SpaceTime()
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = KEEP_ALL

    def __post_init__(self) -> None:
        levels = len(self.widths)
        if not levels or min(self.blocks, self.out_channels, *self.widths, *self.layers) < 1:
            raise Refusal("widths, blocks, transformer_layers and out_channels must be at least 1")
        for name, each in (("heads", self.heads), ("transformer_layers", self.layers)):
            if len(each) != levels:
                raise Refusal(f"{name} is for {len(each)} levels; widths is for {levels}")
        for width, heads in zip(self.widths, self.heads, strict=True):
            if heads < 1 or width % heads or width % self.groups or width % 2:
                raise Refusal(
                    f"{width} channels must be even and divide into {self.groups} groups and "
                    f"{heads} heads"
                )
        if not set(self.attention_levels) <= set(range(levels)):
            raise Refusal(
                f"attention_levels is {self.attention_levels}; levels are 0 to {levels - 1}"
            )
        if self.in_channels < self.out_channels:
            raise Refusal(
                f"in_channels is {self.in_channels}; it must be at least the {self.out_channels} "
                "of the noisy video"
            )
        if self.vec_width % 2:
            raise Refusal(f"vec_width is {self.vec_width}; it must be even")

    @property
    def layers(self) -> tuple[int, ...]:
        """Pairs of blocks in a transformer of each level."""
        each = self.transformer_layers
        return (each,) * len(self.widths) if isinstance(each, int) else each

    @property
    def embed_width(self) -> int:
        return 4 * self.widths[0]

    @property
    def signal_channels(self) -> int:
        """Of the noisy video that enters."""
        return self.out_channels

    @property
    def stride(self) -> int:
        return 1  # any height and width will do

    @property
    def text_width(self) -> int | None:
        """Features of the tokens of a text; None: it reads none."""
        return self.context_width if self.context == "text" else None

    @property
    def concat_channels(self) -> int:
        """Channels that cond.concat adds."""
        return self.in_channels - self.out_channels

    def attending(self, time: TimePattern) -> "SVDUNetConfig":
        """The same network, its frames looking at each other by another pattern."""
        return replace(self, mixing=self.mixing.attending(time))

    def build(self, *, rngs: nnx.Rngs) -> "SVDUNet":
        return SVDUNet(self, rngs=streamed(rngs))


class Given(NamedTuple):
    """What every block is told: level and features of each frame, the context, lone pictures."""

    embed: Float[Array, "b t d"]
    context: Float[Array, "b f l k"]
    image_only: Bool[Array, "b t"] | None


class Stage(nnx.Module):
    """Blocks at one resolution: a residual block each, and a transformer while there are any."""

    def __init__(
        self,
        config: SVDUNetConfig,
        level: int,
        inputs: Sequence[int],
        transformers: int,
        eps: float,
        *,
        rngs: nnx.Rngs,
    ):
        """inputs: channels that enter each residual block."""
        self.remat = config.remat
        self.resnets = nnx.List(
            config.mixing.resblock(
                channels,
                config.widths[level],
                embed_width=config.embed_width,
                groups=config.groups,
                eps=eps,
                remat=config.remat,
                dtype=config.dtype,
                rngs=rngs,
            )
            for channels in inputs
        )
        self.transformers = nnx.List(
            config.mixing.transformer(
                config.widths[level],
                config.context_width,
                config.heads[level],
                layers=config.layers[level],
                groups=config.groups,
                eps=config.eps.transformer,
                remat=config.remat,
                dtype=config.dtype,
                rngs=rngs,
            )
            for _ in range(transformers)
        )

    def block(
        self, index: int, x: Float[Array, "b t h w i"], given: Given
    ) -> Float[Array, "b t h w o"]:
        def run(x, given):
            x = self.resnets[index](constrain(x, VIDEO), given.embed, given.image_only)
            if index < len(self.transformers):
                x = self.transformers[index](constrain(x, VIDEO), given.context, given.image_only)
            return x

        return self.remat.block(run)(x, given)


class Down(Stage):
    """A level on the way down: what each block leaves, then, but for the last level, half of it."""

    def __init__(self, config: SVDUNetConfig, level: int, entering: int, *, rngs: nnx.Rngs):
        width, attends = config.widths[level], level in config.attention_levels
        eps = config.eps.attending_down if attends else config.eps.down
        inputs = (entering, *(width,) * (config.blocks - 1))
        super().__init__(config, level, inputs, attends * config.blocks, eps, rngs=rngs)
        self.downsample = nnx.data(None)
        if level + 1 < len(config.widths):
            around = Padding(1, 1, 1, 1)
            self.downsample = Conv(
                width, width, stride=2, padding=around, dtype=config.dtype, rngs=rngs
            )

    def __call__(
        self, x: Float[Array, "b t h w i"], given: Given
    ) -> list[Float[Array, "b t _ _ o"]]:
        left = []
        for index in range(len(self.resnets)):
            x = self.block(index, x, given)
            left.append(x)
        return left if self.downsample is None else [*left, framewise(self.downsample, x)]


class Middle(Stage):
    """The bottom of the U: residual block, transformer, residual block."""

    def __init__(self, config: SVDUNetConfig, *, rngs: nnx.Rngs):
        last = len(config.widths) - 1
        inputs = (config.widths[-1],) * 2
        super().__init__(config, last, inputs, 1, config.eps.middle, rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w c"], given: Given) -> Float[Array, "b t h w c"]:
        return self.block(1, self.block(0, x, given), given)


class Up(Stage):
    """A level on the way up: each block beside what one left on the way down; then twice it."""

    def __init__(
        self,
        config: SVDUNetConfig,
        level: int,
        entering: int,
        beside: Sequence[int],
        *,
        rngs: nnx.Rngs,
    ):
        """entering: channels from below. beside: channels that join before each block."""
        width, attends = config.widths[level], level in config.attention_levels
        before = (entering, *(width,) * (len(beside) - 1))
        inputs = [a + b for a, b in zip(before, beside, strict=True)]
        eps = config.eps.up
        super().__init__(config, level, inputs, attends * len(inputs), eps, rngs=rngs)
        self.upsample = nnx.data(None)
        if level > 0:
            self.upsample = Upsample(width, width, dtype=config.dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b t h w i"], left: list[Float[Array, "b t _ _ _"]], given: Given
    ) -> Float[Array, "b t H W o"]:
        """left: what the way down left and no level has taken yet; this one takes from its end."""
        for index in range(len(self.resnets)):
            x = self.block(index, jnp.concatenate([x, left.pop()], -1), given)
        if self.upsample is None:
            return x
        _, _, height, width, _ = left[-1].shape
        return framewise(partial(self.upsample, size=(height, width)), x)


class SVDUNet(nnx.Module):
    """(z, c_noise, cond) -> the network's raw output F, of z's shape; see `SVDUNetConfig`.

    c_noise is log(sigma) / 4. An absent condition is its null, zeros.
    """

    def __init__(self, config: SVDUNetConfig, *, rngs: nnx.Rngs):
        widths, dtype, embed = config.widths, config.dtype, config.embed_width
        mlp = partial(EmbeddingMLP, dtype="float32", rngs=rngs)
        self.config = config
        self.time_embedding = mlp(widths[0], embed, embed)
        self.add_embedding = nnx.data(None)
        if config.vec_features is not None:
            self.add_embedding = mlp(config.vec_features * config.vec_width, embed, embed)
        self.conv_in = Conv(config.in_channels, widths[0], dtype=dtype, rngs=rngs)
        self.down, self.up = nnx.List(), nnx.List()
        left, entering = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            self.down.append(Down(config, level, entering, rngs=rngs))
            left += [width] * (config.blocks + (level + 1 < len(widths)))
            entering = width
        self.middle = Middle(config, rngs=rngs)
        for level, width in reversed(list(enumerate(widths))):
            beside = [left.pop() for _ in range(config.blocks + 1)]
            self.up.append(Up(config, level, entering, beside, rngs=rngs))
            entering = width
        self.norm_out = GroupNorm(widths[0], config.groups, eps=config.eps.out, rngs=rngs)
        self.conv_out = Conv(
            widths[0],
            config.out_channels,
            kernel_init=nnx.initializers.zeros,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self, z: Float[Array, "b t h w c"], c_noise: Float[Array, "b t"], cond: Cond
    ) -> Float[Array, "b t h w c"]:
        _check(self.config, z, cond)
        given = Given(self._embed(c_noise, cond), self._context(cond, z), cond.image_only)
        x = constrain(cond.beside(z, self.config.concat_channels), VIDEO)
        x = framewise(self.conv_in, x)
        left = [x]
        for stage in self.down:
            left += stage(left[-1], given)
        x = self.middle(left[-1], given)
        for stage in self.up:
            x = stage(x, left, given)
        x = framewise(lambda x: self.conv_out(self.norm_out.silu(x)), x)
        return x.astype(z.dtype)

    def _embed(self, c_noise: Float[Array, "b t"], cond: Cond) -> Float[Array, "b t d"]:
        """Level and features of each frame, summed."""
        config = self.config
        embed = self.time_embedding(timestep_embedding(c_noise, config.widths[0]))
        if self.add_embedding is not None:
            absent = jnp.zeros((*c_noise.shape, config.vec_features))
            vec = absent if cond.vec is None else cond.vec
            waves = timestep_embedding(vec, config.vec_width)
            embed = embed + self.add_embedding(waves.reshape(*c_noise.shape, -1))
        return embed

    def _context(self, cond: Cond, z: Float[Array, "b t h w c"]) -> Float[Array, "b f l k"]:
        config = self.config
        if config.context in cond.tokens:
            return cond.tokens[config.context].by_frame(z.shape[1]).embedding
        return jnp.zeros((len(z), 1, 1, config.context_width))


def _check(config, z, cond):
    """Refuse, before anything compiles, a video or a condition this network cannot take."""
    unknown = sorted(set(cond.tokens) - {config.context})
    if unknown:
        raise Refusal(f"cond.tokens has {unknown}; this network reads only {config.context!r}")
    tokens = cond.tokens.get(config.context)
    ports = (
        ("z", z, config.out_channels),
        ("cond.concat", cond.concat, config.concat_channels),
        ("cond.vec", cond.vec, config.vec_features),
        (f"cond.tokens[{config.context!r}]", tokens and tokens.embedding, config.context_width),
    )
    for name, port, wanted in ports:
        if port is not None and port.shape[-1] != (wanted or 0):
            raise Refusal(f"{name} has {port.shape[-1]} channels; this network takes {wanted or 0}")
    if cond.concat is not None and cond.concat.shape[:4] != z.shape[:4]:
        raise Refusal(f"cond.concat is {cond.concat.shape}; it must be like z, {z.shape}")


SVD = SVDUNetConfig()
"""Image to video, trained on 14 frames of 576x1024 pixels (72x128 latents): 1.52 G parameters."""

SVD_XT = SVD
"""The same network, trained on 25 frames."""

SVD_TEXT = SVDUNetConfig(in_channels=4, context="text", vec_features=None)
"""Text to video, the base of both: the paper's 1521 M parameters (section 4.2)."""

SVD_PICTURE = replace(SVD_TEXT, mixing=FrameByFrame(), eps=STABILITY_EPS)
"""What that began as, the U-Net of Stable Diffusion 2.1: text to pictures, 866 M parameters."""

SVD_TINY = SVDUNetConfig(
    widths=(64, 128), attention_levels=(0,), heads=(2, 4), blocks=1, context_width=32, vec_width=16
)
"""The same in small, for tests and trials: a few seconds to compile."""
