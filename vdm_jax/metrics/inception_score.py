"""The Inception score: whether a classifier knows what each clip shows, and sees all kinds of them.

Salimans et al. 2016 (arXiv:1606.03498), section 4: exp(mean KL(p(y|x) || p(y))), between 1 and the
number of classes. For video by Saito et al. 2017 (arXiv:1611.06624), with a classifier of video. It
grows with the number of clips and knows nothing of the real ones.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64, Integer
from scipy.special import log_softmax

from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics.moments import rows
from vdm_jax.metrics.state import State

SPLITS = 10


class Score(NamedTuple):
    """Mean and deviation of the splits' scores, as papers print it. clips: of all splits."""

    mean: float
    deviation: float
    clips: int


@dataclass(frozen=True, eq=False)
class InceptionScore(State):
    """Sums over the clips of each split: clip i is in split i % splits, whoever saw it.

    p: of the probabilities. p_log_p: of p log p over classes, in nats.
    """

    count: Int64[np.ndarray, " splits"] = field(default_factory=lambda: np.zeros(SPLITS, np.int64))
    p: Float64[np.ndarray, "splits k"] = field(default_factory=lambda: np.zeros((SPLITS, 0)))
    p_log_p: Float64[np.ndarray, " splits"] = field(default_factory=lambda: np.zeros(SPLITS))

    @classmethod
    def of(cls, splits: int) -> "InceptionScore":
        """Without clips yet."""
        if splits < 1:
            raise Refusal(f"an Inception score has at least 1 split, got {splits}")
        return cls(np.zeros(splits, np.int64), np.zeros((splits, 0)), np.zeros(splits))

    def update(self, logits: Float[Any, "n k"], numbers: Integer[Any, " n"]) -> "InceptionScore":
        """With these clips. logits: of the classes, before softmax. numbers: each clip's own."""
        log_p = log_softmax(rows(logits), axis=1)
        splits = len(self.count)
        split = np.asarray(numbers) % splits
        if split.shape != (len(log_p),):
            raise Refusal(f"{len(log_p)} rows of logits have {split.size} numbers of clips")
        p = np.exp(log_p)
        sums, p_log_p = np.zeros((splits, p.shape[1])), np.zeros(splits)
        np.add.at(sums, split, p)
        np.add.at(p_log_p, split, (p * log_p).sum(1))
        return self.merge(InceptionScore(np.bincount(split, minlength=splits), sums, p_log_p))

    def merge(self, other: "InceptionScore") -> "InceptionScore":
        if len(self.count) != len(other.count):
            raise Refusal(f"{len(self.count)} splits and {len(other.count)} do not mix")
        if not (self.p.size and other.p.size):
            return other if other.p.size else self
        if self.p.shape != other.p.shape:
            raise Refusal(
                f"logits of {self.p.shape[1]} classes and of {other.p.shape[1]} do not mix"
            )
        return InceptionScore(
            self.count + other.count, self.p + other.p, self.p_log_p + other.p_log_p
        )

    @property
    def score(self) -> Score:
        """Raises Refusal where a split has no clip: there are fewer clips than splits."""
        clips, splits = int(self.count.sum()), len(self.count)
        if not self.count.all():
            raise Refusal(f"{clips} clips leave some of {splits} splits empty; take fewer splits")
        mean = self.p / self.count[:, None]
        log_mean = np.log(mean, where=mean > 0, out=np.zeros_like(mean))
        scores = np.exp(self.p_log_p / self.count - (mean * log_mean).sum(1))
        return Score(float(scores.mean()), float(scores.std()), clips)
