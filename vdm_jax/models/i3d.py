"""I3D: what happens in a video, as one of the 400 actions of Kinetics; the eyes of FVD.

Carreira and Zisserman 2017 (arXiv:1705.07750), section 2.5 and figure 3: Inception-v1 (Szegedy et
al. 2015) whose kernels and pooling windows have grown an axis of time. Its logits, one for each
action, are what the Fréchet video distance (Unterthiner et al. 2018, arXiv:1812.01717) compares.

For inference only: batch norm is folded into kernels and biases when weights are brought here,
`python -m vdm_jax.convert.i3d`. The three convolutions of a block that see its input as it is are
one, whose outputs lie beside each other.
"""

from dataclasses import dataclass
from importlib import resources
from itertools import chain
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.conv3d import ONE, Three, conv3d, max_pool3d
from vdm_jax.nn.init import lecun_normal, truncated

KINETICS_400 = tuple(
    resources.files("vdm_jax.models").joinpath("kinetics_400.txt").read_text("utf-8").splitlines()
)
"""What the logits stand for, in their order."""

Widths = tuple[int, int, int, int, int, int]
"""Channels of a block: its 1x1x1 convolution; one and the 3x3x3 after it; the narrower pair of the
same; the 1x1x1 one after the pooling."""

INCEPTION = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
"""Mixed_3b and 3c; 4b to 4f; 5b and 5c."""

POOLS: tuple[tuple[Three, Three], ...] = (
    ((1, 3, 3), (1, 2, 2)),
    ((3, 3, 3), (2, 2, 2)),
    ((2, 2, 2), (2, 2, 2)),
)
"""Window and stride of the pooling before each stage."""

LEAST_FRAMES = 9  # of a clip: the last pooling sees two positions in time
LEAST_SIDE = 32  # of a frame: one position in the last stage


@dataclass(frozen=True, kw_only=True)
class I3DConfig:
    """The network; the defaults are the published one, 12,689,984 weights.

    stem: channels of the three convolutions before the first block.
    stages: the blocks of each stage, see `Widths`.
    classes: how many actions it tells apart.
    dtype: what the convolutions compute in; features and logits are always float32.
    """

    stem: tuple[int, int, int] = (64, 64, 192)
    stages: tuple[tuple[Widths, ...], ...] = INCEPTION
    classes: int = len(KINETICS_400)
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if len(self.stages) != len(POOLS) or not all(self.stages):
            raise Refusal(f"stages must be {len(POOLS)}, each with blocks, got {self.stages}")
        if min(self.classes, *self.stem, *chain(*chain(*self.stages))) < 1:
            raise Refusal("stem, stages and classes must hold widths of at least 1")

    def build(self, *, rngs: nnx.Rngs) -> "I3D":
        return I3D(self, rngs=rngs)


class Unit(nnx.Module):
    """A convolution with bias, then max(x, 0)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        config: I3DConfig,
        *,
        stride: Three = ONE,
        rngs: nnx.Rngs,
    ):
        self.stride, self.dtype = stride, config.dtype
        draw = truncated(2 / (in_channels * size**3))
        self.kernel = nnx.Param(draw(rngs.params(), (size, size, size, in_channels, out_channels)))
        self.bias = nnx.Param(jnp.zeros(out_channels))

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b T H W o"]:
        y = conv3d(x, self.kernel[...].astype(self.dtype), self.stride)
        return jax.nn.relu(y + self.bias[...].astype(self.dtype).reshape(1, 1, 1, 1, -1))


class Inception(nnx.Module):
    """Four ways of looking at the same, beside each other."""

    def __init__(self, in_channels: int, widths: Widths, config: I3DConfig, *, rngs: nnx.Rngs):
        point, wide_in, wide, narrow_in, narrow, pooled = widths
        self.widths = widths
        self.enter = Unit(in_channels, point + wide_in + narrow_in, 1, config, rngs=rngs)
        self.wide = Unit(wide_in, wide, 3, config, rngs=rngs)
        self.narrow = Unit(narrow_in, narrow, 3, config, rngs=rngs)
        self.pooled = Unit(in_channels, pooled, 1, config, rngs=rngs)

    @property
    def channels(self) -> int:
        """Of what it gives."""
        point, _, wide, _, narrow, pooled = self.widths
        return point + wide + narrow + pooled

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b t h w o"]:
        point, wide_in, *_ = self.widths
        same, wide, narrow = jnp.split(self.enter(x), (point, point + wide_in), axis=-1)
        around = self.pooled(max_pool3d(x, (3, 3, 3), ONE))
        return jnp.concatenate((same, self.wide(wide), self.narrow(narrow), around), axis=-1)


class I3D(nnx.Module):
    """Clips in -1..1 to the logits of the actions. Published use: 224x224 pixels."""

    def __init__(self, config: I3DConfig, *, rngs: nnx.Rngs):
        self.config = config
        first, second, width = config.stem
        self.stem = nnx.List(
            (
                Unit(3, first, 7, config, stride=(2, 2, 2), rngs=rngs),
                Unit(first, second, 1, config, rngs=rngs),
                Unit(second, width, 3, config, rngs=rngs),
            )
        )
        self.stages = nnx.List()
        for stage in config.stages:
            blocks = nnx.List()
            for widths in stage:
                blocks.append(Inception(width, widths, config, rngs=rngs))
                width = blocks[-1].channels
            self.stages.append(blocks)
        self.logits = nnx.Linear(width, config.classes, kernel_init=lecun_normal, rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w 3"]) -> Float[Array, "b classes"]:
        """Logits, averaged over time. Raises Refusal as `features`."""
        return self.logits(self.features(x))

    def features(self, x: Float[Array, "b t h w 3"]) -> Float[Array, "b d"]:
        """What the logits are a linear map of; 1024 numbers of the published network.

        The last stage is averaged over space, and over windows of two positions in time, as
        published; then over the windows.

        Raises:
            Refusal: for clips of fewer than 9 frames, or of frames smaller than 32x32.
        """
        _, t, h, w, _ = x.shape
        if t < LEAST_FRAMES or min(h, w) < LEAST_SIDE:
            least = f"{LEAST_FRAMES} frames of {LEAST_SIDE}x{LEAST_SIDE}"
            raise Refusal(f"I3D takes clips of at least {least}, got {t} of {h}x{w}")
        x = x.astype(self.config.dtype)
        first, second, third = self.stem
        x = third(second(max_pool3d(first(x), *POOLS[0])))
        for pool, blocks in zip(POOLS, self.stages, strict=True):
            x = max_pool3d(x, *pool)
            for block in blocks:
                x = block(x)
        seen = x.astype(jnp.float32).mean((2, 3))
        return jnp.einsum("btd,t->bd", seen, _share_of_windows(seen.shape[1]))


def _share_of_windows(length: int) -> Float[np.ndarray, " length"]:
    """What each position weighs in the mean over all windows of two."""
    share = np.full(length, 1 / (length - 1), np.float32)
    share[[0, -1]] /= 2
    return share
