"""Which clips a protocol takes, and what the simple answers are."""

from dataclasses import replace

import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import ClipInfo, Windowed
from vdm_jax.data.transform import Windows
from vdm_jax.evaluate.protocol import PLAIN, PROTOCOLS, Protocol, changes, named, places
from vdm_jax.evaluate.sets import CopyFirst, Extrapolated, Given, Taken

LENGTHS = (40, 3, 8, 21, 9)


class Counted:
    """Clips whose pixels tell clip and frame."""

    fingerprint, credit = "counted", ""

    def __init__(self, lengths=LENGTHS, size=(4, 6)):
        self.infos = [
            ClipInfo(key=f"{i}.mp4", caption="", fps=8.0, frames=n, height=size[0], width=size[1])
            for i, n in enumerate(lengths)
        ]

    def __str__(self):
        return "counted"

    def read(self, index, numbers):
        info = self.infos[index]
        shape = (len(numbers), info.height, info.width, 3)
        return np.broadcast_to(
            np.array([10 * index + n for n in numbers], np.uint8).reshape(-1, 1, 1, 1), shape
        )


def source(**windows):
    return Windowed(Counted(), Windows(**{"num_frames": 8, **windows}), (4, 6))


def test_windows_are_all_taken_once_in_random_order():
    found = source()
    order = places(found, PLAIN)
    assert sorted(order) == list(range(len(found))) != list(order)
    assert places(found, PLAIN) == order != places(found, replace(PLAIN, seed=1))


def test_a_long_video_counts_no_more_than_a_short_one():
    found, seen = source(step=1), set()
    for seed in range(60):
        order = places(found, Protocol(taking="videos", seed=seed))
        clips = [found.about(i).key for i in order]
        assert sorted(key.partition(":")[0] for key in clips) == [
            "0.mp4",
            "2.mp4",
            "3.mp4",
            "4.mp4",
        ]
        seen |= set(clips)
    assert len([key for key in seen if key.startswith("0.mp4")]) > 20  # of 33 places


def test_the_first_clips_do_not_depend_on_how_many_are_taken():
    found = source()
    few, many = (Taken("", found, places(found, PLAIN)[:n]) for n in (2, 5))
    assert [few.identity(i) for i in range(2)] == [many.identity(i) for i in range(2)]


def test_named_protocols_are_those_of_the_papers():
    assert PROTOCOLS["stylegan-v-2048x16"].num_clips == PROTOCOLS["lvdm-2048x10"].num_clips == 2048
    assert PROTOCOLS["lvdm-2048x10"].repeats == 10
    svd = PROTOCOLS["svd-zeroshot"]
    assert (svd.num_clips, svd.num_frames, svd.fps, svd.size) == (13320, 16, 25.0, (240, 320))
    assert changes(svd, replace(svd, num_clips=64)) == ["num_clips 64, not 13320"]
    assert changes(svd, svd) == []
    with pytest.raises(Refusal, match="--protocol best: there are plain"):
        named("best")


def test_simple_answers():
    clip = np.arange(5 * 4 * 6 * 3).reshape(5, 4, 6, 3).astype(np.uint8)

    class One:
        title = "one"

        def __len__(self):
            return 1

        def __getitem__(self, number):
            return clip

        about = identity = __getitem__

    assert (CopyFirst(One())[0] == clip[:1]).all()
    moved = Extrapolated(One())[0].astype(int)
    np.testing.assert_array_equal(moved[:2], clip[:2])
    step = clip[1].astype(int) - clip[0]
    np.testing.assert_array_equal(moved[4], (clip[0] + 4 * step).clip(0, 255))


def test_generated_clips_are_their_first_frames_at_the_size_compared():
    given = Given("x", Counted((20, 12)), 5, (8, 12))
    assert given[1].shape == (5, 8, 12, 3) and given[1][:, 0, 0, 0].tolist() == [10, 11, 12, 13, 14]
    assert len(given) == 2 and len(given.first(1)) == 1
    with pytest.raises(Refusal, match=r"1\.mp4 has 12 frames, 16 are compared"):
        Given("x", Counted((20, 12)), 16, (8, 12))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"num_clips": 0}, "num_clips must be at least 1"),
        ({"height": 8}, "height and width go together"),
        ({"metrics": ()}, "metrics must name something"),
        ({"metrics": ("fvd", "fvd")}, "each once"),
        ({"seed": -1}, "seed must lie"),
    ],
)
def test_protocols_that_mean_nothing_are_refused(wrong, why):
    with pytest.raises(Refusal, match=why):
        Protocol(**wrong)
