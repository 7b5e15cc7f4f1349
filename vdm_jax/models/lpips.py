"""LPIPS: how different two pictures look, by what an image classifier sees in them.

Zhang et al. 2018 (arXiv:1801.03924), section 3.1, version 0.1: the features of both pictures at
five depths are scaled to unit length at every pixel, their squared differences weighted by channel,
averaged over space, and summed over depths. With VGG16 (Simonyan and Zisserman 2014) it is what
autoencoders are trained by, with AlexNet (Krizhevsky 2014, arXiv:1404.5997) what papers report. The
weights of both are published; `python -m vdm_jax.convert.lpips` fetches them.

With features drawn at random (`RandomLPIPSConfig`) it is a distance still, and a coarse one: it
sees edges and textures beyond the single pixel, but was never fitted to what people see.
"""

from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.conv import Conv, Padding
from vdm_jax.nn.init import truncated


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Convolutions of one resolution, alike but for their widths.

    widths: channels of each. kernel, padding: rows and columns of each, and of the zeros around.
    pool: rows and columns of the squares whose largest is taken first, one in two; None: none is.
    """

    widths: tuple[int, ...]
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    pool: int | None = None

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise Refusal(f"stages must hold widths of at least 1 in each, got {self.widths}")
        if min(self.kernel, self.stride, 1 if self.pool is None else self.pool) < 1:
            raise Refusal(f"kernel, stride and pool must be at least 1 in {self}")
        if not 0 <= self.padding <= self.kernel // 2:
            raise Refusal(f"padding must be 0 to half the kernel in {self}")

    def before(self, size: int) -> int:
        """The least height or width that a picture has here, to have `size` after the stage."""
        for _ in self.widths:
            size = max(1, (size - 1) * self.stride + self.kernel - 2 * self.padding)
        return size if self.pool is None else 2 * (size - 1) + self.pool


VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
ALEXNET = (
    StageConfig(widths=(64,), kernel=11, stride=4, padding=2),
    StageConfig(widths=(192,), kernel=5, padding=2, pool=3),
    StageConfig(widths=(384,), pool=3),
    StageConfig(widths=(256,)),
    StageConfig(widths=(256,)),
)

SHIFT = (-0.030, -0.088, -0.188)
"""Mean of the classifier's training pictures in -1..1, by colour, as the authors rounded it."""
SCALE = (0.458, 0.448, 0.450)
"""Their standard deviation."""
EPS = 1e-10  # added to the length of features
LEAST = 1e-20  # squared length below which a pixel has no gradient: it sees nothing


@dataclass(frozen=True, kw_only=True)
class LPIPSConfig:
    """The network and the weights of its channels; to be used with weights that were trained.

    stages: what each is; widths alone are a stage of VGG's: of 3x3 convolutions, and before it,
        unless it is the first, the largest of each square of 2x2.
    dtype: what the convolutions compute in; the distance is always float32.
    """

    stages: tuple[StageConfig | tuple[int, ...], ...] = VGG16
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if not self.spelled:
            raise Refusal("stages must hold at least one stage")

    @property
    def spelled(self) -> tuple[StageConfig, ...]:
        """The stages, those of VGG in full."""
        return tuple(
            stage
            if isinstance(stage, StageConfig)
            else StageConfig(widths=stage, pool=2 if place else None)
            for place, stage in enumerate(self.stages)
        )

    @property
    def smallest(self) -> int:
        """Height and width that a picture has at least: one pixel in the last stage."""
        return reduce(lambda size, stage: stage.before(size), reversed(self.spelled), 1)

    def build(self, *, rngs: nnx.Rngs) -> "LPIPS":
        return LPIPS(self, rngs=rngs)


@dataclass(frozen=True, kw_only=True)
class RandomLPIPSConfig(LPIPSConfig):
    """The same with features drawn at random, and said to be: no weights are asked for."""


class Stage(nnx.Module):
    """Convolutions of one resolution, each followed by max(x, 0)."""

    def __init__(self, before: int, stage: StageConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.pool = stage.pool
        self.convs = nnx.List(
            Conv(
                i,
                o,
                kernel_size=stage.kernel,
                stride=stage.stride,
                padding=Padding(*[stage.padding] * 4),
                kernel_init=truncated(2 / (stage.kernel**2 * i)),
                dtype=dtype,
                rngs=rngs,
            )
            for i, o in pairwise((before, *stage.widths))
        )

    def __call__(self, x: Float[Array, "f h w i"]) -> Float[Array, "f H W o"]:
        x = x if self.pool is None else _pooled(x, self.pool)
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
        return x


class LPIPS(nnx.Module):
    """The perceptual distance of frames in -1..1."""

    def __init__(self, config: LPIPSConfig, *, rngs: nnx.Rngs):
        self.config = config
        ends = [stage.widths[-1] for stage in config.spelled]
        self.stages = nnx.List(
            Stage(before, stage, dtype=config.dtype, rngs=rngs)
            for before, stage in zip([len(SHIFT), *ends], config.spelled, strict=False)
        )
        self.weights = nnx.List(nnx.Param(jnp.ones(width)) for width in ends)

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
        for stage in self.stages:
            x = stage(x)
            seen.append(x)
        return seen


def _pooled(x: Float[Array, "f h w c"], window: int) -> Float[Array, "f H W c"]:
    """The largest of each square, one in two; an odd row or column at the end falls off."""
    if window != 2:
        return nnx.max_pool(x, (window, window), strides=(2, 2))
    f, h, w, c = x.shape  # they share no pixels: the gradient is quicker
    even = x[:, : h // 2 * 2, : w // 2 * 2]
    return even.reshape(f, h // 2, 2, w // 2, 2, c).max((2, 4))


def _unit(x: Float[Array, "f h w c"]) -> Float[Array, "f h w c"]:
    """Each pixel's features at unit length; those of a pixel that sees nothing stay zero."""
    x = x.astype(jnp.float32)
    squared = (x * x).sum(-1, keepdims=True)
    return x / (jnp.sqrt(jnp.maximum(squared, LEAST)) + EPS)


LPIPS_VGG16 = LPIPSConfig()
LPIPS_ALEX = LPIPSConfig(stages=ALEXNET)
"""2,469,696 weights of the network, 1,152 of its channels."""
