"""Loss weights by hand, and the loss of denoisers whose error is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion.denoiser import denoiser
from vdm_jax.diffusion.level import Level
from vdm_jax.diffusion.loss import (
    MinSNRWeight,
    OutputWeight,
    SNRWeight,
    UniformWeight,
    Weight,
    denoising_loss,
)
from vdm_jax.diffusion.precond import EDM, X0, Eps, FlowVelocity, V

EXPLODING = Level(jnp.ones(3), jnp.array([0.0, 0.5, 2.0]))
PRESERVING = Level(jnp.array([1.0, 0.8, 0.0]), jnp.array([0.0, 0.6, 1.0]))


@pytest.mark.parametrize(
    ("weight", "level", "want"),
    [
        (OutputWeight(EDM(sigma_data=0.5)), EXPLODING, [0, 0.5 / 0.0625, 4.25 / 1]),
        (OutputWeight(V()), EXPLODING, [0, 1.25 / 0.25, 5 / 4]),
        (OutputWeight(V()), PRESERVING, [0, 1 / 0.36, 1]),
        (OutputWeight(Eps()), Level(*(part[:2] for part in PRESERVING)), [0, 16 / 9]),
        (OutputWeight(X0()), PRESERVING, [1, 1, 1]),
        (OutputWeight(FlowVelocity()), Level(jnp.array([0.75]), jnp.array([0.25])), [16]),
        (SNRWeight(), PRESERVING, [0, 16 / 9, 0]),
        (MinSNRWeight(gamma=1.5), PRESERVING, [0, 1.5, 0]),
        (MinSNRWeight(), PRESERVING, [0, 16 / 9, 0]),
        (UniformWeight(), PRESERVING, [1, 1, 1]),
    ],
    ids=str,
)
def test_weights_by_hand(weight, level, want):
    assert isinstance(weight, Weight)
    np.testing.assert_allclose(weight(level), want, rtol=1e-5)


def videos(key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (2, 3, 16, 16, 2))


def test_an_error_of_each_frame_is_priced_at_its_level(key):
    x0 = videos(key)
    offset = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    level = Level(jnp.array([1.0, 0.8, 0.6]), jnp.array([0.0, 0.6, 0.8]))

    def wrong(z, level, cond):
        return x0 + offset[..., None, None, None]

    got = denoising_loss(wrong, x0, level, None, key, weight=SNRWeight())
    priced = np.array([0, 16 / 9, 9 / 16]) * np.asarray(offset) ** 2
    assert float(got.value) == pytest.approx(priced.mean(), rel=1e-5)
    np.testing.assert_allclose(got.per_sample, priced.mean(axis=1), rtol=1e-5)

    counts = np.array([[0, 1, 0], [0, 1, 1]], np.float32)
    got = denoising_loss(
        wrong, x0, level, None, key, weight=SNRWeight(), counts=jnp.asarray(counts)
    )
    assert float(got.value) == pytest.approx((priced * counts).sum() / 3, rel=1e-5)
    np.testing.assert_allclose(
        got.per_sample, (priced * counts).sum(axis=1) / np.array([1, 2]), rtol=1e-5
    )
    none = denoising_loss(wrong, x0, level, None, key, weight=SNRWeight(), counts=jnp.zeros((2, 3)))
    assert float(none.value) == 0 and not none.per_sample.any()


def test_the_denoiser_is_shown_the_noised_video(key):
    x0 = videos(key)
    level = Level(jnp.array([1.0, 0.8, 0.0]), jnp.array([0.0, 0.6, 1.0]))
    seen = []

    def look(z, level, cond):
        seen.append((z, level, cond))
        return x0

    assert float(denoising_loss(look, x0, level, "c", key, weight=UniformWeight()).value) == 0
    z, shown, cond = seen[0]
    assert cond == "c" and shown.sigma.shape == (2, 3)
    np.testing.assert_array_equal(z[:, 0], x0[:, 0])
    eps = (z[:, 1] - 0.8 * x0[:, 1]) / 0.6
    assert float(eps.std()) == pytest.approx(1, abs=0.05)
    assert float(z[:, 2].std()) == pytest.approx(1, abs=0.05)
    assert abs(float((eps * z[:, 2]).mean())) < 0.1  # frames have their own noise


def test_output_weight_is_the_loss_in_the_networks_own_output(key):
    """A network of zeros is wrong by its target, v = alpha eps - sigma x0, of unit variance."""
    x0 = jax.random.normal(key, (4, 2, 32, 32, 1))
    level = Level(jnp.array([0.8, 0.6]), jnp.array([0.6, 0.8]))
    denoise = denoiser(lambda z, c_noise, cond: jnp.zeros_like(z), V())
    got = denoising_loss(denoise, x0, level, None, jax.random.key(5), weight=OutputWeight(V()))
    assert float(got.value) == pytest.approx(1, abs=0.05)


def test_gradients_are_finite_with_clean_frames(key):
    level = Level(jnp.array([1.0, 0.8, 0.0]), jnp.array([0.0, 0.6, 1.0]))
    for precond in (X0(), V(), FlowVelocity(), EDM()):

        def value(scale, precond=precond):
            denoise = denoiser(lambda z, c_noise, cond: scale * z, precond)
            weight = OutputWeight(precond)
            return denoising_loss(denoise, videos(key), level, None, key, weight=weight).value

        gradient = jax.grad(value)(jnp.array(0.3))
        assert jnp.isfinite(gradient) and float(gradient) != 0
