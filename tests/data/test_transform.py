import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.transform import Windows, centre_crop, cover, short_side


@pytest.mark.parametrize(
    ("windows", "total", "expected"),
    [
        (Windows(num_frames=4), 11, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (Windows(num_frames=4), 4, [[0, 1, 2, 3]]),
        (Windows(num_frames=4), 3, []),
        (Windows(num_frames=3, every=2), 11, [[0, 2, 4], [6, 8, 10]]),
        (Windows(num_frames=3, every=2), 10, [[0, 2, 4]]),
        (Windows(num_frames=3, step=1), 5, [[0, 1, 2], [1, 2, 3], [2, 3, 4]]),
        (Windows(num_frames=1, every=5), 6, [[0], [5]]),
    ],
)
def test_windows(windows: Windows, total: int, expected: list[list[int]]):
    assert windows.count(total) == len(expected)
    assert [list(windows.indices(i)) for i in range(len(expected))] == expected


@pytest.mark.parametrize("wrong", [{"num_frames": 0}, {"num_frames": 2, "every": 0}])
def test_impossible_windows_are_refused(wrong: dict):
    with pytest.raises(Refusal, match="at least 1"):
        Windows(**wrong)
    with pytest.raises(Refusal, match="at least 1"):
        Windows(num_frames=2, step=0)


def test_cover_keeps_the_centre_and_the_shape():
    wide = np.zeros((2, 40, 80, 3), np.uint8)
    wide[:, 10:30, 30:50] = 255  # a square in the middle
    small = cover(wide, (20, 20))
    assert small.shape == (2, 20, 20, 3)
    bright = np.argwhere(small[0, ..., 0] > 127)
    np.testing.assert_array_equal(bright.min(0), [5, 5])
    np.testing.assert_array_equal(bright.max(0), [14, 14])
    np.testing.assert_array_equal(cover(wide, (40, 80)), wide)
    tall = np.swapaxes(wide, 1, 2)
    np.testing.assert_array_equal(cover(tall, (20, 20)), np.swapaxes(small, 1, 2))


def test_cover_is_antialiased():
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 255
    inner = cover(stripes, (16, 16))[:, :, 2:-2].astype(int)
    assert np.abs(inner - 127).max() < 16


def test_short_side():
    assert short_side(720, 1280, 96) == (96, 170)
    assert short_side(1280, 720, 96) == (170, 96)
    assert short_side(100, 100, 63) == (64, 64)


@pytest.mark.parametrize(("ratio", "shape"), [(2.0, (5, 10)), (0.5, (8, 4)), (1.25, (8, 10))])
def test_a_centre_crop_is_the_largest_part_of_its_shape(ratio: float, shape: tuple):
    picture = np.arange(8 * 10 * 3, dtype=np.uint8).reshape(8, 10, 3)
    part = centre_crop(picture, ratio)
    assert part.shape[:2] == shape
    top, left = (8 - shape[0]) // 2, (10 - shape[1]) // 2
    np.testing.assert_array_equal(part[0, 0], picture[top, left])
