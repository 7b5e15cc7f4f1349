"""Moments are those of all rows, however they came in."""

import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics.moments import Moments, Parts, rows


def features(count=101, width=7, seed=0):
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((width, width))
    return (rng.standard_normal((count, width)) @ mix + 300).astype(np.float32)


def close(a, b):
    assert a.count == b.count
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-12)
    np.testing.assert_allclose(a.covariance, b.covariance, rtol=1e-10, atol=1e-12)


def test_they_are_numpys():
    x = features()
    found = Moments().update(x)
    np.testing.assert_allclose(found.mean, x.astype(np.float64).mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.covariance, np.cov(x.astype(np.float64).T), rtol=1e-10)
    assert (found.count, found.width) == (101, 7)


@pytest.mark.parametrize("cuts", [[], [1], [50], [3, 3, 4, 5, 90], list(range(1, 101))])
def test_batches_do_not_show(cuts):
    x = features()
    whole, bit, tree = Moments().update(x), Moments(), Moments()
    for part in np.split(x, cuts):  # some of one row, some of none
        bit = bit.update(part)
        tree = Moments().update(part).merge(tree)
    close(bit, whole)
    close(tree, whole)


def test_a_far_mean_costs_no_digits():
    """The textbook sum of squares minus the squared sum would have none left."""
    x = features().astype(np.float64) - 300
    found = Moments()
    for part in np.array_split(x + 1e7, 13):
        found = found.update(part)
    np.testing.assert_allclose(found.covariance, np.cov(x.T), rtol=1e-7)


def test_they_go_to_arrays_and_back(tmp_path):
    x = features()
    found = Moments().update(x)
    np.savez(tmp_path / "kept.npz", **found.arrays())
    with np.load(tmp_path / "kept.npz") as kept:
        back = Moments.from_arrays(kept)
    assert back.count == 101 and isinstance(back.count, int)
    np.testing.assert_array_equal(back.scatter, found.scatter)
    close(back.update(x[:9]), found.update(x[:9]))
    close(Moments.from_arrays(Moments().arrays()).update(x), found)


def test_parts_hold_each_clip_once_by_its_number():
    x, numbers = features(), np.random.default_rng(1).permutation(101)
    whole = Parts().update(x, numbers)
    first = Parts().update(x[:40], numbers[:40])
    second = Parts().update(x[90:], numbers[90:]).update(x[40:90], numbers[40:90])
    for joined in (first.merge(second), second.merge(Parts.from_arrays(first.arrays()))):
        close(joined.whole, Moments().update(x))
        for part, wanted in zip(joined.parts, whole.parts, strict=True):
            close(part, wanted)
    close(whole.parts[3], Moments().update(x[numbers % 20 == 3]))


def test_parts_without_clips_go_to_arrays_and_back():
    x = features(3)
    found = Parts.from_arrays(Parts().update(x, np.array([0, 5, 25])).arrays())
    assert [part.count for part in found.parts[:7]] == [1, 0, 0, 0, 0, 2, 0]
    close(found.update(x, np.arange(3)).whole, Moments().update(np.concatenate([x, x])))
    assert Parts.from_arrays(Parts().arrays()).whole.count == 0


def test_what_is_no_feature_is_refused():
    x = features()
    x[42, 3] = np.nan
    with pytest.raises(Refusal, match=r"row 42 are not finite \(1 of 101"):
        Moments().update(x)
    with pytest.raises(Refusal, match="width 7 and of 6"):
        Moments().update(features()).update(features(width=6))
    with pytest.raises(Refusal, match="at least 2 clips, got 1"):
        _ = Moments().update(features(1)).covariance
    with pytest.raises(Refusal, match=r"\(n, d\), got an array of \(3,\)"):
        rows.__wrapped__(np.zeros(3))  # without the checks of shapes that run under pytest
    with pytest.raises(Refusal, match="101 rows of features have 3 numbers"):
        Parts.update.__wrapped__(Parts(), features(), np.arange(3))
    with pytest.raises(Refusal, match="20 parts and to 10"):
        Parts().merge(Parts((Moments(),) * 10))


def test_what_are_no_moments_is_refused():
    kept = Moments().update(features()).arrays()
    with pytest.raises(Refusal, match="kept as count, mean, scatter; got count, mean"):
        Moments.from_arrays({name: kept[name] for name in ("count", "mean")})
    with pytest.raises(Refusal, match="no moments: 101 rows"):
        Moments.from_arrays({**kept, "mean": np.zeros(6)})
    with pytest.raises(Refusal, match="not finite; gather them anew"):
        Moments.from_arrays({**kept, "mean": np.full(7, np.inf)})
    with pytest.raises(Refusal, match="arrays of one length"):
        Parts.from_arrays({**Parts().arrays(), "count": np.zeros(3, np.int64)})
