"""Motion scores, against motion that is known."""

import cv2
import numpy as np
import pytest
from curate import planted
from skimage import data

from vdm_jax.core.opencv import grey, shrunk
from vdm_jax.curate.motion import Motion
from vdm_jax.curate.stage import Clip
from vdm_jax.metrics.motion import flow


@pytest.fixture(scope="module")
def stage():
    made = Motion().build()
    made.setup()
    return made


def score(stage, frames, fps=24.0):
    (clip,) = stage.process(Clip(file="x", start=0, fps=fps, frames=frames))
    return clip.scores["motion"]


def test_scores_rank_clips_as_their_true_motion_does(stage):
    rng = np.random.default_rng(0)
    speeds = rng.uniform(0, 4, 16)
    scores = [score(stage, planted.scene(rng, 25, speed)) for speed in speeds]
    ranks = [np.argsort(np.argsort(values)) for values in (speeds, scores)]
    assert np.corrcoef(*ranks)[0, 1] >= 0.95


def test_a_score_is_the_way_in_half_a_second_in_per_cent_of_the_shorter_side(stage):
    frames = planted.scene(np.random.default_rng(1), 49, 2.0)
    wanted = 100 * 2.0 * 12 / planted.HEIGHT
    assert score(stage, frames) == pytest.approx(wanted, rel=0.1)
    assert score(stage, frames[::2], fps=12.0) == pytest.approx(wanted, rel=0.1)
    large = np.stack([cv2.resize(frame, (512, 288)) for frame in frames])
    assert score(stage, large) == pytest.approx(wanted, rel=0.1)


def test_on_a_real_pair_of_pictures_the_error_is_a_twentieth(capsys):
    left, right, disparity = data.stereo_motorcycle()  # Middlebury 2014, measured by light
    a, b = (grey(shrunk(picture, 128)) for picture in (left, right))
    scale = a.shape[0] / left.shape[0]
    known = np.where(np.isfinite(disparity), disparity, np.nan).astype(np.float32)
    true = scale * cv2.resize(known, a.shape[::-1], interpolation=cv2.INTER_NEAREST)
    found = flow(a, b)
    error = np.hypot(found[0] + true, found[1])
    seen = np.isfinite(error)
    told, is_so = np.hypot(*found)[seen].mean(), true[seen].mean()
    with capsys.disabled():
        print(f"\nflow of a stereo pair at {a.shape[1]}x{a.shape[0]}, pixels off:", end=" ")
        print(f"{np.median(error[seen]):.2f} (median), {error[seen].mean():.2f} (mean)", end="; ")
        print(f"score {told / is_so - 1:+.1%}")
    assert np.median(error[seen]) < 0.6 and told == pytest.approx(is_so, rel=0.06)
