"""Levels per frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion.level import Level

KNOWN = jnp.array([[True, False, False], [False, False, True]])


def test_levels_of_every_rank_reach_the_frames():
    z = jnp.zeros((2, 3, 1, 1, 1))
    for shape in ((), (3,), (2, 3)):
        level = Level(jnp.full(shape, 0.6), jnp.full(shape, 0.8))
        assert level.frames(z).sigma.shape == (2, 3)
        assert level.broadcast(z).alpha.shape == (2, 3, 1, 1, 1)


def test_noised_frame_by_frame():
    x0, eps = jax.random.normal(jax.random.key(0), (2, 1, 2, 2, 2, 1))
    level = Level(jnp.array([1.0, 0.6]), jnp.array([0.0, 0.8]))
    z = level.noised(x0, eps)
    np.testing.assert_array_equal(z[:, 0], x0[:, 0])
    np.testing.assert_allclose(z[:, 1], 0.6 * x0[:, 1] + 0.8 * eps[:, 1], rtol=1e-6)


# A ladder of three rungs for three frames: the axes must not be mistaken for one another.
@pytest.mark.parametrize("shape", [(), (2, 3), (3,), (3, 2, 3)])
def test_known_frames_are_clean_and_others_as_before(shape):
    sigma = jnp.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    level = Level(0 * sigma, sigma).clean_where(KNOWN)
    full = (3, 2, 3) if len(shape) % 2 else (2, 3)
    assert level.sigma.shape == level.alpha.shape == full
    want = np.broadcast_to(np.reshape(sigma, (3, 1, 1)) if shape == (3,) else sigma, full)
    np.testing.assert_array_equal(level.sigma, np.where(KNOWN, 0, want))
    np.testing.assert_array_equal(level.alpha, np.broadcast_to(KNOWN, full))


def test_logsnr():
    level = Level(jnp.array([1.0, 0.6, 0.0]), jnp.array([0.0, 0.8, 1.0]))
    np.testing.assert_allclose(level.logsnr, [np.inf, 2 * np.log(0.75), -np.inf], rtol=1e-6)
