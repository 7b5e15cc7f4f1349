"""Windows of long videos: every frame is drawn once, and windows know what was drawn before."""

from itertools import pairwise

import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.tasks.long_video import extension, interpolation, keyframes, reach

SIZES = [(16, 16, 4), (64, 16, 4), (65, 16, 5), (40, 16, 15), (17, 16, 1), (9, 16, 4), (30, 5, 1)]


def followed(windows, size, given=()):
    """Draws nothing, but checks each window against what is there when its turn comes."""
    there = set(given)
    for window in windows:
        assert len(window.frames) == size == len(window.known)
        gaps = {b - a for a, b in pairwise(window.frames)}
        assert len(gaps) == 1 and gaps.pop() >= 1
        assert [frame in there for frame in window.frames] == list(window.known)
        assert window.drawn and not there & set(window.drawn)
        there |= set(window.drawn)
    return there


@pytest.mark.parametrize(("total", "size", "overlap"), SIZES)
def test_extension_draws_each_frame_once_and_knows_the_frames_before(total, size, overlap):
    windows = extension(total, size, overlap)
    assert followed(windows, size) == set(range(max(total, size)))
    assert not any(windows[0].known)
    for window in windows[1:]:
        known = [f for f, k in zip(window.frames, window.known, strict=True) if k]
        assert len(known) >= overlap
        assert max(known) + 1 == min(window.drawn)
    regular = [w for w in windows[1:-1]]
    assert all(sum(w.known) == overlap for w in regular)


def test_extension_of_given_frames_leaves_out_windows_that_add_nothing():
    windows = extension(24, 8, 2, given=range(10))
    assert followed(windows, 8, range(10)) == set(range(24))
    assert min(windows[0].drawn) == 10


KEYED = [(64, 16, 5), (64, 16, 3), (97, 16, 15), (61, 9, 4), (20, 8, 7), (64, 16, 4)]


@pytest.mark.parametrize(("total", "size", "every"), KEYED)
def test_frames_between_keyframes_are_drawn_between_known_ends(total, size, every):
    windows = keyframes(total, size, overlap=size // 4, every=every)
    assert set(range(total)) <= followed(windows, size)
    coarse = [w for w in windows if w.frames[1] - w.frames[0] == every]
    fine = windows[len(coarse) :]
    assert all(frame % every == 0 for w in coarse for frame in w.frames)
    for window in fine:
        for frame in window.drawn:
            before, after = frame // every * every, -(-frame // every) * every
            if after < total:
                assert {before, after} <= set(window.frames)
    assert reach(total, every) >= total > reach(total, every) - every


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_counts_of_lvdm(n):
    """Keyframe latents 4 + 3n by windows of 4 that know 1; between them 3 each, so 4K - 3 in all,
    and 52 + 48n frames of them (He et al. 2022, arXiv:2211.13221, section 3.3)."""
    size, known = 4, 1
    keys = extension(4 + 3 * n, size, known)
    assert len(keys) == 1 + n and all(len(w.drawn) == 3 for w in keys[1:])
    count = len(followed(keys, size))
    between = interpolation(count, 5, 4)
    latents = followed(between, 5, range(0, 4 * (count - 1) + 1, 4))
    assert len(latents) == 4 * count - 3 and 4 * len(latents) == 52 + 48 * n
    assert len(between) == count - 1  # every pair of keyframes is visited
    assert all(w.known == (True, False, False, False, True) for w in between)
    assert all(w.new == (False, True, True, True, False) for w in between)


@pytest.mark.parametrize(
    ("count", "size", "factor"), [(4, 16, 3), (9, 5, 4), (2, 9, 8), (7, 16, 2)]
)
def test_interpolation_keeps_what_is_given(count, size, factor):
    whole = factor * (count - 1) + 1
    given = range(0, whole, factor)
    windows = interpolation(count, size, factor)
    assert set(range(whole)) <= followed(windows, size, given)
    assert not {f for w in windows for f in w.drawn} & set(given)


def test_windows_that_cannot_be_are_refused():
    for overlap in (0, 16):
        with pytest.raises(Refusal, match="know from 1 to 15"):
            extension(64, 16, overlap)
    with pytest.raises(Refusal, match="no room"):
        interpolation(4, 4, 4)
    with pytest.raises(Refusal, match="nothing between"):
        interpolation(4, 4, 1)
