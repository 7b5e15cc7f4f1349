"""The Fréchet distance equals its closed forms, and what others compute."""

import numpy as np
import pytest
import scipy.linalg

from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics.frechet import frechet, rank
from vdm_jax.metrics.moments import Moments


def of(mean, covariance, count=1000):
    covariance = np.array(covariance, np.float64)
    return Moments(count, np.array(mean, np.float64), covariance * count)


def seen(count, width, seed=0, shift=0.0, scale=100.0):
    """Moments of features in the hundreds, with a few strong directions as networks have them."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(9).standard_normal((width, width))
    mix *= np.exp(-np.arange(width) / 40) * scale
    x = rng.standard_normal((count, width)) @ mix.T + 300 + shift
    return x.astype(np.float32)


def test_one_number():
    wanted = (3 - 1) ** 2 + (5 - 2) ** 2
    assert frechet(of([1], [[4]]), of([3], [[25]])) == pytest.approx(wanted, rel=1e-12)


def test_independent_numbers():
    rng = np.random.default_rng(0)
    a, b, mean_a, mean_b = rng.uniform(0.1, 9, (4, 30))
    wanted = ((mean_a - mean_b) ** 2 + (a - b) ** 2).sum()
    found = frechet(of(mean_a, np.diag(a**2)), of(mean_b, np.diag(b**2)))
    assert found == pytest.approx(wanted, rel=1e-8)


def test_covariances_of_the_same_axes():
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.standard_normal((30, 30)))[0]
    a, b = rng.uniform(0.1, 9, (2, 30))
    one, two = (axes @ np.diag(x**2) @ axes.T for x in (a, b))
    found = frechet(of(np.zeros(30), one), of(np.ones(30), two))
    assert found == pytest.approx(30 + ((a - b) ** 2).sum(), rel=1e-8)


@pytest.mark.parametrize(("count", "width"), [(40, 100), (400, 100)])
def test_equals_what_published_code_computes(count, width):
    a, b = (Moments().update(seen(count, width, i, shift=20.0 * i)) for i in range(2))
    x, y = (np.cov(seen(count, width, i), rowvar=False, bias=True) for i in range(2))
    root = scipy.linalg.sqrtm(x @ y)
    wanted = ((a.mean - b.mean) ** 2).sum()
    wanted += np.trace(x + y - 2 * np.real(root))
    assert frechet(a, b) == pytest.approx(wanted, rel=1e-3)
    assert frechet(a, b) == pytest.approx(frechet(b, a), rel=1e-12)


def test_is_zero_for_the_same_clips_however_few_and_however_they_came_in():
    x = seen(40, 200)
    assert np.abs(x).max() > 500
    whole, bit = Moments().update(x), Moments()
    for part in np.array_split(x, 7)[::-1]:
        bit = bit.update(part)
    assert frechet(whole, whole) <= 1e-6 and frechet(whole, bit) <= 1e-6


def test_is_zero_where_nothing_varies():
    still = Moments().update(np.full((5, 3), 7, np.float32))
    assert frechet(still, still) == 0 == rank(still)
    assert frechet(still, Moments().update(np.full((5, 3), 9, np.float32))) == pytest.approx(12)


def test_rank_tells_that_clips_are_too_few():
    assert rank(Moments().update(seen(40, 200))) == 39
    assert rank(Moments().update(seen(600, 50))) == 50
    twice = seen(10, 50)
    assert rank(Moments().update(np.concatenate([twice, twice]))) == 9


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(Refusal, match="width 50 and of 40"):
        frechet(Moments().update(seen(9, 50)), Moments().update(seen(9, 40)))
    with pytest.raises(Refusal, match="at least 2 clips, got 1"):
        frechet(Moments().update(seen(9, 50)), Moments().update(seen(1, 50)))
