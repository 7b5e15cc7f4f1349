"""Where clips begin and end: on scenes that were joined, and on scenes in which nothing is cut."""

from dataclasses import replace

import numpy as np
import pytest
from curate import planted

from vdm_jax.curate.shots import BLEND, SHORT, Shots
from vdm_jax.curate.stage import Span


def clips(frames, shots=Shots(), start=0):  # noqa: B008 - frozen
    span = Span(file="x", start=start, stop=start + len(frames), fps=24.0)
    return list(shots.clips(span, iter(frames)))


def rows(found):
    return [
        {"start": clip.start, "frames": len(clip.frames), "rejected": clip.rejected}
        for clip in found
    ]


def test_cuts_dissolves_and_fades_are_found_and_nothing_else():
    misses = false = total = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        shots = [planted.scene(rng, int(rng.integers(50, 90))) for _ in range(5)]
        kinds = [("cut", "dissolve", "fade")[k] for k in rng.integers(0, 3, 4)]
        frames, cuts = planted.joined(rng, shots, kinds)
        _, missed, wrong = planted.f1(cuts, planted.found(rows(clips(frames))))
        misses, false, total = misses + missed, false + wrong, total + len(cuts)
    hits = total - misses
    assert 2 * hits / (2 * hits + misses + false) >= 0.95, (misses, false)


def test_every_frame_is_in_one_clip_and_numbered_from_the_span():
    rng = np.random.default_rng(1)
    frames, _ = planted.joined(rng, [planted.scene(rng, 60) for _ in range(3)], ["fade", "cut"])
    found = clips(frames, start=1000)
    assert [clip.start for clip in found] == [
        1000 + sum(len(clip.frames) for clip in found[:n]) for n in range(len(found))
    ]
    assert np.array_equal(np.concatenate([clip.frames for clip in found]), frames)


@pytest.mark.parametrize("speed", [0.0, 1.0, 3.0, 6.0])
def test_a_moving_camera_is_no_transition(speed):
    frames = planted.scene(np.random.default_rng(3), 120, speed)
    assert [len(clip.frames) for clip in clips(frames)] == [120]


def test_a_fade_ends_where_the_picture_is_whole():
    rng = np.random.default_rng(4)
    frames = planted.fade(planted.fade(planted.scene(rng, 100), 20, "in"), 10, "out")
    found = [(clip.start, clip.stop) for clip in clips(frames) if not clip.rejected]
    assert len(found) == 1 and abs(found[0][0] - 20) <= 2 and abs(found[0][1] - 90) <= 2


def test_short_clips_are_rejected_and_long_shots_are_divided():
    rng = np.random.default_rng(5)
    frames = np.concatenate([planted.scene(rng, 10), planted.scene(rng, 100)])
    found = clips(frames, Shots(shortest=16, longest=2.0))
    assert [(len(clip.frames), clip.rejected) for clip in found] == [
        (10, SHORT), (48, ""), (48, ""), (4, SHORT),
    ]  # fmt: skip


def test_a_clip_takes_no_more_memory_than_said():
    span = Span(file="x", stop=4800, fps=240.0, height=256, width=456)
    assert Shots().most(span) * 256 * 456 * 3 <= 200e6 < (Shots().most(span) + 1) * 256 * 456 * 3
    assert Shots().most(replace(span, fps=24.0)) == 480
    assert Shots().most(replace(span, height=2160, width=3840)) == 16  # that of `shortest`


def test_black_frames_are_no_clip():
    found = clips(np.zeros((60, 72, 128, 3), np.uint8))
    assert {clip.rejected for clip in found} == {BLEND}
