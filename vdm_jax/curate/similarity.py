"""How well a caption fits its clip, by CLIP, and what clips of one content are found by."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vdm_jax.curate.stage import Clip
from vdm_jax.curate.weights import CLIP_WEIGHTS, Need

CLIP = "clip"
"""The name of its vectors."""


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """The cosine of a caption and the first, middle and last frame (SVD, section 3.1).

    weights: name of the CLIP in --weights. caption: whose is compared (`Clip.captions`); None: the
    first that a clip has. gpus: of a worker; 0 computes on the CPU.
    """

    weights: str = "clip"
    caption: str | None = None
    gpus: float = 0.0

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Need(self.weights, CLIP_WEIGHTS),)

    def build(self, weights: Mapping[str, Path]) -> "SimilarityStage":
        return SimilarityStage(self, weights[self.weights])


class SimilarityStage:
    """A clip without that caption has no score, which no rule holds for."""

    columns = {  # noqa: RUF012
        "clip_similarity": "mean cosine of its caption and its first, middle and last frame"
    }

    def __init__(self, config: Similarity, directory: Path):
        from vdm_jax.curate.embedding import embedder, taken  # seconds that others do not need

        self._config = config
        self._embedder = embedder(directory, config.gpus)
        self.resources = taken(directory, config.gpus)

    def setup(self) -> None:
        self._embedder.check()

    def process(self, clip: Clip) -> Iterable[Clip]:
        seen = self._embedder.of(clip)
        mean = seen.mean(0)
        vector = (mean / np.linalg.norm(mean)).astype(np.float16)
        clip = replace(clip, vectors={**clip.vectors, CLIP: vector})
        caption = self._caption(clip)
        if caption:
            clip = clip.scored(clip_similarity=float(mean @ self._embedder.text(caption)))
        return [clip]

    def _caption(self, clip: Clip) -> str:
        if self._config.caption is None:
            return next(iter(clip.captions.values()), "")
        return clip.captions.get(self._config.caption, "")
