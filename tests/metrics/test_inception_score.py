"""The Inception score equals its definition, clip by clip."""

import numpy as np
import pytest
from scipy.special import softmax

from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics.inception_score import InceptionScore


def logits(count=203, classes=11, seed=0):
    return (3 * np.random.default_rng(seed).standard_normal((count, classes))).astype(np.float32)


def defined(x):
    p = softmax(x.astype(np.float64), axis=1)
    return np.exp(np.mean([(one * np.log(one / p.mean(0))).sum() for one in p]))


def test_equals_its_definition_in_each_split():
    x, numbers = logits(), np.arange(203)
    found = InceptionScore().update(x, numbers).score
    scores = [defined(x[numbers % 10 == split]) for split in range(10)]
    assert found.mean == pytest.approx(np.mean(scores), rel=1e-12)
    assert found.deviation == pytest.approx(np.std(scores), rel=1e-9) and found.clips == 203
    whole = InceptionScore.of(1).update(x, numbers).score
    assert whole.mean == pytest.approx(defined(x), rel=1e-12) and whole.deviation == 0


def test_batches_and_processes_do_not_show():
    x, numbers = logits(), np.random.default_rng(1).permutation(203)
    whole = InceptionScore().update(x, numbers).score
    first, second = InceptionScore(), InceptionScore()
    for rows, some in zip(np.split(x, [1, 50, 50]), np.split(numbers, [1, 50, 50]), strict=True):
        first, second = second, first.update(rows, some)
    for joined in (first.merge(second), second.merge(InceptionScore.from_arrays(first.arrays()))):
        np.testing.assert_allclose(joined.score, whole, rtol=1e-10)


def test_is_the_number_of_classes_where_each_is_sure_and_1_where_none_is():
    sure = (
        InceptionScore.of(2)
        .update(1e4 * np.eye(5), np.zeros(5, int))
        .update(1e4 * np.eye(5), np.ones(5, int))
    )
    assert sure.score.mean == pytest.approx(5)
    same = InceptionScore.of(2).update(np.ones((6, 5)), np.arange(6))
    assert same.score.mean == pytest.approx(1)


def test_what_cannot_be_scored_is_refused():
    x = logits()
    with pytest.raises(Refusal, match="9 clips leave some of 10 splits empty"):
        _ = InceptionScore().update(x[:9], np.arange(9)).score
    with pytest.raises(Refusal, match="0 clips"):
        _ = InceptionScore().score
    with pytest.raises(Refusal, match="11 classes and of 10"):
        InceptionScore().update(x, np.arange(203)).update(x[:, 1:], np.arange(203))
    with pytest.raises(Refusal, match="10 splits and 2"):
        InceptionScore().merge(InceptionScore.of(2))
    with pytest.raises(Refusal, match="at least 1 split"):
        InceptionScore.of(0)
    x[3, 3] = np.nan
    with pytest.raises(Refusal, match="row 3 are not finite"):
        InceptionScore().update(x, np.arange(203))
