"""Schedules: their ends, their ladders, and numbers from the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.schedule import (
    Cosine,
    Flow,
    Karras,
    Linear,
    LogSNRFloor,
    LogSNRShift,
    ScaledLinear,
    Schedule,
    ZeroTerminalSNR,
)

VP = [
    Cosine(),
    Linear(),
    ScaledLinear(),
    ZeroTerminalSNR(ScaledLinear()),
    LogSNRShift(Cosine(), 2.0),
    LogSNRFloor(Cosine()),
]
EVERY = [*VP, Karras(), Flow(), Flow(shift=3.0)]


@pytest.mark.parametrize("schedule", EVERY, ids=str)
def test_ladder_falls_to_a_clean_frame(schedule):
    assert isinstance(schedule, Schedule)
    for n in (1, 7):
        alpha, sigma = (np.asarray(part) for part in schedule.ladder(n))
        assert alpha.shape == sigma.shape == (n + 1,) and alpha.dtype == np.float32
        assert (alpha[-1], sigma[-1]) == (1, 0)
        assert (np.diff(sigma) < 0).all() and (np.diff(alpha) >= 0).all()
    with pytest.raises(Refusal, match="num_steps 0"):
        schedule.ladder(0)


@pytest.mark.parametrize("schedule", EVERY, ids=str)
def test_level_is_the_curve_in_float32_and_float64(schedule):
    t = np.linspace(0, 1, 41)
    exact = schedule.curve(t)
    single = jax.jit(schedule.level)(jnp.asarray(t))
    for got, want in zip(single, exact, strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-7)
    with jax.enable_x64(True):  # noqa: FBT003
        for got, want in zip(schedule.level(jnp.asarray(t)), exact, strict=True):
            assert got.dtype == jnp.float64
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("schedule", VP, ids=str)
def test_variance_is_preserved(schedule):
    alpha, sigma = schedule.curve(np.linspace(0, 1, 101))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-12)


def test_cosine_is_nichol_and_dhariwal_equation_17():
    t = np.linspace(0, 1, 11)
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(Cosine().curve(t).alpha ** 2, f / f[0], atol=1e-15)


def test_betas_multiply_up_to_the_grid():
    """The alphas of DDPM and of Stable Diffusion, multiplied out step by step."""
    for schedule, known_last in ((Linear(), 4.0358e-5), (ScaledLinear(), 4.6600e-3)):
        product = np.cumprod(1 - schedule.betas())
        alpha, sigma = schedule.curve(np.arange(1, 1001) / 1000)
        np.testing.assert_allclose(alpha**2, product, rtol=1e-10)
        np.testing.assert_allclose(sigma**2, 1 - product, rtol=1e-10)
        assert alpha[-1] ** 2 == pytest.approx(known_last, rel=1e-3)
    assert ScaledLinear().betas()[[0, -1]] == pytest.approx([0.00085, 0.012])


def test_karras_ladder_of_stable_video_diffusion():
    """25 steps from 700: 700, 545.73, 421.57 ... 0.002, 0."""
    alpha, sigma = Karras(sigma_max=700.0).ladder(25)
    np.testing.assert_allclose(sigma[:3], [700, 545.73, 421.57], rtol=1e-5)
    np.testing.assert_allclose(sigma[-2:], [0.002, 0], rtol=1e-5)
    assert (alpha == 1).all()


def test_flow_shift():
    alpha, sigma = Flow(shift=3.0).curve(np.array([0.0, 0.25, 0.5, 1.0]))
    np.testing.assert_allclose(sigma, [0, 0.5, 0.75, 1])
    np.testing.assert_allclose(alpha, 1 - sigma)


def test_zero_terminal_snr_is_lin_algorithm_1():
    base = ScaledLinear()
    old = np.sqrt(np.cumprod(1 - base.betas()))
    new = ZeroTerminalSNR(base).curve(np.arange(1, 1001) / 1000).alpha
    assert new[-1] == 0 and new[0] == pytest.approx(old[0])
    np.testing.assert_allclose(new, (old - old[-1]) * old[0] / (old[0] - old[-1]), atol=1e-12)


def test_logsnr_shift_and_floor():
    t = np.linspace(0.1, 0.9, 9)

    def logsnr(schedule):
        alpha, sigma = schedule.curve(t)
        return 2 * np.log(alpha / sigma)

    shifted = logsnr(LogSNRShift(Cosine(), 2.0))
    np.testing.assert_allclose(shifted, logsnr(Cosine()) - 2 * np.log(2))
    np.testing.assert_allclose(
        logsnr(LogSNRFloor(Cosine(), minimum=-1.0)), np.maximum(logsnr(Cosine()), -1)
    )


def test_refusals():
    with pytest.raises(Refusal, match="sigma_min 2"):
        Karras(sigma_min=2.0, sigma_max=1.0)
    for base in (Karras(), Flow()):
        with pytest.raises(Refusal, match="variance preserving"):
            LogSNRShift(base, 2.0)
