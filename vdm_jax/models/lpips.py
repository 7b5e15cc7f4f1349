"""LPIPS: how different two pictures look, by what an image classifier sees in them.

Zhang et al. 2018 (arXiv:1801.03924), section 3.1, version 0.1 with VGG16 (Simonyan and Zisserman
2014): the features of both pictures at five depths are scaled to unit length at every pixel, their
squared differences weighted by channel, averaged over space, and summed over depths. The weights
of both are published; `python -m vdm_jax.convert.lpips` fetches them.

With features drawn at random (`RandomLPIPSConfig`) it is a distance still, and a coarse one: it
sees edges and textures beyond the single pixel, but was never fitted to what people see.
"""

from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.conv import Conv
from vdm_jax.nn.init import truncated

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of each convolution; before every stage but the first, half the size."""

SHIFT = (-0.030, -0.088, -0.188)
"""Mean of the classifier's training pictures in -1..1, by colour, as the authors rounded it."""
SCALE = (0.458, 0.448, 0.450)
"""Their standard deviation."""
EPS = 1e-10  # added to the length of features
LEAST = 1e-20  # squared length below which a pixel has no gradient: it sees nothing


@dataclass(frozen=True, kw_only=True)
class LPIPSConfig:
    """The network and the weights of its channels; to be used with weights that were trained.

    stages: channels of the convolutions of each stage.
    dtype: what the convolutions compute in; the distance is always float32.
    """

    stages: tuple[tuple[int, ...], ...] = VGG16
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if not self.stages or not all(self.stages) or min(chain(*self.stages)) < 1:
            raise Refusal(f"stages must hold widths of at least 1 in each, got {self.stages}")

    @property
    def smallest(self) -> int:
        """Height and width that a picture has at least: one pixel in the last stage."""
        return 2 ** (len(self.stages) - 1)

    def build(self, *, rngs: nnx.Rngs) -> "LPIPS":
        return LPIPS(self, rngs=rngs)


@dataclass(frozen=True, kw_only=True)
class RandomLPIPSConfig(LPIPSConfig):
    """The same with features drawn at random, and said to be: no weights are asked for."""


class Stage(nnx.Module):
    """Convolutions of one resolution, each followed by max(x, 0)."""

    def __init__(self, widths: tuple[int, ...], config: LPIPSConfig, *, rngs: nnx.Rngs):
        self.convs = nnx.List(
            Conv(i, o, kernel_init=truncated(2 / (9 * i)), dtype=config.dtype, rngs=rngs)
            for i, o in pairwise(widths)
        )

    def __call__(self, x: Float[Array, "f h w i"]) -> Float[Array, "f h w o"]:
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
        return x


class LPIPS(nnx.Module):
    """The perceptual distance of frames in -1..1."""

    def __init__(self, config: LPIPSConfig, *, rngs: nnx.Rngs):
        self.config = config
        before = (len(SHIFT), *(widths[-1] for widths in config.stages))
        self.stages = nnx.List(
            Stage((width, *widths), config, rngs=rngs)
            for width, widths in zip(before, config.stages, strict=False)
        )
        self.weights = nnx.List(nnx.Param(jnp.ones(widths[-1])) for widths in config.stages)

    def __call__(
        self, x: Float[Array, "f h w 3"], y: Float[Array, "f h w 3"]
    ) -> Float[Array, " f"]:
        """Of each frame of `x` from that of `y`: 0 for the same, about 0.7 for unrelated ones.

        Raises:
            Refusal: where frames are so small that nothing is left of them.
        """
        least = self.config.smallest
        if min(x.shape[1:3]) < least:
            raise Refusal(f"LPIPS takes frames of at least {least}x{least}, got {x.shape[1:3]}")
        total = jnp.zeros(len(x))
        for fx, fy, weight in zip(self.features(x), self.features(y), self.weights, strict=True):
            apart = (_unit(fx) - _unit(fy)) ** 2
            total += (apart @ weight[...].astype(jnp.float32)).mean((1, 2))
        return total

    def features(self, x: Float[Array, "f h w 3"]) -> list[Float[Array, "f _ _ _"]]:
        """What each stage sees."""
        colours = (1, 1, 1, -1)
        x = (x - jnp.array(SHIFT).reshape(colours)) / jnp.array(SCALE).reshape(colours)
        seen = []
        for depth, stage in enumerate(self.stages):
            x = stage(x if depth == 0 else _halved(x))
            seen.append(x)
        return seen


def _halved(x: Float[Array, "f h w c"]) -> Float[Array, "f h//2 w//2 c"]:
    """The largest of each square of 2x2; an odd row or column at the end falls off."""
    f, h, w, c = x.shape
    even = x[:, : h // 2 * 2, : w // 2 * 2]
    return even.reshape(f, h // 2, 2, w // 2, 2, c).max((2, 4))


def _unit(x: Float[Array, "f h w c"]) -> Float[Array, "f h w c"]:
    """Each pixel's features at unit length; those of a pixel that sees nothing stay zero."""
    x = x.astype(jnp.float32)
    squared = (x * x).sum(-1, keepdims=True)
    return x / (jnp.sqrt(jnp.maximum(squared, LEAST)) + EPS)
