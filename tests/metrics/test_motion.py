"""Motion that is known is told; what only moves has no warping error."""

import numpy as np
import pytest
from curate import planted
from scipy.ndimage import gaussian_filter

from vdm_jax.core.refusal import Refusal
from vdm_jax.curate.motion import Motion
from vdm_jax.curate.stage import Clip
from vdm_jax.metrics.motion import flicker, flow, speed, visible, warped, warping_error

SHIFT = 3


def texture(height=96, width=160, seed=0, sigma=2.0):
    noise = np.random.default_rng(seed).standard_normal((height, width, 3))
    smooth = gaussian_filter(noise, (sigma, sigma, 0))
    low, high = smooth.min(), smooth.max()
    return (255 * (smooth - low) / (high - low)).round().astype(np.uint8)


@pytest.fixture(scope="module")
def moving():
    """A texture that goes SHIFT pixels to the left in each of 8 frames: "t 96 128 3"."""
    whole = texture(96, 160)
    return np.stack([whole[:, SHIFT * i : SHIFT * i + 128] for i in range(8)])


def test_flow_is_the_known_one(moving):
    found = flow(moving[0, ..., 0], moving[1, ..., 0])
    inside = found[:, 8:-8, 8:-8]
    assert np.abs(inside[0] + SHIFT).max() < 0.1 and np.abs(inside[1]).max() < 0.1
    down = flow(
        np.ascontiguousarray(moving[0, ..., 0].T), np.ascontiguousarray(moving[1, ..., 0].T)
    )
    assert np.abs(down[1, 8:-8, 8:-8] + SHIFT).max() < 0.1


def test_speed_is_per_second_in_per_cent_of_the_shorter_side(moving):
    wanted = 100 * SHIFT / 96 * 24
    assert speed(moving, 24.0, seconds=1 / 24) == pytest.approx(wanted, rel=0.02)
    assert speed(moving, 24.0, seconds=3 / 24) == pytest.approx(wanted, rel=0.05)
    assert speed(moving, 12.0, seconds=1 / 12) == pytest.approx(wanted / 2, rel=0.02)
    assert speed(moving / 255, 24.0, seconds=1 / 24) == speed(moving, 24.0, seconds=1 / 24)
    assert speed(moving[:4], 24.0) == pytest.approx(wanted, rel=0.1)  # from the first to the last


def test_speed_is_twice_what_curation_tells_of_half_a_second():
    frames = planted.scene(np.random.default_rng(1), 49, 2.0)
    stage = Motion().build()
    stage.setup()
    (clip,) = stage.process(Clip(file="x", start=0, fps=24.0, frames=frames))
    assert speed(frames, 24.0) == pytest.approx(2 * clip.scores["motion"], rel=1e-9)


def test_what_only_moves_has_no_warping_error(moving):
    found = warping_error(moving)
    assert found.error < 2e-5 and found.seen > 0.9
    shuffled = warping_error(moving[np.random.default_rng(0).permutation(8)])
    noise = np.random.default_rng(1).normal(0, 10, moving.shape)
    noisy = warping_error(np.clip(moving + noise, 0, 255).astype(np.uint8))
    others = warping_error(np.stack([texture(96, 128, seed) for seed in range(4)]))
    assert others.error > 100 * found.error and noisy.error > 100 * found.error
    assert shuffled.error > 10 * found.error
    assert others.seen < 0.8


def test_warping_is_bilinear_and_leaves_out_what_is_beyond_or_hidden():
    ramp = np.arange(20.0)[None, :, None].repeat(12, 0)
    forward = np.zeros((2, 12, 20), np.float32)
    forward[0] = 2.25
    moved = warped(ramp, forward)[..., 0]
    np.testing.assert_allclose(moved[:, :17], ramp[:, :17, 0] + 2.25, rtol=1e-12)
    np.testing.assert_array_equal(moved[:, 18:], 19)
    inside = visible(forward, -forward)
    assert inside[:, :17].all() and not inside[:, 17:].any()
    assert not visible(forward, 0 * forward).any()  # nothing goes back
    assert visible(0.5 * forward / 2.25, 0 * forward)[:, :19].all()  # half a pixel is no matter
    forward[0] = 2
    assert not visible(forward, -forward / 2).any()  # a pixel off 2: 1 > 0.01 (4 + 1) + 0.5
    forward[0] = 10
    assert visible(forward, -0.9 * forward)[:, :9].all()  # off 10: 1 < 0.01 (100 + 81) + 0.5
    forward[0], forward[1] = 0, -3
    assert visible(forward, -forward)[3:].all() and not visible(forward, -forward)[:3].any()


def test_a_still_video_has_neither(moving):
    still = moving[:1].repeat(5, 0)
    assert speed(still, 24.0) == pytest.approx(0, abs=1e-3)
    assert flicker(still) == 0
    assert warping_error(still).error == pytest.approx(0, abs=1e-9)


def test_flicker_is_the_change_of_light():
    light = 100 + 7 * (np.arange(6) % 2)
    video = np.broadcast_to(light[:, None, None, None], (6, 16, 16, 3)).astype(np.uint8)
    assert flicker(video) == pytest.approx(7) == flicker(video / 255)
    one = video.copy()
    one[:, :8] = 100  # half of the picture
    assert flicker(one) == pytest.approx(3.5)


@pytest.mark.parametrize("measure", [flicker, warping_error, lambda video: speed(video, 8.0)])
def test_what_has_no_motion_to_tell_is_refused(measure, moving):
    with pytest.raises(Refusal, match=r"2 frames or more, got \(1, 96"):
        measure(moving[:1])
    with pytest.raises(Refusal, match=r"got \(1, 8, 96"):
        measure(moving[None])
    bad = moving / 255
    bad[3, 4, 5] = np.nan
    with pytest.raises(Refusal, match="frame 3 has pixels"):
        measure(bad)
    with pytest.raises(Refusal, match="several sizes"):
        measure([moving[0], moving[1, :, :64]])


def test_flow_of_tiny_frames_and_no_rate_are_refused(moving):
    with pytest.raises(Refusal, match="at least 12x12"):
        warping_error(moving[:, :11])
    with pytest.raises(Refusal, match="fps is above 0"):
        speed(moving, 0.0)
