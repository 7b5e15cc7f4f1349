"""Guidance: identities of classifier-free guidance, closed forms of reconstruction guidance."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.guidance import (
    Downsample,
    Frames,
    Interleave,
    Observation,
    Operator,
    cfg,
    frame_ramp,
    imputation,
    reconstruction,
    two_stream,
)
from vdm_jax.diffusion.level import Level
from vdm_jax.diffusion.sampler import DDIM
from vdm_jax.diffusion.schedule import Cosine

SHAPE = (2, 4, 4, 4, 1)
LEVEL = Level(jnp.array([[0.8, 0.6, 0.8, 0.6]] * 2), jnp.array([[0.6, 0.8, 0.6, 0.8]] * 2))


def video(seed: int, shape: tuple[int, ...] = SHAPE) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def told(z: jax.Array, level: Level, cond: dict[str, jax.Array]) -> jax.Array:
    """A denoiser that is bent by its image and its text, and by the level of each frame."""
    push = cond["image"] + 2 * cond["text"] ** 2
    return jnp.sin(z) * level.broadcast(z).alpha + push[:, None, None, None, None]


COND = {"image": jnp.array([1.0, 2.0]), "text": jnp.array([0.5, -3.0])}
NULL = {"image": jnp.zeros(2), "text": jnp.zeros(2)}


def no_text(cond):
    return {**cond, "text": jnp.zeros_like(cond["text"])}


def close(got: jax.Array, want: jax.Array) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("level", [LEVEL, Level(LEVEL.alpha[0], LEVEL.sigma[0])], ids=str)
def test_cfg_extrapolates_from_the_null(level):
    z = video(0)
    free, full = told(z, level, NULL), told(z, level, COND)
    close(cfg(told, NULL, 3.0)(z, level, COND), free + 3 * (full - free))
    close(cfg(told, no_text, 0.0)(z, level, COND), told(z, level, no_text(COND)))
    close(cfg(told, NULL, jnp.array(1.0))(z, level, COND), full)


def test_cfg_of_scale_1_is_the_denoiser_itself():
    assert cfg(told, NULL, 1.0) is told


def test_cfg_is_one_call_on_twice_the_batch():
    calls = []

    def count(z, level, cond):
        calls.append((z.shape[0], level.sigma.shape, cond["text"].shape))
        return told(z, level, cond)

    cfg(count, NULL, 2.0)(video(0), LEVEL, COND)
    two_stream(count, NULL, no_text, 2.0, 3.0)(video(0), LEVEL, COND)
    assert calls == [(4, (4, 4), (4,)), (6, (6, 4), (6,))]


def test_a_ramp_guides_each_frame_by_its_own_scale():
    ramp = frame_ramp(1.0, 2.5, 4)
    np.testing.assert_allclose(ramp, [1, 1.5, 2, 2.5])
    z = video(0)
    got = cfg(told, NULL, ramp)(z, LEVEL, COND)
    for frame, scale in enumerate(ramp):
        close(got[:, frame], cfg(told, NULL, scale)(z, LEVEL, COND)[:, frame])
    close(got[:, 0], told(z, LEVEL, COND)[:, 0])


def test_a_ramp_that_is_a_function_has_the_length_of_what_is_seen():
    z, grows = video(0), partial(frame_ramp, 1.0, 2.5)
    whole = cfg(told, lambda _: NULL, grows)(z, LEVEL, COND)
    np.testing.assert_array_equal(whole, cfg(told, NULL, frame_ramp(1.0, 2.5, 4))(z, LEVEL, COND))
    level = Level(*(part[:, :3] for part in LEVEL.frames(z)))
    fewer = cfg(told, lambda _: NULL, grows)(z[:, :3], level, COND)
    wanted = cfg(told, NULL, frame_ramp(1.0, 2.5, 3))(z[:, :3], level, COND)
    np.testing.assert_array_equal(fewer, wanted)
    assert jnp.abs(fewer - whole[:, :3]).max() > 1e-3


def test_a_scale_or_a_ramp_of_each_video_guides_it_alone():
    z = video(0)
    low, high = jnp.linspace(0.0, 2.0, len(z)), jnp.linspace(3.0, 1.0, len(z))
    scaled = cfg(told, NULL, low[:, None])(z, LEVEL, COND)
    ramped = cfg(told, NULL, partial(frame_ramp, low, high))(z, LEVEL, COND)
    for row in range(len(z)):
        alone = cfg(told, NULL, low[row])(z, LEVEL, COND)[row]
        np.testing.assert_array_equal(scaled[row], alone)
        ramp = frame_ramp(float(low[row]), float(high[row]), z.shape[1])
        close(ramped[row], cfg(told, NULL, ramp)(z, LEVEL, COND)[row])
    assert jnp.abs(scaled - ramped).max() > 1e-3


def test_rescale_brings_back_the_deviation():
    z, axes = video(0), (1, 2, 3, 4)

    def strong(z, level, cond):  # unlike `told`, the cond changes the deviation
        return z * (1 + cond["image"])[:, None, None, None, None]

    plain = cfg(strong, NULL, 5.0)(z, LEVEL, COND)
    for share in (0.0, 0.7, 1.0):
        got = cfg(strong, NULL, 5.0, rescale=share)(z, LEVEL, COND)
        mixed = share * strong(z, LEVEL, COND).std(axes) + (1 - share) * plain.std(axes)
        close(got.std(axes), mixed)
        close(got / got.std(axes, keepdims=True), plain / plain.std(axes, keepdims=True))


def test_two_stream():
    z = video(0)
    u, i, c = (told(z, LEVEL, cond) for cond in (NULL, no_text(COND), COND))
    got = two_stream(told, NULL, no_text, 2.0, jnp.array([1.0, 2.0, 3.0, 4.0]))(z, LEVEL, COND)
    text_scale = jnp.arange(1.0, 5.0)[None, :, None, None, None]
    close(got, u + 2 * (i - u) + text_scale * (c - i))
    close(two_stream(told, NULL, no_text, 1.0, 1.0)(z, LEVEL, COND), c)


def test_a_null_of_another_structure_is_refused():
    for null in ({"image": jnp.zeros(2)}, {**NULL, "text": jnp.zeros(3)}):
        with pytest.raises(Refusal, match="unconditional cond"):
            cfg(told, null, 2.0)(video(0), LEVEL, COND)


@dataclass(frozen=True)
class Linear:
    """Videos whose frames are jointly N(0, covariance), the same at every pixel; one level."""

    alpha: float = 0.6
    sigma: float = 0.8

    @property
    def covariance(self) -> np.ndarray:
        gap = np.subtract.outer(np.arange(4.0), np.arange(4.0))
        return np.exp(-np.abs(gap) / 3)

    @property
    def gain(self) -> np.ndarray:
        """J of x0_hat = J z."""
        total = self.alpha**2 * self.covariance + self.sigma**2 * np.eye(4)
        return self.alpha * self.covariance @ np.linalg.inv(total)

    @property
    def level(self) -> Level:
        return Level(jnp.array(self.alpha), jnp.array(self.sigma))

    def denoise(self, z, level, cond):
        return over_frames(self.gain, z)


def over_frames(matrix: np.ndarray, video: jax.Array) -> jax.Array:
    return jnp.einsum("st,bthwc->bshwc", jnp.asarray(matrix, video.dtype), video)


DATA = Linear()


@pytest.mark.parametrize(
    ("operator", "known"), [(Frames((0, 3)), [0, 3]), (Interleave(2), [0, 2]), (Frames((2,)), [2])]
)
def test_reconstruction_equals_the_linear_closed_form(operator, known):
    """x0^b + w alpha J_ab^T (x^a - x0^a)."""
    assert isinstance(operator, Operator)
    with jax.enable_x64(True):  # noqa: FBT003
        z, truth, weight = video(0), video(1), 1.7
        observation = Observation(operator, operator.observe(truth), weight)
        got = reconstruction(DATA.denoise, [observation])(z, DATA.level, None)
        x0 = DATA.denoise(z, DATA.level, None)
        free = [f for f in range(4) if f not in known]
        residual = (truth - x0)[:, np.array(known)]
        pull = over_frames(DATA.gain[np.ix_(known, free)].T, residual)
        want = x0.at[:, np.array(free)].add(weight * DATA.alpha * pull)
        assert float(jnp.abs(got - want).max()) <= 1e-6
        np.testing.assert_array_equal(got[:, np.array(known)], x0[:, np.array(known)])


@dataclass(frozen=True)
class Whitened:
    """Known frames, in units of their covariance given z."""

    known: tuple[int, ...]

    @property
    def root(self) -> np.ndarray:
        conditional = DATA.sigma**2 / DATA.alpha * DATA.gain
        return np.linalg.cholesky(conditional[np.ix_(self.known, self.known)])

    def observe(self, x0):
        return over_frames(np.linalg.inv(self.root), x0[:, np.array(self.known)])

    def free(self, x0):
        return Frames(self.known).free(x0)


def test_with_the_true_covariance_it_is_the_conditional_expectation():
    """w ||.||^2 in units of Cov(x^a | z), w = sigma^2/alpha^2, gives E[x^b | z, x^a]."""
    known, free = [0, 1], [2, 3]
    with jax.enable_x64(True):  # noqa: FBT003
        z, truth, operator = video(0), video(1), Whitened(tuple(known))
        weight = (DATA.sigma / DATA.alpha) ** 2
        observation = Observation(operator, operator.observe(truth), weight)
        got = reconstruction(DATA.denoise, [observation])(z, DATA.level, None)

        # From the joint law of (x, z) alone: x^b given y = (z, x^a).
        c, a2, s2 = DATA.covariance, DATA.alpha**2, DATA.sigma**2
        zz, zx, xx = a2 * c + s2 * np.eye(4), DATA.alpha * c[:, known], c[np.ix_(known, known)]
        joint = np.block([[zz, zx], [zx.T, xx]])
        cross = np.hstack([DATA.alpha * c[free], c[np.ix_(free, known)]])
        y = jnp.concatenate([z, truth[:, np.array(known)]], axis=1)
        want = over_frames(cross @ np.linalg.inv(joint), y)
        assert float(jnp.abs(got[:, np.array(free)] - want).max()) <= 1e-6


def test_downsample_pulls_every_frame_alone_and_beside_known_frames():
    with jax.enable_x64(True):  # noqa: FBT003
        z, truth = video(0), video(1)
        x0, small = DATA.denoise(z, DATA.level, None), Downsample(2)
        seen = small.observe(truth)
        assert seen.shape == (2, 4, 2, 2, 1)
        assert float(seen[0, 1, 0, 1, 0]) == pytest.approx(float(truth[0, 1, :2, 2:, 0].mean()))
        # The transpose of averaging over 2x2 spreads each residual, a quarter to each pixel.
        spread = jnp.kron(seen - small.observe(x0), jnp.ones((1, 1, 2, 2, 1))) / 4
        pull = 2 * DATA.alpha * over_frames(DATA.gain.T, spread)
        observations = [Observation(small, seen, 2.0)]
        got = reconstruction(DATA.denoise, observations)(z, DATA.level, None)
        assert float(jnp.abs(got - (x0 + pull)).max()) <= 1e-6

        observations.append(Observation(Frames((0,)), truth[:, :1], 3.0))
        got = reconstruction(DATA.denoise, observations)(z, DATA.level, None)
        alone = 3 * DATA.alpha * over_frames(DATA.gain[:1].T, (truth - x0)[:, :1])
        assert float(jnp.abs(got - (x0 + pull + alone))[:, 1:].max()) <= 1e-6
        np.testing.assert_array_equal(got[:, 0], x0[:, 0])


def test_the_pull_grows_with_the_signal_of_each_frame():
    z, value = video(0), video(1)[:, :1]

    def mean(z, level, cond):
        return jnp.broadcast_to(z.mean(axis=1, keepdims=True), z.shape)

    level = Level(jnp.array([1.0, 0.2, 0.4, 0.8]), jnp.ones(4))
    x0 = mean(z, level, None)
    observation = Observation(Frames((0,)), value, 1.0)
    pulled = reconstruction(mean, [observation])(z, level, None) - x0
    close(pulled[:, 2:3], 2 * pulled[:, 1:2])
    close(pulled[:, 3:4], 4 * pulled[:, 1:2])


def test_weight_0_is_the_baseline_bit_for_bit():
    observation = Observation(Frames((0,)), video(1)[:, :1], 0.0)
    levels = Cosine().ladder(4)
    plain, guided = (
        DDIM()(denoise, video(0), levels, None, jax.random.key(0))
        for denoise in (DATA.denoise, reconstruction(DATA.denoise, [observation]))
    )
    np.testing.assert_array_equal(plain, guided)


def test_imputation_with_reconstruction_extends_a_clip():
    """Known frames come out as they are; free frames follow from them better than by replacement.

    Their spread about E[x^b | x^a] cannot be less than the conditional variance.
    """
    truth = over_frames(np.linalg.cholesky(DATA.covariance), video(3, (1024, 4, 1, 1, 1)))
    known = jnp.array([True, True, False, False])
    step = DATA.covariance[2:, :2] @ np.linalg.inv(DATA.covariance[:2, :2])
    follows = over_frames(step, truth[:, :2])
    least = np.trace(DATA.covariance[2:, 2:] - step @ DATA.covariance[:2, 2:]) / 2

    def ideal(z, level, cond):
        alpha, sigma = level.alpha[0, 0], level.sigma[0, 0]
        c = jnp.asarray(DATA.covariance, z.dtype)
        total = alpha**2 * c + sigma**2 * jnp.eye(4)
        return jnp.einsum("st,bthwc->bshwc", alpha * jnp.linalg.solve(total, c), z)

    def extend(weight: float) -> jax.Array:
        observation = Observation(Frames((0, 1)), truth[:, :2], weight)
        denoise = imputation(reconstruction(ideal, [observation]), known[None], truth)
        levels = Cosine().ladder(30)
        return jax.jit(lambda z: DDIM()(denoise, z, levels, None, jax.random.key(0)))(
            video(4, truth.shape)
        )

    replaced, guided = extend(0.0), extend(1.0)
    for got in (replaced, guided):
        close(got[:, :2], truth[:, :2])
    off = [float(((got[:, 2:] - follows) ** 2).mean()) - least for got in (replaced, guided)]
    assert -0.1 < off[1] < 0.7 * off[0]


def test_bad_observations_are_refused():
    z = video(0)
    for operator, value, text in (
        (Frames((4,)), z[:, :1], "from 0 to 3"),
        (Frames(()), z[:, :0], "at least one"),
        (Frames((0,)), z[:, :2], "known value"),
        (Downsample(3), z, "4x4"),
    ):
        with pytest.raises(Refusal, match=text):
            reconstruction(DATA.denoise, [Observation(operator, value, 1.0)])(z, DATA.level, None)
