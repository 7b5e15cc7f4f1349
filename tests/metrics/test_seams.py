"""Jumps of a video, and how far it drifts."""

import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics.seams import drift, jumps, seams


def steps(heights):
    """Grey frames of these values."""
    return np.array(heights, np.uint8)[:, None, None, None] * np.ones((4, 4, 3), np.uint8)


def test_a_jump_is_what_the_grey_values_do():
    np.testing.assert_allclose(jumps(steps([0, 3, 3, 10])), [3, 0, 7])
    np.testing.assert_allclose(jumps(steps([0, 3, 3, 10]) / 255.0), [3, 0, 7])


def test_seams_are_told_from_the_rest():
    told = seams(steps([10, 12, 14, 24, 26, 28]), [3])
    assert (told.inside, told.across) == (pytest.approx(2), pytest.approx(10))
    assert told.ratio == pytest.approx(5)
    assert np.isnan(seams(steps([1, 2, 3]), []).across)
    for wrong in (0, 3):
        with pytest.raises(Refusal, match="begins at frame"):
            seams(steps([1, 2, 3]), [wrong])


def test_drift_sees_colours_change_and_not_where_things_are():
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 200, (4, 8, 8, 3)).astype(np.uint8)
    assert drift(np.concatenate([clip, np.roll(clip, 3, axis=2)]), 4) == pytest.approx(0)
    assert drift(np.concatenate([clip, clip + 20]), 4) == pytest.approx(10)  # means, not deviations
