"""An aesthetic score: what people would say of a picture's beauty, 1 to 10, by its CLIP vector.

Schuhmann et al. 2022 (LAION-5B, arXiv:2210.08402), section 3.3: linear maps, one after the other
with nothing between them, of a CLIP vector of unit length. The first predictor is a single map;
the improved one, fitted to SAC, Logos and AVA, has five. Both were fitted to the vectors of
OpenAI's ViT-L/14, and mean nothing for those of another CLIP.

A model directory of one is made by `python -m vdm_jax.convert.aesthetic`.
"""

from dataclasses import dataclass
from itertools import pairwise

from flax import nnx
from jaxtyping import Array, Float

from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.init import lecun_normal


@dataclass(frozen=True, kw_only=True)
class AestheticConfig:
    """widths: numbers of the vector, of what stands between the maps, and 1: the score."""

    widths: tuple[int, ...] = (768, 1024, 128, 64, 16, 1)

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(self.widths) < 1 or self.widths[-1] != 1:
            raise Refusal(f"widths must be two or more, the last of them 1, got {self.widths}")

    def build(self, *, rngs: nnx.Rngs) -> "Aesthetic":
        return Aesthetic(self, rngs=rngs)


class Aesthetic(nnx.Module):
    """Vectors of unit length -> scores."""

    def __init__(self, config: AestheticConfig, *, rngs: nnx.Rngs):
        self.layers = nnx.List(
            nnx.Linear(before, after, kernel_init=lecun_normal, rngs=rngs)
            for before, after in pairwise(config.widths)
        )

    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, " b"]:
        for layer in self.layers:
            x = layer(x)
        return x[:, 0]


LAION_LINEAR = AestheticConfig(widths=(768, 1))
LAION_IMPROVED = AestheticConfig()
"""sac+logos+ava1-l14-linearMSE; 927,969 weights."""
