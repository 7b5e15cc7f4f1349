"""Every sampler lands where the mathematics says, at its order; known frames pass untouched."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.denoiser import denoiser
from vdm_jax.diffusion.level import Level
from vdm_jax.diffusion.precond import EDM, FlowVelocity, V
from vdm_jax.diffusion.sampler import (
    DDIM,
    Ancestral,
    AngularDDIM,
    Churn,
    DPMPlusPlus2M,
    Euler,
    Heun,
    Rung,
    invert,
    rungs,
)
from vdm_jax.diffusion.schedule import (
    Cosine,
    Flow,
    Karras,
    Linear,
    LogSNRShift,
    ScaledLinear,
    ZeroTerminalSNR,
)


@dataclass(frozen=True)
class Gaussian:
    """Videos of independent pixels N(mean, deviation^2): every sampler's path is known."""

    mean: float
    deviation: float

    def denoise(self, z: jax.Array, level: Level, cond: object) -> jax.Array:
        """E[x0 | z]."""
        alpha, _ = level.broadcast(z)
        gain = alpha * self.deviation**2 / self.variance(level.broadcast(z))
        return self.mean + gain * (z - alpha * self.mean)

    def variance(self, level: Level) -> jax.Array:
        """Variance of z at a level."""
        return (level.alpha * self.deviation) ** 2 + level.sigma**2

    def start(self, z: jax.Array, level: Level) -> jax.Array:
        """Unit noise `z` brought to the law of z at a level."""
        return level.alpha * self.mean + jnp.sqrt(self.variance(level)) * z

    def carried(self, z: jax.Array, now: Level, then: Level) -> jax.Array:
        """Where the probability flow takes z: the same quantile of the law at `then`."""
        quantile = (z - now.alpha * self.mean) / jnp.sqrt(self.variance(now))
        return self.start(quantile, then)


DATA = Gaussian(mean=0.7, deviation=0.5)
CENTRED = Gaussian(mean=0.0, deviation=0.5)

ORDERS = {Euler(): 1, DDIM(): 1, AngularDDIM(): 1, Heun(): 2, DPMPlusPlus2M(): 2}
STOCHASTIC = [
    DDIM(eta=0.5),
    DDIM(eta=1.0),
    Ancestral(gamma=0.3),
    DPMPlusPlus2M(eta=1.0),
    Euler(churn=Churn(amount=20.0, noise_scale=1.0)),
    Heun(churn=Churn(amount=20.0, noise_scale=1.0)),
]
EVERY = [*ORDERS, *STOCHASTIC]
SCHEDULES = [
    Cosine(),
    Karras(),
    Flow(shift=3.0),
    LogSNRShift(Cosine(), 2.0),
    ZeroTerminalSNR(ScaledLinear()),
]


def noise(shape: tuple[int, ...] = (1, 2, 2, 2, 1), seed: int = 1) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@partial(jax.jit, static_argnums=(0, 1))
def run(walk, denoise, z, levels, key=None):
    return walk(denoise, z, levels, None, jax.random.key(0) if key is None else key)


def ends(levels: Level) -> tuple[Level, Level]:
    return tuple(Level(levels.alpha[i], levels.sigma[i]) for i in (0, -1))


def error(walk: object, schedule: object, num_steps: int, data: Gaussian) -> float:
    """Distance from the exact end of the path, which a Karras ladder leaves at sigma_min."""
    levels = schedule.ladder(num_steps + isinstance(schedule, Karras))
    if isinstance(schedule, Karras):
        levels = Level(levels.alpha[:-1], levels.sigma[:-1])
    first, last = ends(levels)
    z = data.start(noise(), first)
    return float(jnp.abs(run(walk, data.denoise, z, levels) - data.carried(z, first, last)).max())


