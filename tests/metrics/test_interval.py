"""Intervals hold what they should, as often as they say."""

import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics.frechet import frechet
from vdm_jax.metrics.interval import jackknife, of_mean
from vdm_jax.metrics.moments import Moments, Parts


def parts(x, groups=20):
    return Parts((Moments(),) * groups).update(x, np.arange(len(x))).parts


def apart(a, b):
    """Of means, of which everything is known."""
    return float(a.mean[0] - b.mean[0])


def test_a_mean_is_students():
    values = np.random.default_rng(0).standard_normal((12, 2)) * [1, 5] + [3, 0]
    first, second = of_mean(Moments().update(values[:5]).update(values[5:]))
    assert (first.n, second.n) == (12, 12)
    assert second.value == pytest.approx(values[:, 1].mean())
    assert second.error == pytest.approx(values[:, 1].std(ddof=1) / 12**0.5)
    assert second.high - second.value == pytest.approx(2.200985 * second.error, rel=1e-6)
    assert second.value - second.low == pytest.approx(2.200985 * second.error, rel=1e-6)
    with pytest.raises(Refusal, match="at least 2 clips, got 1"):
        of_mean(Moments().update(values[:1]))


def test_95_of_100_intervals_of_a_mean_hold_it():
    rng = np.random.default_rng(1)
    found = [of_mean(Moments().update(rng.normal(2, 3, (10, 1))))[0] for _ in range(2000)]
    held = np.mean([one.low <= 2 <= one.high for one in found])
    assert held == pytest.approx(0.95, abs=0.015)


def test_the_jackknife_of_a_mean_by_single_clips_is_the_textbooks():
    """Independent clips in as many parts: the variances of both means add."""
    rng = np.random.default_rng(2)
    a, b = rng.normal(0, 2, (9, 1)), rng.normal(1, 1, (9, 1))
    found = jackknife(parts(a, 9), parts(b, 9), apart)
    assert found.value == pytest.approx(a.mean() - b.mean()) and found.n == 9
    assert found.error == pytest.approx((a - b).std(ddof=1) / 3)  # as of pairs, which they are
    fixed = jackknife(parts(a, 9), parts(b, 1), apart)
    assert fixed.error == pytest.approx(a.std(ddof=1) / 3)
    assert jackknife(parts(a, 1), parts(b, 9), apart).error == pytest.approx(b.std(ddof=1) / 3)


def test_parts_without_clips_do_not_count():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 2, (2, 9, 1))
    wanted, found = (jackknife(parts(a, g), parts(b, g), apart) for g in (9, 20))
    assert found.error == pytest.approx(wanted.error, rel=1e-12) and found.low == wanted.low


@pytest.mark.parametrize(("count", "width"), [(60, 3), (20, 24)])
def test_the_error_of_a_frechet_distance_is_its_spread_over_replications(count, width):
    """Of many clips, and of fewer than features."""
    found = []
    for seed in range(60):
        rng = np.random.default_rng([seed, width])
        a = rng.standard_normal((count, width)) * np.linspace(2, 0.5, width)
        b = rng.standard_normal((count, width)) + 2 / width**0.5
        found.append(jackknife(parts(a, 6), parts(b, 6), frechet))
    spread = np.std([one.value for one in found], ddof=1)
    assert np.mean([one.error**2 for one in found]) ** 0.5 == pytest.approx(spread, rel=0.25)
    expected = np.mean([one.value for one in found])
    held = np.mean([one.low <= expected <= one.high for one in found])
    assert held == pytest.approx(0.95, abs=0.08)


def test_pairs_of_clips_are_taken_as_pairs():
    """Of clips and themselves moved, means differ by the same whatever clips there are."""
    a = np.random.default_rng(4).normal(0, 2, (60, 1))
    assert jackknife(parts(a), parts(a + 3), apart).error < 1e-12


def test_too_few_parts_or_clips_are_refused():
    a = np.random.default_rng(5).standard_normal((9, 3))
    with pytest.raises(Refusal, match="of both as many, got 20 and 10"):
        jackknife(parts(a), parts(a, 10), frechet)
    with pytest.raises(Refusal, match="2 parts or more, of both as many, got 1 and 1"):
        jackknife(parts(a, 1), parts(a, 1), frechet)
    with pytest.raises(Refusal, match="at least 3 clips, got 2"):
        jackknife(parts(a[:2]), parts(a), frechet)
