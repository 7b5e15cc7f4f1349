"""Training densities have the moments of their laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion.density import Density, LogitNormal, LogNormal, Uniform
from vdm_jax.diffusion.schedule import Cosine, Flow

SHAPE = (400, 100)


def draw(density: Density, key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    level = density.sample(key, SHAPE)
    assert level.alpha.shape == level.sigma.shape == SHAPE
    return np.asarray(level.alpha), np.asarray(level.sigma)


def test_uniform(key):
    _, sigma = draw(Uniform(Flow()), key)  # sigma = t
    assert sigma.mean() == pytest.approx(1 / 2, abs=0.01)
    assert sigma.var() == pytest.approx(1 / 12, rel=0.02)
    alpha, sigma = draw(Uniform(Cosine(s=0.0)), key)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-5)
    assert np.arctan2(sigma, alpha).mean() == pytest.approx(np.pi / 4, abs=0.01)


def test_log_normal(key):
    alpha, sigma = draw(LogNormal(p_mean=0.7, p_std=1.6), key)
    assert (alpha == 1).all()
    assert np.log(sigma).mean() == pytest.approx(0.7, abs=0.03)
    assert np.log(sigma).std() == pytest.approx(1.6, rel=0.02)


def test_logit_normal(key):
    alpha, sigma = draw(LogitNormal(Flow(), mean=0.5, std=0.8), key)
    assert np.log(sigma / alpha).mean() == pytest.approx(0.5, abs=0.02)
    assert np.log(sigma / alpha).std() == pytest.approx(0.8, rel=0.02)


def test_levels_are_independent_and_follow_the_key(key):
    _, sigma = draw(Uniform(Flow()), key)
    assert abs(np.corrcoef(sigma[:, 0], sigma[:, 1])[0, 1]) < 0.15
    np.testing.assert_array_equal(draw(Uniform(Flow()), key)[1], sigma)
    assert not jnp.array_equal(draw(Uniform(Flow()), jax.random.key(1))[1], sigma)
