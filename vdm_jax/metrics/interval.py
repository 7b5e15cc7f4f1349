"""How far a result can be trusted: 95 % intervals, for means and for any statistic of features.

An interval tells what other clips from the same source would have given: the sampling of clips. It
does not tell the bias of few clips. The Fréchet distance of n clips lies above that of the two
distributions by about c / n (Chong and Forsyth 2020, arXiv:1911.07023), much where n is below the
width of the features, and the interval lies about the expected value of n clips, not of infinitely
many. So two models are compared with as many clips each, and no value with a paper's of another n.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from scipy.special import stdtrit

from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics.moments import Moments

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """low … high: the 95 % interval. n: clips. error: the standard error it is made from."""

    value: float
    low: float
    high: float
    n: int
    error: float


S = TypeVar("S", bound="Sample")


@runtime_checkable
class Sample(Protocol):
    """What a statistic is computed from, gathered of `count` clips."""

    @property
    def count(self) -> int: ...

    def merge(self: S, other: S) -> S: ...


def of_mean(moments: Moments) -> tuple[Estimate, ...]:
    """Of each column's mean over clips, by Student's t; clips are taken as independent.

    A metric of single clips is gathered as `Moments().update(values[:, None])`.
    """
    errors = np.sqrt(np.diagonal(moments.covariance) / moments.count)
    freedom = moments.count - 1
    return tuple(
        estimate(value, error, moments.count, freedom)
        for value, error in zip(moments.mean.tolist(), errors.tolist(), strict=True)
    )


def jackknife(a: Sequence[S], b: Sequence[S], statistic: Callable[[S, S], float]) -> Estimate:
    """Of a statistic of two samples: it is computed again without each part in turn.

    Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 11, by groups. Part g of
    `a` and of `b` is left out at once, which is right both where the clips are independent and
    where clip i of one was made from clip i of the other. A sample of a single part is held fixed:
    a reference that is given, not drawn.

    Each part has about as many clips; those without any on both sides do not count. `n` is the
    clips of `a`. Raises Refusal where too few are left to leave a part out.
    """
    lengths = {len(parts) for parts in (a, b) if len(parts) > 1}
    if len(lengths) != 1:
        raise Refusal(
            f"a jackknife needs 2 parts or more, of both as many, got {len(a)} and {len(b)}"
        )
    drawn = [parts for parts in (a, b) if len(parts) > 1]
    groups = [g for g in range(*lengths) if any(parts[g].count for parts in drawn)]
    for parts in drawn:
        counts = [part.count for part in parts]
        if sum(counts) - max(counts) < 2:
            raise Refusal(f"an interval needs at least 3 clips, got {sum(counts)}")
    value = statistic(reduce(_both, a), reduce(_both, b))
    left = [statistic(_without(a, g), _without(b, g)) for g in groups]
    return left_out(value, left, sum(part.count for part in a))


def left_out(value: float, left: Sequence[float], n: int) -> Estimate:
    """Of a statistic whose values without each of len(left) parts in turn are known."""
    spread = (len(left) - 1) * np.var(left)
    return estimate(value, float(np.sqrt(spread)), n, len(left) - 1)


def estimate(value: float, error: float, n: int, freedom: int) -> Estimate:
    """The interval by Student's t of so many degrees of freedom."""
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    return Estimate(value, value - half, value + half, n, error)


def _both(a: S, b: S) -> S:
    return a.merge(b)


def _without(parts: Sequence[S], group: int) -> S:
    rest = [part for g, part in enumerate(parts) if g != group or len(parts) == 1]
    return reduce(_both, rest)
