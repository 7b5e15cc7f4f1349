"""Inception-v3 as FID and the Inception Score use it: what a picture shows, as 2048 numbers.

Szegedy et al. 2015 (arXiv:1512.00567) in the form of TensorFlow's graph "inception-2015-12-05",
whose features Heusel et al. 2017 (arXiv:1706.08500) compare, and whose 1008 classes (Salimans et
al. 2016, arXiv:1606.03498) score. The weights are those of pytorch-fid, the graph's own; a model
directory of them is made by `python -m vdm_jax.convert.inception`.

Where that graph differs from the network as it is taught: means of 3x3 pixels leave out what lies
beyond the frame; the very last block takes the largest of 3x3 instead; there is no second head; and
classes are scored without their bias, as in the published code of the score. Here each batch norm
is part of the convolution before it: the converter multiplies it in.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.conv import Conv, Padding
from vdm_jax.nn.init import lecun_normal, streamed, truncated

SMALLEST = 75  # height and width of a picture of which one pixel is left
BATCH_NORM_EPS = 1e-3


class Filter(NamedTuple):
    """A convolution and max(x, 0). width: channels, in sixteenths of 256.

    padded: zeros at each end of the rows, and of the columns.
    """

    width: int
    rows: int = 1
    columns: int = 1
    stride: int = 1
    padded: tuple[int, int] = (0, 0)


class Pool(NamedTuple):
    """One number of each 3x3 pixels. stride 2: none beyond the frame; 1: as many as there were."""

    kind: Literal["mean", "largest"]
    stride: int = 1


class Beside(NamedTuple):
    """Chains that see the same, their channels beside each other."""

    chains: tuple["Chain", ...]


Step = Filter | Pool | Beside
Chain = tuple[Step, ...]


def same(width: int, rows: int = 1, columns: int = 1) -> Filter:
    """A filter that keeps the frame's size."""
    return Filter(width, rows, columns, 1, (rows // 2, columns // 2))


MEAN, LARGEST, HALF = Pool("mean"), Pool("largest"), Pool("largest", 2)


def _block_35(pooled: int) -> Beside:
    """Szegedy et al. 2015, figure 5, with one convolution of 5x5."""
    return Beside(
        (
            (same(4),),
            (same(3), same(4, 5, 5)),
            (same(4), same(6, 3, 3), same(6, 3, 3)),
            (MEAN, same(pooled)),
        )
    )


def _block_17(width: int) -> Beside:
    """Figure 6, n = 7."""
    across, along = (1, 7), (7, 1)
    return Beside(
        (
            (same(12),),
            (same(width), same(width, *across), same(12, *along)),
            (
                same(width),
                same(width, *along),
                same(width, *across),
                same(width, *along),
                same(12, *across),
            ),
            (MEAN, same(12)),
        )
    )


def _block_8(pool: Pool) -> Beside:
    """Figure 7."""
    fork = Beside(((same(24, 1, 3),), (same(24, 3, 1),)))
    return Beside(
        (
            (same(20),),
            (same(24), fork),
            (same(28), same(24, 3, 3), fork),
            (pool, same(12)),
        )
    )


NETWORK: Chain = (
    Filter(2, 3, 3, 2),
    Filter(2, 3, 3),
    same(4, 3, 3),
    HALF,
    same(5),
    Filter(12, 3, 3),
    HALF,
    _block_35(2),
    _block_35(4),
    _block_35(4),
    Beside(
        (
            (Filter(24, 3, 3, 2),),
            (same(4), same(6, 3, 3), Filter(6, 3, 3, 2)),
            (HALF,),
        )
    ),
    _block_17(8),
    _block_17(10),
    _block_17(10),
    _block_17(12),
    Beside(
        (
            (same(12), Filter(20, 3, 3, 2)),
            (same(12), same(12, 1, 7), same(12, 7, 1), Filter(12, 3, 3, 2)),
            (HALF,),
        )
    ),
    _block_8(MEAN),
    _block_8(LARGEST),
)


def filters(chain: Chain, path: str = "body") -> Iterator[str]:
    """The path of each convolution's parameters, in the order of the network."""
    for place, step in enumerate(chain):
        if isinstance(step, Filter):
            yield f"{path}/steps/{place}"
        if isinstance(step, Beside):
            for number, inner in enumerate(step.chains):
                yield from filters(inner, f"{path}/steps/{place}/chains/{number}")


@dataclass(frozen=True, kw_only=True)
class InceptionConfig:
    """unit: all widths are multiples of it; 16: the published network. classes: that it scores.

    dtype: what the convolutions compute in; features and scores are float32.
    """

    unit: int = 16
    classes: int = 1008
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if min(self.unit, self.classes) < 1:
            raise Refusal(f"unit and classes must be at least 1, got {self.unit}, {self.classes}")

    @property
    def features(self) -> int:
        return 128 * self.unit

    def build(self, *, rngs: nnx.Rngs) -> "Inception":
        return Inception(self, rngs=rngs)


class Seen(NamedTuple):
    """features: mean over the last block. logits: of each class, without its bias."""

    features: Float[Array, "f d"]
    logits: Float[Array, "f classes"]


class Rectified(Conv):
    """A convolution, then max(x, 0)."""

    def __init__(self, before: int, step: Filter, config: InceptionConfig, *, rngs: nnx.Rngs):
        top, left = step.padded
        self.width = step.width * config.unit
        super().__init__(
            before,
            self.width,
            kernel_size=(step.rows, step.columns),
            stride=step.stride,
            padding=Padding(top, top, left, left),
            kernel_init=truncated(2 / (step.rows * step.columns * before)),
            dtype=config.dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "f h w i"]) -> Float[Array, "f H W o"]:
        return jax.nn.relu(super().__call__(x))


class Pooled(nnx.Module):
    """One number of each 3x3 pixels."""

    def __init__(self, before: int, pool: Pool):
        self.pool, self.width = pool, before

    def __call__(self, x: Float[Array, "f h w c"]) -> Float[Array, "f H W c"]:
        if self.pool.kind == "mean":
            return nnx.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)
        stride, padding = self.pool.stride, "SAME" if self.pool.stride == 1 else "VALID"
        return nnx.max_pool(x, (3, 3), strides=(stride, stride), padding=padding)


