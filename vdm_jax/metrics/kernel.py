"""The kernel distance of two sets of features: KVD of videos (KID of pictures).

Unbiased at any number of clips, where the Fréchet distance is not: the squared maximum mean
discrepancy of Gretton et al. 2012 (A Kernel Two-Sample Test), equation 3, with the polynomial
kernel (x . y / d + 1)^3 of Binkowski et al. 2018 (arXiv:1801.01401), section 3. It may fall below
0. Papers print it as it is or a thousandfold.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Integer

from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics.interval import Estimate, left_out
from vdm_jax.metrics.moments import GROUPS, rows

BLOCK = 1024
"""Rows whose kernel with so many others is in memory at once: 8 MiB."""


class Subsets(NamedTuple):
    """Of estimates from subsets: their mean, their deviation, and the mean's standard error.

    `error` tells what other subsets of the same clips had given; it is as small as subsets are
    many. What other clips had given tells `mmd_estimate`.
    """

    mean: float
    deviation: float
    error: float


def mmd(a: Float[Any, "n d"], b: Float[Any, "m d"]) -> float:
    """Squared, in no unit. Memory does not grow with n m.

    Raises Refusal for features of two widths, that are not finite, or fewer than two of one.
    """
    a, b = _checked(a, b)
    return _unbiased(_sum(a, a) - _diagonal(a), _sum(b, b) - _diagonal(b), _sum(a, b), a, b)


def mmd_estimate(
    a: Float[Any, "n d"],
    b: Float[Any, "m d"],
    parts: tuple[Integer[Any, " n"], Integer[Any, " m"]] | None = None,
) -> Estimate:
    """`mmd` of all clips with its jackknife interval.

    parts: which part each row is in, of those that are left out in turn, of both sides at once;
    None deals rows to `GROUPS` by their number. What `interval.jackknife` gives for it, at the
    price of a single one. Raises Refusal as `mmd` does, and where one part leaves too few.
    """
    a, b = _checked(a, b)
    groups = min(GROUPS, len(a), len(b))
    of_a, of_b = (np.arange(len(x)) % groups for x in (a, b)) if parts is None else parts
    names = np.unique(np.concatenate([of_a, of_b]))
    dealt = [[x[of == name] for name in names] for x, of in ((a, of_a), (b, of_b))]
    if any(len(x) - max(map(len, each)) < 2 for x, each in zip((a, b), dealt, strict=True)):
        raise Refusal(f"an interval needs at least 3 clips of both, got {len(a)} and {len(b)}")
    aa, bb, ab = (_table(dealt[i], dealt[j]) for i, j in ((0, 0), (1, 1), (0, 1)))
    for table, each in zip((aa, bb), dealt, strict=True):
        table[np.diag_indices(len(names))] -= [_diagonal(part) for part in each]
    value = _unbiased(aa.sum(), bb.sum(), ab.sum(), a, b)
    left = []
    for group, name in enumerate(names):
        left_aa, left_bb, left_ab = (_smaller(table, group) for table in (aa, bb, ab))
        left.append(_unbiased(left_aa, left_bb, left_ab, a[of_a != name], b[of_b != name]))
    return left_out(value, left, len(a))


def mmd_of_subsets(
    a: Float[Any, "n d"],
    b: Float[Any, "m d"],
    *,
    rng: np.random.Generator,
    subsets: int = 100,
    size: int = 1000,
) -> Subsets:
    """Over random subsets of `size` rows of each, as Binkowski et al. report it.

    The subsets depend on the order of rows. Raises Refusal, too, where there are fewer than `size`.
    """
    a, b = _checked(a, b)
    if subsets < 2 or not 2 <= size <= min(len(a), len(b)):
        raise Refusal(
            f"{subsets} subsets of {size} clips cannot be drawn from {len(a)} and {len(b)}; "
            "take 2 subsets or more, of no more clips than there are"
        )
    values = [
        mmd(*(x[rng.choice(len(x), size, replace=False)] for x in (a, b))) for _ in range(subsets)
    ]
    deviation = float(np.std(values, ddof=1))
    return Subsets(float(np.mean(values)), deviation, deviation / subsets**0.5)


def _checked(
    a: Float[Any, "n d"], b: Float[Any, "m d"]
) -> tuple[Float64[np.ndarray, "n d"], Float64[np.ndarray, "m d"]]:
    a, b = rows(a), rows(b)
    _same_width(a, b)
    if min(len(a), len(b)) < 2:
        raise Refusal(f"a kernel distance needs at least 2 clips of both, got {len(a)}, {len(b)}")
    return a, b


def _same_width(a: Float64[np.ndarray, "n d"], b: Float64[np.ndarray, "m e"]) -> None:
    if a.shape[1] != b.shape[1]:
        raise Refusal(f"features of width {a.shape[1]} and of {b.shape[1]} cannot be compared")


def _unbiased(
    aa: float, bb: float, ab: float, a: Float64[np.ndarray, "n d"], b: Float64[np.ndarray, "m d"]
) -> float:
    """Gretton et al. 2012, equation 3, from the sums over pairs; a row is no pair with itself."""
    n, m = len(a), len(b)
    return float(aa / (n * (n - 1)) + bb / (m * (m - 1)) - 2 * ab / (n * m))


def _table(
    a: Sequence[Float64[np.ndarray, "_ d"]], b: Sequence[Float64[np.ndarray, "_ d"]]
) -> Float64[np.ndarray, "parts parts"]:
    """The kernel summed over the pairs of each part of `a` with each of `b`."""
    return np.array([[_sum(x, y) for y in b] for x in a])


def _smaller(table: Float64[np.ndarray, "groups groups"], group: int) -> float:
    """Its sum without the pairs of one group."""
    return float(np.delete(np.delete(table, group, 0), group, 1).sum())


def _sum(a: Float64[np.ndarray, "n d"], b: Float64[np.ndarray, "m d"]) -> float:
    """Of the kernel over all pairs."""
    each = (float(_kernel(x @ y.T, a).sum()) for x in _blocks(a) for y in _blocks(b))
    return sum(each, 0.0)


def _diagonal(a: Float64[np.ndarray, "n d"]) -> float:
    """Of the kernel of each row with itself, summed."""
    return float(_kernel((a * a).sum(1), a).sum())


def _kernel(products: Float64[np.ndarray, "..."], a: np.ndarray) -> Float64[np.ndarray, "..."]:
    root = products / a.shape[1] + 1
    return root * root * root


def _blocks(x: Float64[np.ndarray, "n d"]) -> Iterator[Float64[np.ndarray, "_ d"]]:
    return (x[i : i + BLOCK] for i in range(0, len(x), BLOCK))
