"""Initial weights have the law they claim, from the key alone."""

import jax
import numpy as np
import pytest
from flax import nnx

from vdm_jax.nn.init import lecun_normal, normal, streamed, truncated

SHAPE = (3, 3, 64, 128)


@pytest.mark.parametrize(
    "init, std, farthest",
    [
        (lecun_normal, (9 * 64) ** -0.5, 2.28),
        (truncated(0.25), 0.5, 2.28),
        (normal(0.02), 0.02, 6.0),
    ],
)
def test_mean_deviation_and_reach(init, std, farthest, key):
    weights = np.asarray(init(key, SHAPE))
    assert weights.shape == SHAPE and weights.dtype == np.float32
    assert abs(weights.mean()) < 0.02 * std and abs(weights.std() / std - 1) < 0.01
    assert np.abs(weights).max() / std < farthest


def test_equal_keys_draw_equally_traced_or_not_and_other_keys_otherwise(key):
    weights = lecun_normal(key, (4, 8))
    np.testing.assert_array_equal(weights, jax.jit(lambda key: lecun_normal(key, (4, 8)))(key))
    assert (weights != lecun_normal(jax.random.key(1), (4, 8))).all()


def test_streamed_keys_are_new_each_time_traced_or_not():
    def drawn():
        keys = streamed(nnx.Rngs(3))
        return [jax.random.key_data(keys.params()) for _ in range(3)]

    first, traced = np.stack(drawn()), np.stack(jax.jit(drawn)())
    assert len(np.unique(first, axis=0)) == 3
    np.testing.assert_array_equal(first, traced)
