"""Labelled grids: every pixel of every video is there, the words are beside them, nothing clips."""

import numpy as np
import pytest

from vdm_jax.core.gallery import PAPER, compare, contact_sheet, grid


@pytest.fixture
def videos():
    return np.random.default_rng(0).integers(0, 256, (5, 3, 8, 12, 3)).astype(np.uint8)


def find(picture, video):
    """Corner (y, x) where the enlarged video stands in the picture, in every frame."""
    first = (picture[0] == video[0, 0, 0]).all(-1)
    for y, x in zip(*np.nonzero(first), strict=True):
        cut = picture[:, y : y + video.shape[1], x : x + video.shape[2]]
        if cut.shape == video.shape and np.array_equal(cut, video):
            return int(y), int(x)
    return None


def enlarged(video, scale):
    return np.kron(video, np.ones((1, scale, scale, 1), np.uint8))


def test_grid_shows_every_video_enlarged_in_reading_order(videos):
    picture = grid(videos, [f"label {i}" for i in range(5)], columns=2, scale=4)
    corners = [find(picture, enlarged(video, 4)) for video in videos]
    assert None not in corners
    assert corners == sorted(corners)
    assert len({y for y, _ in corners}) == 3 and len({x for _, x in corners}) == 2
    assert picture.dtype == np.uint8 and len(picture) == 3
    assert picture.shape[1] % 2 == 0 and picture.shape[2] % 2 == 0


def test_labels_are_written_below_and_stay_within_their_tile(videos):
    plain = grid(videos[:2], columns=2, scale=10)
    long = "a very long label that has to run over several lines to be read"
    labelled = grid(videos[:2], [long, ""], columns=2, scale=10)
    assert labelled.shape[1] > plain.shape[1] and labelled.shape[2] == plain.shape[2]
    (y, x), (_, second) = (find(labelled, enlarged(video, 10)) for video in videos[:2])
    below = labelled[0, y + 80 :]
    inked = (below != PAPER).any(-1)
    assert inked.any(0)[x:second].any()
    assert not inked[:, :x].any() and not inked[:, second - 4 :].any()
    np.testing.assert_array_equal(labelled[0, y + 80 :], labelled[2, y + 80 :])
    assert not (plain[0, y + 80 :] != PAPER).any()


def test_a_word_wider_than_its_tile_is_cut(videos):
    picture = grid(videos[:1], ["incomprehensibilities" * 3], scale=10)
    _, x = find(picture, enlarged(videos[0], 10))
    assert not (picture[0][:, x + 120 :] != PAPER).any()


def test_small_videos_are_enlarged_and_large_ones_left():
    small, large = np.zeros((1, 1, 16, 16, 3), np.uint8), np.zeros((1, 1, 256, 256, 3), np.uint8)
    assert 128 <= grid(small).shape[2] < 160
    assert 256 <= grid(large).shape[2] < 300


def test_grey_videos_are_shown_grey(videos):
    picture = grid(videos[..., :1], scale=2)
    assert find(picture, enlarged(videos[1][..., [0, 0, 0]], 2)) is not None


def test_compare_has_a_row_each_sample_and_a_titled_column_each_maker(videos):
    makers = {"given": videos[:2], "model": videos[2:4], "truth": videos[3:5]}
    picture = compare(makers, ["the first sample", "the second"], scale=4)
    given, model, truth = (
        [find(picture, enlarged(video, 4)) for video in stack] for stack in makers.values()
    )
    assert given[0][0] == model[0][0] == truth[0][0] < given[1][0] == truth[1][0]
    assert given[0][1] < model[0][1] < truth[0][1]
    inked = (picture[0] != PAPER).any(-1)
    assert inked[: given[0][0]].any(), "titles"
    for y, x in given:
        assert inked[y : y + 32, : x - 2].any(), "row labels"


def test_contact_sheet_lays_frames_side_by_side(videos):
    sheet = contact_sheet(videos[0], scale=3)
    assert sheet.ndim == 3
    corners = [find(sheet[None], enlarged(frame[None], 3)) for frame in videos[0]]
    assert len({y for y, _ in corners}) == 1 and corners == sorted(corners)


def test_numbers_that_do_not_match_are_refused(videos):
    with pytest.raises(ValueError, match="2 labels for 5 videos"):
        grid(videos, ["a", "b"])
    with pytest.raises(ValueError, match="differ in shape"):
        compare({"model": videos, "truth": videos[:, :2]})