@pytest.mark.parametrize("walk", ORDERS, ids=str)
def test_lands_on_the_gaussian_at_its_order(walk):
    """With s = 0, sigma falls evenly to 0, so that the last step costs no order.

    On Cosine and Flow the log-SNR is infinite at both ends, at the cost of a factor log(steps).
    """
    with jax.enable_x64(True):  # noqa: FBT003
        for schedule in (Cosine(s=0.0), Karras(), Flow()):
            coarse, fine = (error(walk, schedule, n, DATA) for n in (512, 1024))
            assert np.log2(coarse / fine) == pytest.approx(ORDERS[walk], abs=0.3), schedule
            assert fine < (0.004 if ORDERS[walk] == 1 else 5e-5), schedule


@pytest.mark.parametrize("walk", ORDERS, ids=str)
def test_reproduces_centred_data(walk):
    levels = Karras().ladder(80)
    first, last = ends(levels)
    z = CENTRED.start(noise(), first)
    true = CENTRED.carried(z, first, last)
    got = run(walk, CENTRED.denoise, z, levels)
    np.testing.assert_allclose(got / true, 1, atol=0.04 if ORDERS[walk] == 1 else 0.01)


@pytest.mark.parametrize("walk", STOCHASTIC, ids=str)
def test_stochastic_samples_have_the_moments_of_the_data(walk):
    second = isinstance(walk, DPMPlusPlus2M | Heun)
    for schedule in (Cosine(), Karras()):
        levels = schedule.ladder(400)
        z = DATA.start(noise((4, 2, 64, 64, 1)), ends(levels)[0])
        x0 = run(walk, DATA.denoise, z, levels)
        assert float(x0.mean()) == pytest.approx(DATA.mean, abs=0.01), schedule
        assert float(x0.std()) == pytest.approx(0.5, rel=0.012 if second else 0.04), schedule
    again = run(walk, DATA.denoise, z, levels, jax.random.key(4))
    assert float(jnp.abs(again - x0).max()) > 0.05


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_ancestral_steps_have_the_variance_of_equation_5(gamma):
    """One step from alpha, sigma to alpha', sigma', against the formula in its own symbols."""
    t, s = 0.6, 0.4
    levels = Cosine().level(jnp.array([t, s]))
    (a_t, a_s), (g_t, g_s) = (np.asarray(part, np.float64) for part in levels)
    forward = g_t**2 - (a_t / a_s) ** 2 * g_s**2
    posterior = g_s**2 / g_t**2 * forward
    z = jnp.zeros((4, 2, 64, 64, 1))
    step = Ancestral(gamma=gamma)(
        lambda z, level, cond: jnp.zeros_like(z), z, levels, None, jax.random.key(0)
    )
    assert float(step.var()) == pytest.approx(posterior ** (1 - gamma) * forward**gamma, rel=0.03)


def test_ancestral_is_ddim_of_eta_1():
    with jax.enable_x64(True):  # noqa: FBT003
        for schedule in (Cosine(), Karras()):
            levels = schedule.ladder(6)
            z = levels.sigma[0] * noise()
            one, other = (run(w, DATA.denoise, z, levels) for w in (Ancestral(), DDIM(eta=1.0)))
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10)


def test_angular_ddim_is_ddim():
    with jax.enable_x64(True):  # noqa: FBT003
        for schedule in (*SCHEDULES, Linear()):
            levels = schedule.ladder(20)
            z = levels.sigma[0] * noise()
            assert z.dtype == jnp.float64
            one, other = (run(walk, DATA.denoise, z, levels) for walk in (AngularDDIM(), DDIM()))
            assert float(jnp.abs(one - other).max()) <= 1e-12, schedule


def test_euler_is_the_flow_sampler():
    """z' = z + (t' - t) u, with u from the network, on a shifted flow schedule."""

    def network(z, c_noise, cond):
        return jnp.sin(3 * z)

    with jax.enable_x64(True):  # noqa: FBT003
        levels = Flow(shift=3.0).ladder(5)
        z = want = noise()
        for t, t_next in zip(levels.sigma[:-1], levels.sigma[1:], strict=True):
            want = want + (t_next - t) * network(want, None, None)
        got = Euler()(denoiser(network, FlowVelocity()), z, levels, None, jax.random.key(0))
    np.testing.assert_allclose(got, want, atol=1e-12)


