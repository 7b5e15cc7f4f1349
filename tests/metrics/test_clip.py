"""Likeness of frames and words, of vectors that are known."""

import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics.clip import frame_consistency, text_similarity


def at(degrees):
    turned = np.radians(degrees)
    return np.stack([np.cos(turned), np.sin(turned)], -1).astype(np.float32)


def test_text_similarity_is_the_mean_cosine_of_frames_and_caption():
    frames = at([[0, 60, 90], [10, 10, 10]])
    wanted = [100 * (1 + 0.5 + 0) / 3, 100 * np.cos(np.radians(20))]
    np.testing.assert_allclose(text_similarity(frames, at([0, 30])), wanted, rtol=1e-6)
    np.testing.assert_allclose(text_similarity(frames[0], at(0)), wanted[0], rtol=1e-6)


def test_consistency_is_the_mean_cosine_of_neighbours():
    found = frame_consistency(at([[0, 60, 0, 60], [5, 5, 5, 5], [0, 60, 150, 150]]))
    np.testing.assert_allclose(found, [0.5, 1, 0.5], rtol=1e-6)


def test_what_is_no_unit_vector_is_refused():
    with pytest.raises(Refusal, match=r"unit vectors, got \(3, 2\) with lengths up to 1 from"):
        text_similarity(2 * at([0, 60, 90]), at(0))
    with pytest.raises(Refusal, match="nan"):
        frame_consistency(np.full((3, 2), np.nan))
    with pytest.raises(Refusal, match="with the next one; got 1"):
        frame_consistency(at([0]))
