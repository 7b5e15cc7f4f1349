"""Which frames are known: laws, numbers, and the channels that tell of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.conditioning.known import (
    AnyFrames,
    EndFrames,
    EveryFrame,
    FirstFrames,
    LastFrames,
    NoFrames,
    OneOf,
    at,
    beside,
    told,
)
from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.level import Level

SHAPE = (4000, 6)


def drawn(law, shape=SHAPE):
    return np.asarray(law.sample(jax.random.key(0), shape))


@pytest.mark.parametrize(
    "law",
    [NoFrames(), FirstFrames(9), LastFrames(2), EndFrames(), EveryFrame(2), AnyFrames()],
)
@pytest.mark.parametrize("frames", [1, 2, 6])
def test_some_frame_stays_unknown_in_every_video(law, frames):
    assert not drawn(law, (500, frames)).all(axis=1).any()


def test_laws_say_what_their_names_do():
    assert not drawn(NoFrames()).any()
    np.testing.assert_array_equal(drawn(EndFrames())[7], [1, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(drawn(EveryFrame(2))[7], [1, 0, 1, 0, 1, 0])
    counts = drawn(FirstFrames(3)).sum(1)
    np.testing.assert_allclose(np.bincount(counts)[1:] / SHAPE[0], 1 / 3, atol=0.03)
    first = drawn(FirstFrames(3))
    np.testing.assert_array_equal(first, np.arange(6)[None] < first.sum(1)[:, None])
    np.testing.assert_array_equal(drawn(LastFrames(3)), drawn(FirstFrames(3))[:, ::-1])


def test_any_frames_are_any():
    known = drawn(AnyFrames())
    rates = known.mean(0)
    np.testing.assert_allclose(rates, rates.mean(), atol=0.04)
    # of a share uniform in [0, 1] every number of frames is as likely, but that one is spared
    assert np.bincount(known.sum(1), minlength=6).min() > 0.08 * SHAPE[0]


def test_one_of_several_laws_by_its_share():
    law = OneOf((NoFrames(), EndFrames()), (3.0, 1.0))
    known = drawn(law).any(1)
    assert abs(known.mean() - 0.25) < 0.02
    assert set(drawn(law).sum(1)) == {0, 2}


def test_frames_by_number():
    np.testing.assert_array_equal(at((0, -1), 4, 2), [[1, 0, 0, 1]] * 2)
    for wrong in ((4,), (-5,), (0, 0), (3, -1)):
        with pytest.raises(Refusal, match="frames"):
            at(wrong, 4, 1)


@pytest.mark.parametrize("law", [lambda: FirstFrames(0), lambda: EveryFrame(1),
                                 lambda: OneOf((NoFrames(),), (1.0, 2.0))])  # fmt: skip
def test_laws_that_mean_nothing_are_refused(law):
    with pytest.raises(Refusal):
        law()


def test_channels_hold_known_frames_how_much_of_them_is_signal_and_nothing_else():
    rng = np.random.default_rng(0)
    x0, eps = (jnp.asarray(rng.standard_normal((2, 3, 4, 4, 2)), "float32") for _ in range(2))
    known = jnp.array([[True, False, True], [False, False, False]])
    clean = beside(x0, known, Level(jnp.float32(1), jnp.float32(0)), eps)
    np.testing.assert_array_equal(clean[0, 0, ..., :2], x0[0, 0])
    np.testing.assert_array_equal(clean[0, 0, ..., 2], 1)
    assert not clean[0, 1].any() and not clean[1].any()
    np.testing.assert_array_equal(told(clean), known)
    # a level that preserves no variance is told as if it did: 3, 4 is 0.6, 0.8
    noised = beside(x0, known, Level(jnp.float32(3), jnp.float32(4)), eps)
    np.testing.assert_allclose(noised[0, 2, ..., 2], 0.6, rtol=1e-6)
    np.testing.assert_allclose(noised[0, 2, ..., :2], 0.6 * x0[0, 2] + 0.8 * eps[0, 2], rtol=1e-5)
