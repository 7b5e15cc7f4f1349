"""A discriminator that judges every patch of a picture, or of a clip, by itself.

PatchGAN (Isola et al. 2017, arXiv:1611.07004, section 3.2) as it is used to train autoencoders
(Esser et al. 2021, arXiv:2012.09841): 4x4 convolutions, the first three of which halve the size,
so that with three layers each answer depends on 70x70 pixels.

It differs in its normalisation: groups of channels of one picture, where the original takes the
statistics of the batch. Those mix samples: over devices they would have to be exchanged in every
layer, or the answer would depend on how many devices there are and on how a batch is accumulated;
and true and made pictures would have to be judged in batches of their own. Group norm (Wu and He
2018, arXiv:1803.08494) needs neither.

For clips each convolution in space is followed by one in time, as in the rest of this package, and
statistics are taken over all frames: this is the discriminator of temporal decoders (Blattmann et
al. 2023, arXiv:2304.08818, section 3.1.1).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.conv import Conv, Padding, framewise
from vdm_jax.nn.init import normal
from vdm_jax.nn.norm import GroupNorm

COLOURS = 3
KERNEL = 4  # rows and columns
EDGE = Padding(1, 1, 1, 1)
SLOPE = 0.2  # of the activation below zero
WIDEST = 8  # times the first layer's channels
STD = 0.02  # of initial weights in space (Radford et al. 2016)


@dataclass(frozen=True, kw_only=True)
class PatchDiscriminatorConfig:
    """Shape of the discriminator.

    channels: of the first layer; each further one has twice as many, up to eight times.
    layers: that halve the size; two more keep it.
    kernel_frames: frames that a convolution in time spans, odd; 1: each frame is judged alone.
    dtype: what the layers compute in; parameters are always float32.
    """

    channels: int = 64
    layers: int = 3
    kernel_frames: int = 1
    groups: int = 32
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if min(self.channels, self.layers, self.groups) < 1 or self.channels % self.groups:
            raise Refusal(
                "channels, layers and groups must be at least 1 and channels a multiple of "
                f"groups, got {self.channels}, {self.layers} and {self.groups}"
            )
        if self.kernel_frames < 1 or self.kernel_frames % 2 == 0:
            raise Refusal(f"kernel_frames must be odd, got {self.kernel_frames}")

    @property
    def smallest(self) -> int:
        """Height and width that a frame has at least: two layers that keep the size take a pixel
        each, and one is left."""
        return 3 * 2**self.layers

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each layer but the last."""
        return tuple(self.channels * min(2**i, WIDEST) for i in range(self.layers + 1))

    def build(self, *, rngs: nnx.Rngs) -> "PatchDiscriminator":
        return PatchDiscriminator(self, rngs=rngs)


class Layer(nnx.Module):
    """A convolution in space, and one in time where frames are judged together."""

    def __init__(
        self, widths: tuple[int, int], stride: int, config: PatchDiscriminatorConfig, rngs: nnx.Rngs
    ):
        self.space = Conv(
            *widths,
            kernel_size=KERNEL,
            stride=stride,
            padding=EDGE,
            kernel_init=normal(STD),
            dtype=config.dtype,
            rngs=rngs,
        )
        size, width = (config.kernel_frames, 1), widths[1]
        mixing = [Conv(width, width, kernel_size=size, dtype=config.dtype, rngs=rngs)]
        self.time = nnx.List(mixing if config.kernel_frames > 1 else [])

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b t H W o"]:
        b, t = x.shape[:2]
        y = framewise(self.space, x)
        h, w, o = y.shape[2:]
        for mix in self.time:
            y = mix(y.reshape(b, t, h * w, o))
        return y.reshape(b, t, h, w, o)


class PatchDiscriminator(nnx.Module):
    """Videos in -1..1 to the answer for each patch: positive for what it holds to be true."""

    def __init__(self, config: PatchDiscriminatorConfig, *, rngs: nnx.Rngs):
        self.config = config
        widths = (COLOURS, *config.widths, 1)
        strides = (2,) * config.layers + (1, 1)
        self.layers = nnx.List(
            Layer(pair, stride, config, rngs)
            for pair, stride in zip(pairwise(widths), strides, strict=True)
        )
        self.norms = nnx.List(GroupNorm(w, config.groups, rngs=rngs) for w in config.widths[1:])

    def __call__(self, video: Float[Array, "b t h w 3"]) -> Float[Array, "b t H W"]:
        """Raises:
        Refusal: where frames are too small to hold a patch.
        """
        least = self.config.smallest
        if min(video.shape[2:4]) < least:
            raise Refusal(
                f"this discriminator takes frames of at least {least}x{least}, got "
                f"{video.shape[2:4]}"
            )
        first, *middle, last = self.layers
        x = jax.nn.leaky_relu(first(video), SLOPE)
        for layer, norm in zip(middle, self.norms, strict=True):
            x = jax.nn.leaky_relu(self._normalised(norm, layer(x)), SLOPE)
        return last(x)[..., 0].astype(jnp.float32)

    def _normalised(
        self, norm: GroupNorm, x: Float[Array, "b t h w c"]
    ) -> Float[Array, "b t h w c"]:
        """By the statistics of each frame, or of each video where frames are judged together."""
        b, t, h, w, c = x.shape
        alone = self.config.kernel_frames == 1
        pictures = x.reshape(b * t, h, w, c) if alone else x.reshape(b, t * h, w, c)
        return norm(pictures).reshape(x.shape)
