"""Which pictures belong to which video, for tasks that are given none, one or two of each."""

import numpy as np
import pytest
from PIL import Image

from vdm_jax.core.refusal import Refusal
from vdm_jax.sample.commands.drawing import Request, _pictures
from vdm_jax.tasks.stable_interpolation import StableInterpolation
from vdm_jax.tasks.stable_text import StableText
from vdm_jax.tasks.stable_video import StableVideo
from vdm_jax.tasks.task import VideoShape

VIDEO = VideoShape(num_frames=3, height=8, width=8, fps=7.0)


@pytest.fixture
def paths(tmp_path):
    """Four grey pictures, 10, 20, 30 and 40 bright."""
    paths = [tmp_path / f"{level}.png" for level in (10, 20, 30, 40)]
    for path in paths:
        Image.fromarray(np.full((8, 8, 3), int(path.stem), np.uint8)).save(path)
    return tuple(map(str, paths))


def taken(task, paths, **more):
    """(brightness of each picture in order, number of videos)."""
    pictures, count = _pictures(Request(image=paths, **more), task)
    return None if pictures is None else [int(p[0, 0, 0]) for p in pictures], count


def test_a_video_of_each_picture(paths):
    task = StableVideo(video=VIDEO)
    assert taken(task, paths[:2]) == ([10, 20], 2)
    assert taken(task, paths[:2], num_videos=2) == ([10, 10, 20, 20], 4)
    assert taken(task, (), num_videos=3) == (None, 3)


def test_a_video_between_each_two_pictures(paths):
    task = StableInterpolation(video=VIDEO)
    assert taken(task, paths) == ([10, 20, 30, 40], 2)
    assert taken(task, paths, num_videos=2) == ([10, 20, 10, 20, 30, 40, 30, 40], 4)
    with pytest.raises(Refusal, match="each video needs 2 pictures, got 3"):
        taken(task, paths[:3])


def test_captions_only(paths):
    with pytest.raises(Refusal, match="from captions only"):
        taken(StableText(video=VIDEO), paths)
