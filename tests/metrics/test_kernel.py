"""The kernel distance equals its definition, and is unbiased."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics import kernel
from vdm_jax.metrics.interval import jackknife
from vdm_jax.metrics.kernel import mmd, mmd_estimate, mmd_of_subsets


def drawn(seed, count=53, width=6, shift=0.0):
    x = np.random.default_rng(seed).standard_normal((count, width)) + shift
    return x.astype(np.float32)


def defined(a, b):
    """Gretton et al. 2012, equation 3, pair by pair."""

    def k(x, y):
        return (np.dot(x.astype(np.float64), y.astype(np.float64)) / len(x) + 1) ** 3

    def within(x):
        pairs = [k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]
        return sum(pairs) / len(pairs)

    return within(a) + within(b) - 2 * np.mean([k(x, y) for x in a for y in b])


@pytest.mark.parametrize("block", [1, 7, 1024])
def test_equals_its_definition_in_any_blocks(block, monkeypatch):
    monkeypatch.setattr(kernel, "BLOCK", block)
    a, b = drawn(0), drawn(1, 31, shift=0.3)
    assert mmd(a, b) == pytest.approx(defined(a, b), rel=1e-10)
    assert mmd(b, a) == pytest.approx(mmd(a, b), rel=1e-12)


def test_is_unbiased():
    values = [mmd(drawn(2 * i, 12), drawn(2 * i + 1, 9)) for i in range(700)]
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values)) < 3 * error
    with_themselves = 2 / 12  # about what k(x, x) adds to the biased one
    assert error < with_themselves / 8


@dataclass(frozen=True)
class Rows:
    """Features as a jackknife takes them."""

    rows: np.ndarray

    @property
    def count(self):
        return len(self.rows)

    def merge(self, other):
        return Rows(np.concatenate([self.rows, other.rows]))


@pytest.mark.parametrize("by", ["numbers", "videos"])
def test_the_interval_is_the_jackknifes_over_the_clips(by):
    a, b = drawn(0, 47), drawn(1, 61, shift=0.2)
    rng, dealt = np.random.default_rng(5), (np.arange(47) % 20, np.arange(61) % 20)
    if by == "videos":
        dealt = rng.integers(0, 9, 47), rng.integers(0, 11, 61)
    parts = [[Rows(x[of == g]) for g in range(20)] for x, of in zip((a, b), dealt, strict=True)]
    whole = mmd_estimate(a, b, None if by == "numbers" else dealt)
    slow = jackknife(*parts, lambda x, y: mmd(x.rows, y.rows))
    np.testing.assert_allclose(
        [whole.value, whole.low, whole.high, whole.error],
        [slow.value, slow.low, slow.high, slow.error],
        rtol=1e-9,
    )
    assert whole.n == slow.n == 47 and whole.low < whole.value < whole.high


def test_its_standard_error_is_the_spread_over_replications():
    pairs = [(drawn(2 * i, 60), drawn(2 * i + 1, 60, shift=0.5)) for i in range(80)]
    six = (np.arange(60) % 6,) * 2
    found = [mmd_estimate(a, b, six) for a, b in pairs]
    spread = np.std([one.value for one in found], ddof=1)
    assert np.mean([one.error**2 for one in found]) ** 0.5 == pytest.approx(spread, rel=0.25)


def test_subsets_agree_with_the_whole_and_say_how_far_they_lie_apart():
    a, b = drawn(0, 400), drawn(1, 300, shift=0.3)
    draw = partial(mmd_of_subsets, a, b, subsets=60, size=50)
    found = draw(rng=np.random.default_rng(0))
    assert found == draw(rng=np.random.default_rng(0)) != draw(rng=np.random.default_rng(1))
    assert abs(found.mean - mmd(a, b)) < 4 * found.error
    assert found.error == pytest.approx(found.deviation / 60**0.5)
    all_of_them = mmd_of_subsets(a, a, subsets=2, size=400, rng=np.random.default_rng(0))
    assert all_of_them.deviation < 1e-12


def test_what_cannot_be_compared_is_refused():
    a, bad = drawn(0), drawn(1)
    bad[7] = np.inf
    with pytest.raises(Refusal, match="row 7 are not finite"):
        mmd(a, bad)
    with pytest.raises(Refusal, match="at least 2 clips of both, got 53, 1"):
        mmd(a, a[:1])
    with pytest.raises(Refusal, match="100 subsets of 1000 clips cannot be drawn from 53 and 53"):
        mmd_of_subsets(a, a, rng=np.random.default_rng(0))
    with pytest.raises(Refusal, match="at least 3 clips of both, got 53 and 2"):
        mmd_estimate(a, a[:2])