def test_heun_follows_edm_algorithm_1():
    with jax.enable_x64(True):  # noqa: FBT003
        levels = Karras().ladder(6)
        denoise = denoiser(lambda z, c_noise, cond: jnp.sin(z), EDM())
        z = want = 80 * noise()
        for s, r in zip(levels.sigma[:-1], levels.sigma[1:], strict=True):
            one = jnp.ones_like(s)
            slope = (want - denoise(want, Level(one, s), None)) / s
            ahead = want + (r - s) * slope
            if r > 0:
                slope = (slope + (ahead - denoise(ahead, Level(one, r), None)) / r) / 2
            want = want + (r - s) * slope
        got = Heun()(denoise, z, levels, None, jax.random.key(0))
    np.testing.assert_allclose(got, want, atol=1e-10)


def test_churn_raises_sigma_inside_its_range():
    z = jnp.zeros((2, 1, 64, 64, 1))
    levels = Level(jnp.ones((5, 2, 1)), jnp.tile(jnp.array([[10.0], [60.0]]), (5, 1, 1)))
    rung = jax.tree.map(lambda leaf: leaf[0], rungs(levels, z, jax.random.key(0)))
    raised, level = Churn(amount=1.2, noise_scale=2.0)(z, rung)  # gamma = 1.2 / 4
    np.testing.assert_allclose(level.sigma.ravel(), [13, 60], rtol=1e-6)
    assert float(raised[0].std()) == pytest.approx(2 * np.sqrt(13**2 - 10**2), rel=0.03)
    assert not raised[1].any()
    _, level = Churn(amount=80.0)(z, rung)
    np.testing.assert_allclose(level.sigma.ravel(), [10 * np.sqrt(2), 60], rtol=1e-6)


@pytest.mark.parametrize("walk", EVERY, ids=str)
def test_an_oracle_is_followed_and_known_frames_pass_unchanged(walk):
    """The oracle knows the answer; frame 0 stands clean and the denoiser lies about it."""
    b, t = 2, 3
    target = noise((b, t, 2, 2, 1), seed=7)
    known = jnp.broadcast_to(jnp.arange(t) == 0, (b, t))

    def oracle(z, level, cond):
        assert level.sigma.shape == (b, t)
        return jnp.where(known[..., None, None, None], 99.0, target)

    for schedule in SCHEDULES:
        levels = schedule.ladder(5)
        z = levels.sigma[0] * noise((b, t, 2, 2, 1))
        z = jnp.where(known[..., None, None, None], target, z)
        got = run(walk, oracle, z, levels.clean_where(known))
        np.testing.assert_array_equal(got[:, 0], target[:, 0])
        np.testing.assert_allclose(got[:, 1:], target[:, 1:], atol=1e-4)


SINE = denoiser(lambda z, c_noise, cond: jnp.sin(z), V())


@pytest.mark.parametrize("walk", [Heun(), Ancestral(gamma=0.3), DPMPlusPlus2M(eta=1.0)], ids=str)
def test_frames_walk_alone(walk):
    """Beside a known frame, another frame does what it does when all frames are noisy."""
    levels, z = Cosine().ladder(4), noise((1, 3, 2, 2, 1))
    alone = levels.clean_where(jnp.zeros((1, 3), bool))
    beside = levels.clean_where(jnp.array([[True, False, False]]))
    (all_noisy, one_known) = (run(walk, SINE, z, levels) for levels in (alone, beside))
    np.testing.assert_allclose(one_known[:, 1:], all_noisy[:, 1:], atol=1e-6)
    np.testing.assert_array_equal(one_known[:, 0], z[:, 0])


