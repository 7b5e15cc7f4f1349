"""Parameterisations: each stands for the same video, and each converts to every other."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.denoiser import denoiser
from vdm_jax.diffusion.density import LogNormal, Uniform
from vdm_jax.diffusion.level import Level
from vdm_jax.diffusion.loss import OutputWeight
from vdm_jax.diffusion.precond import (
    EDM,
    X0,
    Eps,
    FlowVelocity,
    Precond,
    V,
    convert,
    from_x0,
    to_x0,
)
from vdm_jax.diffusion.process import Process, check
from vdm_jax.diffusion.schedule import (
    Cosine,
    Flow,
    Karras,
    Linear,
    LogSNRFloor,
    ScaledLinear,
    ZeroTerminalSNR,
)

EVERY = [X0(), Eps(), V(), FlowVelocity(), EDM(), EDM(sigma_data=1.0)]
SHAPE = (2, 3, 2, 2, 1)


def videos() -> tuple[jax.Array, jax.Array]:
    x0, eps = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    return x0, eps


@jax.jit
def gap(x0: jax.Array, eps: jax.Array, level: Level) -> jax.Array:
    """How far the worst conversion, or way back, is from the truth."""
    z, at = level.noised(x0, eps), level.broadcast(x0)
    truth = {p: p.mixture(at).x0 * x0 + p.mixture(at).eps * eps for p in EVERY}
    gaps = []
    for a, b in product(EVERY, EVERY):
        there = convert(truth[a], z, level, a, b)
        back = convert(there, z, level, b, a)
        gaps += [there - truth[b], back - truth[a]]
    for p in EVERY:
        gaps += [to_x0(p, truth[p], z, level) - x0, from_x0(p, x0, z, level) - truth[p]]
    return jnp.abs(jnp.stack(gaps)).max()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=3, max_size=3),
    st.sampled_from(["preserving", "exploding", "flow"]),
)
def test_every_parameterisation_converts_to_every_other(log10_ratio, kind):
    """At sigma / alpha from 0.1 to 10 in float32, a different one in every frame."""
    ratio = 10 ** jnp.array(log10_ratio)
    norm = {"preserving": jnp.hypot(1.0, ratio), "exploding": 1.0, "flow": 1 + ratio}[kind]
    assert float(gap(*videos(), Level(1 / norm * jnp.ones(3), ratio / norm))) <= 1e-5


def test_every_parameterisation_converts_in_float64_at_any_level():
    with jax.enable_x64(True):  # noqa: FBT003
        for log10_ratio in (-3.0, 0.0, 3.0):
            angle = jnp.arctan(10.0 ** jnp.array([log10_ratio] * 3))
            assert float(gap(*videos(), Level(jnp.cos(angle), jnp.sin(angle)))) <= 1e-5


def test_forms_of_the_literature():
    s = 3.0
    exploding = Level(jnp.array(1.0), jnp.array(s))
    root = np.sqrt(s**2 + 1)
    svd = V().scalings(exploding)
    np.testing.assert_allclose(svd, [1 / root**2, -s / root, 1 / root, np.log(s) / 4], rtol=1e-6)
    edm, total = EDM(sigma_data=0.5).scalings(exploding), np.sqrt(s**2 + 0.25)
    want = [0.25 / total**2, s * 0.5 / total, 1 / total, np.log(s) / 4]
    np.testing.assert_allclose(edm, want, rtol=1e-6)

    preserving = Level(jnp.array(0.6), jnp.array(0.8))
    np.testing.assert_allclose(V().scalings(preserving)[:3], [0.6, -0.8, 1], rtol=1e-6)
    np.testing.assert_allclose(Eps().scalings(preserving)[:3], [1 / 0.6, -4 / 3, 1], rtol=1e-6)
    np.testing.assert_allclose(X0().scalings(preserving)[:3], [0, 1, 1], rtol=1e-6)
    flow = Level(jnp.array(0.3), jnp.array(0.7))
    np.testing.assert_allclose(FlowVelocity().scalings(flow)[:3], [1, -0.7, 1], rtol=1e-6)


def test_edm_input_and_target_have_unit_variance():
    x0 = 0.5 * jax.random.normal(jax.random.key(0), (1, 2, 64, 64, 1))
    eps = jax.random.normal(jax.random.key(1), x0.shape)
    for level in (Level(jnp.ones(()), jnp.array(2.0)), Level(jnp.array(0.8), jnp.array(0.6))):
        z = level.noised(x0, eps)
        scalings = EDM().scalings(level)
        assert float((scalings.c_in * z).std()) == pytest.approx(1, rel=0.02)
        assert float(from_x0(EDM(), x0, z, level).std()) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("precond", EVERY, ids=str)
def test_finite_at_the_ends(precond):
    """A clean frame everywhere; pure noise for all but eps. c_noise within -3 and 3."""
    assert isinstance(precond, Precond)
    ends = Level(jnp.array([1.0, 0.0, 1.0, 1.0]), jnp.array([0.0, 1.0, 1e-30, 1e30]))
    scalings, mixture = precond.scalings(ends), precond.mixture(ends)
    assert float(jnp.abs(scalings.c_noise).max()) == 3 and float(scalings.c_noise[0]) == -3
    for part in (*scalings, *mixture):
        if precond == Eps():
            part = part[jnp.array([0, 2])]
        assert jnp.isfinite(part[:2]).all()
    if precond != X0():  # z of a clean frame is the answer
        assert (float(scalings.c_skip[0]), float(scalings.c_out[0])) == (1, 0)


def test_a_clean_frame_has_no_noise_to_tell():
    x0, _ = videos()
    clean = Level(jnp.ones(3), jnp.zeros(3))
    assert not from_x0(Eps(), x0, x0, clean).any()
    np.testing.assert_array_equal(from_x0(X0(), x0, x0, clean), x0)


def test_denoiser_shows_each_frame_its_level_and_keeps_the_precision_of_z():
    seen = []

    def network(z, c_noise, cond):
        seen.append((z, c_noise, cond))
        return jnp.sin(z).astype(jnp.bfloat16)

    z, _ = videos()
    level = Level(jnp.ones(3), jnp.array([0.0, 1.0, np.e**4]))
    x0 = denoiser(network, V())(z, level, "cond")
    (scaled, c_noise, cond), s = seen[0], V().scalings(level)
    np.testing.assert_allclose(c_noise, [[-3, 0, 1]] * 2, atol=1e-6)
    assert cond == "cond" and x0.dtype == z.dtype and scaled.dtype == z.dtype
    np.testing.assert_allclose(scaled[:, 2], z[:, 2] / np.hypot(1, np.e**4), rtol=1e-5)
    np.testing.assert_array_equal(x0[:, 0], z[:, 0])
    want = s.c_skip[1] * z[:, 1] + s.c_out[1] * jnp.sin(scaled[:, 1])
    np.testing.assert_allclose(x0[:, 1], want, atol=0.01)


@pytest.mark.parametrize(
    "schedule", [ZeroTerminalSNR(ScaledLinear()), ZeroTerminalSNR(Linear()), Cosine(), Flow()]
)
def test_eps_is_refused_where_no_signal_is_left(schedule):
    def process(precond: Precond) -> Process:
        return Process(
            schedule=schedule,
            precond=precond,
            density=LogNormal(),
            weight=OutputWeight(precond),
        )

    for precond in (V(), X0(), FlowVelocity(), EDM()):
        process(precond)
    with pytest.raises(Refusal, match=r"Eps divides by alpha, which is 0 .*predict V"):
        process(Eps())


def test_eps_is_refused_along_the_density_too():
    with pytest.raises(Refusal, match="Cosine"):
        Process(
            schedule=Linear(), precond=Eps(), density=Uniform(Cosine()), weight=OutputWeight(Eps())
        )
    Process(schedule=Karras(), precond=Eps(), density=LogNormal(), weight=OutputWeight(Eps()))


def test_eps_is_allowed_where_signal_is_left():
    for schedule in (Linear(), ScaledLinear(), Karras(), LogSNRFloor(Cosine())):
        check(Eps(), schedule)
