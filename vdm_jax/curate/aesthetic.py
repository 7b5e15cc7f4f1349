"""How beautiful frames are, by a head that was fitted to what people said of pictures."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vdm_jax.core.refusal import Refusal
from vdm_jax.curate.embedding import embedder, taken
from vdm_jax.curate.stage import Clip
from vdm_jax.curate.weights import CLIP_WEIGHTS, Need
from vdm_jax.models.aesthetic import AestheticConfig
from vdm_jax.sample.network import described, filled

WANTED = (
    "a model directory of an aesthetic head, which `python -m vdm_jax.convert.aesthetic --from "
    "FILE --output PATH` makes of a published one (.pth or .safetensors)"
)


@dataclass(frozen=True, kw_only=True)
class Aesthetic:
    """weights: name of the head in --weights. clip: name of the CLIP that it was fitted to. gpus:
    of a worker; 0 computes on the CPU.
    """

    weights: str = "aesthetic"
    clip: str = "clip"
    gpus: float = 0.0

    @property
    def needs(self) -> tuple[Need, ...]:
        return Need(self.weights, WANTED), Need(self.clip, CLIP_WEIGHTS)

    def build(self, weights: Mapping[str, Path]) -> "AestheticStage":
        return AestheticStage(self, weights[self.weights], weights[self.clip])


class AestheticStage:
    columns = {  # noqa: RUF012
        "aesthetic": "mean score of its first, middle and last frame; LAION's go from 1 to 10"
    }

    def __init__(self, config: Aesthetic, directory: Path, clip: Path):
        self._directory, self._clip = directory, clip
        self._embedder = embedder(clip, config.gpus)
        self.resources = taken(clip, config.gpus)

    def setup(self) -> None:
        wanted = described(self._directory, AestheticConfig, WANTED).widths[0]
        got = self._embedder.config.picture.projection
        if got != wanted:
            raise Refusal(
                f"{self._directory}: the aesthetic head takes {wanted} numbers, the CLIP in "
                f"{self._clip} gives {got}: it was fitted to another CLIP"
            )

    def process(self, clip: Clip) -> Iterable[Clip]:
        scores = _head(self._directory)(self._embedder.of(clip))
        return [clip.scored(aesthetic=float(np.asarray(scores).mean()))]


@cache
def _head(directory: Path):
    """The head as a function of unit vectors, where CLIP computes as well."""
    graphdef, params = filled(directory, described(directory, AestheticConfig, WANTED))
    run = jax.jit(lambda params, x: nnx.merge(graphdef, params)(x))

    def head(x: Float[np.ndarray, "n d"]) -> Float[Array, " n"]:
        return run(params, x)

    return head