@pytest.mark.parametrize("walk", ORDERS, ids=str)
def test_frames_may_walk_at_their_own_pace(walk):
    """Frame 1 starts two steps late and frame 0 is done two steps early, on the same rungs."""
    levels, z = Cosine().ladder(4), noise()
    pace = jnp.stack([jnp.arange(7), jnp.arange(7) - 2], axis=1).clip(0, 4)
    own = run(walk, DATA.denoise, z, Level(*(part[pace] for part in levels)))
    np.testing.assert_allclose(own, run(walk, DATA.denoise, z, levels), atol=1e-6)


@pytest.mark.parametrize("schedule", [Cosine(), Karras(sigma_max=10.0)], ids=str)
def test_inversion_returns_at_first_order(schedule):
    def gap(num_steps: int) -> tuple[float, float]:
        levels = schedule.ladder(num_steps)
        x0 = DATA.mean + DATA.deviation * noise()
        z = jax.jit(lambda x0: invert(DATA.denoise, x0, levels, None))(x0)
        back = jax.jit(lambda z: DDIM()(DATA.denoise, z, levels, None, jax.random.key(0)))(z)
        top = Level(levels.alpha[0], levels.sigma[0])
        true = DATA.carried(x0, Level(jnp.ones(()), jnp.zeros(())), top)
        return float(jnp.abs(back - x0).max()), float(jnp.abs(z - true).max() / top.sigma)

    with jax.enable_x64(True):  # noqa: FBT003
        coarse, fine = gap(128), gap(256)
    assert fine[0] < 0.02 and fine[1] < 0.02
    assert np.log2(coarse[0] / fine[0]) > 0.8
    assert np.log2(coarse[1] / fine[1]) == pytest.approx(1, abs=0.25)


def test_inversion_leaves_known_frames():
    x0 = noise((2, 3, 2, 2, 1))
    known = jnp.arange(6).reshape(2, 3) == 4
    levels = Cosine().ladder(5).clean_where(known)
    z = jax.jit(lambda x0: invert(SINE, x0, levels, None))(x0)
    np.testing.assert_array_equal(z[1, 1], x0[1, 1])
    assert jnp.isfinite(z).all() and float(jnp.abs(z - x0)[0].min()) > 0


def test_a_loop_of_ones_own_equals_the_scan():
    walk, z, levels, key = DPMPlusPlus2M(), noise(), Cosine().ladder(4), jax.random.key(0)
    step = jax.jit(lambda state, rung: walk.step(DATA.denoise, state, rung, None))
    state, ladder = walk.start(z), rungs(levels, z, key)
    for i in range(4):
        state = step(state, Rung(*jax.tree.map(lambda leaf, i=i: leaf[i], ladder)))
    np.testing.assert_allclose(state.z, run(walk, DATA.denoise, z, levels, key), atol=1e-6)


def test_the_denoiser_is_traced_once_however_many_steps():
    count = []

    def denoise(z, level, cond):
        count.append(1)
        return z / 2

    for walk, evaluations in ((Euler(), 1), (Heun(), 2), (DPMPlusPlus2M(), 1)):
        count.clear()
        jax.make_jaxpr(
            lambda z, walk=walk: walk(denoise, z, Cosine().ladder(50), None, jax.random.key(0))
        )(noise())
        assert len(count) == evaluations == walk.evaluations


@pytest.mark.parametrize("shape", [(), (1,), (5, 3), (5, 2, 2), (5, 1, 1, 1)])
def test_a_ladder_of_another_shape_is_refused(shape):
    levels = Level(jnp.ones(shape), jnp.ones(shape))
    with pytest.raises(Refusal, match="levels of shape"):
        Euler()(DATA.denoise, noise(), levels, None, jax.random.key(0))


def test_a_gamma_out_of_range_is_refused():
    with pytest.raises(Refusal, match="gamma 1"):
        Ancestral(gamma=1.0)