class Steps(nnx.Module):
    """One after the other. width: channels of what comes out."""

    def __init__(self, before: int, chain: Chain, config: InceptionConfig, *, rngs: nnx.Rngs):
        self.steps = nnx.List()
        self.width = before
        for step in chain:
            made = _made(self.width, step, config, rngs=rngs)
            self.steps.append(made)
            self.width = made.width

    def __call__(self, x: Float[Array, "f h w i"]) -> Float[Array, "f H W o"]:
        for step in self.steps:
            x = step(x)
        return x


class SideBySide(nnx.Module):
    """All on the same frames. width: channels of all together."""

    def __init__(self, before: int, step: Beside, config: InceptionConfig, *, rngs: nnx.Rngs):
        self.chains = nnx.List(Steps(before, chain, config, rngs=rngs) for chain in step.chains)
        self.width = sum(chain.width for chain in self.chains)

    def __call__(self, x: Float[Array, "f h w i"]) -> Float[Array, "f H W o"]:
        return jnp.concatenate([chain(x) for chain in self.chains], -1)


def _made(before: int, step: Step, config: InceptionConfig, *, rngs: nnx.Rngs):
    if isinstance(step, Filter):
        return Rectified(before, step, config, rngs=rngs)
    if isinstance(step, Beside):
        return SideBySide(before, step, config, rngs=rngs)
    return Pooled(before, step)


class Inception(nnx.Module):
    """Frames in -1..1, 299x299 as the weights were trained at, to what they show."""

    def __init__(self, config: InceptionConfig, *, rngs: nnx.Rngs):
        self.config = config
        rngs = streamed(rngs)
        self.body = Steps(3, NETWORK, config, rngs=rngs)
        assert self.body.width == config.features
        self.head = nnx.Linear(
            config.features, config.classes, use_bias=False, kernel_init=lecun_normal, rngs=rngs
        )

    def __call__(self, x: Float[Array, "f h w 3"]) -> Seen:
        """What each frame shows, float32.

        Raises:
            Refusal: where frames are so small that nothing is left of them.
        """
        if min(x.shape[1:3]) < SMALLEST:
            got = "x".join(map(str, x.shape[1:3]))
            raise Refusal(f"Inception takes frames of at least {SMALLEST}x{SMALLEST}, got {got}")
        features = self.body(x).astype(jnp.float32).mean((1, 2))
        return Seen(features, self.head(features))


FID_INCEPTION = InceptionConfig()
"""23,832,736 weights; in pytorch-fid's file, its batch norms and the bias apart, 23,885,392."""
