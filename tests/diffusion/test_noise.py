import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.noise import Independent, Rescheduled, Shared, unit_noise

SHAPE = (22, 3, 2, 4)


@pytest.fixture
def keys(key):
    return jax.random.split(key, 3)


@pytest.mark.parametrize("t", [5, 8])
def test_one_window_is_plain_noise_to_the_bit(keys, t):
    shape = (t, *SHAPE[1:])
    plain = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    for plan in (Independent(), Rescheduled(8, 4)):
        np.testing.assert_array_equal(unit_noise(plan, keys, shape), plain)


@pytest.mark.parametrize(("window", "stride"), [(8, 4), (8, 3), (5, 5), (6, 1)])
def test_each_chunk_is_the_frames_one_window_earlier_in_another_order(keys, window, stride):
    noise = np.asarray(unit_noise(Rescheduled(window, stride), keys, SHAPE))
    plain = unit_noise(Independent(), keys, (window, *SHAPE[1:]))
    np.testing.assert_array_equal(noise[:, :window], plain)
    first = noise[..., 0, 0, 0]  # tells frames apart
    for start in range(window, SHAPE[0], stride):
        stop = min(start + stride, SHAPE[0])  # the last chunk may be shorter
        now, before = first[:, start:stop], first[:, start - window : stop - window]
        np.testing.assert_array_equal(np.sort(now), np.sort(before))
    for video in noise:
        for frame in video[window:]:
            assert any((frame == known).all() for known in video[:window])


def test_orders_differ_by_video_and_by_chunk(keys):
    noise = np.asarray(unit_noise(Rescheduled(16, 8), keys, (64, 1, 1, 1)))[..., 0, 0, 0]
    order = np.argmax(noise[:, :, None] == noise[:, None, :16], axis=2).reshape(3, 8, 8)
    assert len({tuple(chunk) for chunk in order[:, 2:].reshape(-1, 8)}) == 18
    assert (np.sort(order[:, 2:]) == np.sort(order[:, :-2])).all()


@pytest.mark.parametrize("plan", [Independent(), Rescheduled(4, 2), Shared(0.3), Shared(1.0)])
def test_each_frame_is_standard_normal(key, plan):
    noise = np.asarray(unit_noise(plan, jax.random.split(key, 4000), (11, 2, 2, 1)))
    frames = np.moveaxis(noise, 1, 0).reshape(11, -1)
    np.testing.assert_allclose(frames.mean(1), 0, atol=0.04)
    np.testing.assert_allclose(frames.var(1), 1, atol=0.06)
    np.testing.assert_allclose((frames**4).mean(1), 3, atol=0.5)


def test_frames_share_what_the_plan_says(key):
    noise = np.asarray(Shared(0.3)(key, (3, 100, 100, 2))).reshape(3, -1)
    correlation = np.corrcoef(noise)[np.triu_indices(3, 1)]
    np.testing.assert_allclose(correlation, 0.3, atol=0.03)


def test_a_video_does_not_depend_on_its_neighbours(keys):
    plan = Rescheduled(8, 4)
    alone = unit_noise(plan, keys[1:2], SHAPE)
    np.testing.assert_array_equal(unit_noise(plan, keys, SHAPE)[1], alone[0])
    assert jnp.abs(alone - unit_noise(plan, keys[:1], SHAPE)).max() > 0.1


def test_refuses_what_is_no_plan():
    with pytest.raises(Refusal, match=r"stride is 9; frames one window of 8"):
        Rescheduled(8, 9)
    with pytest.raises(Refusal, match=r"share is 1\.5"):
        Shared(1.5)
