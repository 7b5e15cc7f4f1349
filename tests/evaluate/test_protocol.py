"""Which clips a protocol takes, and what the simple answers are."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import About, ClipInfo, Windowed
from vdm_jax.data.transform import Windows
from vdm_jax.evaluate.protocol import PLAIN, PROTOCOLS, Protocol, changes, named, sides
from vdm_jax.evaluate.sets import (
    CopyFirst,
    Extrapolated,
    Given,
    Taken,
    bare,
    name_of,
    video_of,
)

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
    one, other = sides(found, PLAIN)
    assert sorted([*one, *other]) == list(range(len(found))) != [*one, *other]
    assert sides(found, PLAIN) == (one, other) != sides(found, replace(PLAIN, seed=1))


def test_no_video_is_on_both_sides_and_the_sides_are_about_as_long():
    found = Windowed(Counted((16, 8, 24, 8, 16, 8, 32)), Windows(num_frames=8), (4, 6))
    for seed in range(20):
        halves = sides(found, Protocol(seed=seed))
        videos = [{video_of(found.about(i)) for i in side} for side in halves]
        assert not videos[0] & videos[1] and len(videos[0] | videos[1]) == 7
        assert abs(len(halves.one) - len(halves.other)) <= 4


def test_a_long_video_counts_no_more_than_a_short_one():
    found, seen = source(step=1), set()
    for seed in range(60):
        one, other = sides(found, Protocol(taking="videos", seed=seed))
        clips = [found.about(i).key for i in (*one, *other)]
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
    few, many = (Taken("", found, sides(found, PLAIN).one[:n]) for n in (2, 3))
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
    shape = {"num_frames": 5, "size": (8, 12), "resampling": Image.Resampling.BICUBIC}
    given = Given("x", Counted((20, 12)), [0, 1], **shape)
    assert given[1].shape == (5, 8, 12, 3) and given[1][:, 0, 0, 0].tolist() == [10, 11, 12, 13, 14]
    with pytest.raises(Refusal, match=r"1\.mp4 has 12 frames, 16 are compared"):
        Given("x", Counted((20, 12)), [0, 1], **{**shape, "num_frames": 16})


def test_files_are_named_after_what_they_were_drawn_from():
    keys = ("a/b.mp4:3", "a_b.mp4:3", "film.0001:3", "ü" * 99 + ".mp4:0", "ü" * 98 + "u.mp4:0")
    names = [name_of(About(key, "", 8.0)) for key in keys]
    assert names[0] == "a%2Fb+3" and names[2] == "film.0001+3"
    assert len(set(names)) == 5 and all(len(name) < 150 for name in names)
    assert bare("a/b.mp4") == "a/b" and bare("film.0001") == "film.0001"


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
