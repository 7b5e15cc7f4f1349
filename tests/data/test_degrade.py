"""Small videos are what an antialiased camera of fewer pixels would have seen."""

import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.degrade import AreaMean, Bicubic, Degradation
from vdm_jax.diffusion.guidance import Downsample
from vdm_jax.tasks.task import to_signal

EACH = pytest.mark.parametrize("kind", [AreaMean, Bicubic])


def noise(*sizes):
    return np.random.default_rng(0).integers(0, 256, sizes, dtype=np.uint8)


def test_a_mean_of_blocks_is_what_guidance_sees_to_half_a_grey_value():
    video = noise(3, 12, 20, 3)
    small = AreaMean(4)(video)
    assert small.shape == (3, 3, 5, 3) and small.dtype == np.uint8
    seen = Downsample(4).observe(to_signal(jnp.asarray(video))[None])[0]
    assert np.abs(np.asarray(seen) * 127.5 + 127.5 - small).max() <= 0.5 + 1e-3


@EACH
def test_what_is_too_fine_for_the_small_video_leaves_no_pattern(kind):
    """Every fourth column bright: taking every fourth pixel would make it all bright, or black."""
    video = np.zeros((1, 16, 32, 3), np.uint8)
    video[:, :, ::4] = 200
    small = kind(4)(video).astype(int)
    assert np.ptp(small[:, :, 2:-2]) <= 4
    assert np.abs(small[:, :, 2:-2] - 50).max() <= 4


@EACH
def test_a_flat_video_stays_as_bright_and_a_step_stays_where_it_is(kind):
    video = np.full((2, 8, 16, 3), 90, np.uint8)
    assert (kind(2)(video) == 90).all()
    video[:, :, 8:] = 210
    small = kind(2)(video)
    assert (small[:, :, :2] == 90).all() and (small[:, :, 6:] == 210).all()
    assert (small[:, :, 3] < 150).all() and (small[:, :, 4] > 150).all()


@EACH
def test_factor_1_changes_nothing_and_others_refuse_what_they_do_not_divide(kind):
    assert isinstance(kind(2), Degradation)
    video = noise(1, 6, 6, 3)
    np.testing.assert_array_equal(kind(1)(video), video)
    with pytest.raises(Refusal, match="6x6 has no 4 times smaller one"):
        kind(4)(video)
    with pytest.raises(Refusal, match="factor must be at least 1, got 0"):
        kind(0)
