"""Walks by sound: evenly where nothing is struck, on where something is."""

import numpy as np
import pytest
from core.sounds import RATE, clicks, silence, tone, wav

from vdm_jax.core.refusal import Refusal
from vdm_jax.sample.timing import Beats, Even, Timing

FPS = 24
SECONDS = 4
TIMES = np.arange(SECONDS * FPS + 1) / FPS
ENDS = np.array([0.0, SECONDS])
FRAME = 1 / (SECONDS * FPS)
"""The part of the whole way that a frame is, when walked evenly."""


def beats(folder, samples, **settings):
    return Beats(path=str(wav(folder / "a.wav", samples)), **settings)


def fastest(places):
    """The time of the frame before the longest step."""
    return TIMES[np.diff(places).argmax()]


@pytest.mark.parametrize("offset", [0.0, 0.75])
@pytest.mark.parametrize(
    "samples",
    [
        silence(5.0),
        silence(5.0) + 0.3,
        tone(5.0),
        tone(5.0, 60.0),
    ],
    ids=["silence", "offset", "tone", "hum"],
)
def test_what_is_the_same_throughout_is_walked_evenly(tmp_path, samples, offset):
    places = beats(tmp_path, samples, offset=offset)(ENDS, TIMES)
    assert np.abs(places - TIMES / SECONDS).max() < FRAME


@pytest.mark.parametrize(
    "samples",
    [
        (0.2 * np.random.default_rng(0).standard_normal(5 * RATE)).clip(-1, 1),
        (tone(5.0, 220.0) + tone(5.0, 277.0) + tone(5.0, 330.0)) / 3,
    ],
    ids=["noise", "a chord"],
)
def test_what_wavers_a_little_is_walked_nearly_evenly(tmp_path, samples):
    places = beats(tmp_path, samples)(ENDS, TIMES)
    assert np.abs(places - TIMES / SECONDS).max() < 3 * FRAME


@pytest.mark.parametrize("offset", [0.0, 0.75])
@pytest.mark.parametrize("under", [silence(5.0), 0.6 * tone(5.0)], ids=["silence", "a tone"])
def test_a_click_moves_the_walk_most(tmp_path, under, offset):
    places = beats(tmp_path, under + clicks(5.0, [2.5], 0.4), offset=offset)(ENDS, TIMES)
    assert abs(fastest(places) - (2.5 - offset)) <= 2 / FPS
    close = np.abs(TIMES - (2.5 - offset)) < 0.1
    assert np.ptp(places[close]) > 0.4


def test_of_two_clicks_the_louder_counts_more_and_all_else_stands_nearly_still(tmp_path):
    samples = clicks(5.0, [1.0], 0.4) + clicks(5.0, [3.0], 0.8)
    places = beats(tmp_path, samples)(ENDS, TIMES)
    assert abs(fastest(places) - 3.0) <= 2 / FPS
    between = places[TIMES == 2.0].item()
    assert between == pytest.approx(0.2, abs=0.05)  # of the energies 1 and 4
    assert np.ptp(places[(TIMES > 1.2) & (TIMES < 2.8)]) < 1e-3


@pytest.mark.parametrize("timing", ["even", "beats"])
def test_every_point_is_reached_at_its_time(tmp_path, timing):
    made = beats(tmp_path, clicks(5.0, [0.5, 0.9, 2.2, 3.9])) if timing == "beats" else Even()
    assert isinstance(made, Timing)
    numbers = np.array([0, 7, 50, 96])
    places = made(TIMES[numbers], TIMES)
    np.testing.assert_array_equal(places[numbers], [0, 1, 2, 3])
    assert (np.diff(places) >= 0).all() and places.max() == 3
    assert places[28] == pytest.approx(1 + 21 / 43) or timing == "beats"


def test_smooth_walks_a_part_of_the_way_evenly(tmp_path):
    samples = clicks(5.0, [1.0, 3.0])
    even = Even()(ENDS, TIMES)
    rough, half, smooth = (beats(tmp_path, samples, smooth=s)(ENDS, TIMES) for s in (0, 0.5, 1))
    np.testing.assert_array_equal(smooth, even)
    np.testing.assert_allclose(half, (rough + even) / 2, atol=1e-12)


def test_a_margin_leaves_less_of_what_is_neither_struck_nor_a_tone(tmp_path):
    hiss = 0.01 * np.random.default_rng(0).standard_normal(5 * RATE)
    samples = hiss + clicks(5.0, [3.0], 0.4)
    before = [beats(tmp_path, samples, margin=m)(ENDS, TIMES)[TIMES == 2.5] for m in (1.0, 4.0)]
    assert before[1] < 0.5 * before[0]


def test_a_sound_shorter_than_the_walk_is_refused(tmp_path):
    with pytest.raises(Refusal, match=r"ends 1\.0 s before the walk, which lasts 4\.0 s from 0 s"):
        beats(tmp_path, tone(3.0))(ENDS, TIMES)
    with pytest.raises(Refusal, match=r"ends 2\.5 s before the walk"):
        beats(tmp_path, tone(3.0), offset=1.5)(ENDS, TIMES)
    beats(tmp_path, tone(3.95))(ENDS, TIMES)


@pytest.mark.parametrize("setting", [{"smooth": 1.1}, {"margin": 0.0}, {"offset": -1.0}])
def test_settings_that_cannot_be_are_refused(setting):
    with pytest.raises(Refusal, match="smooth in"):
        Beats(path="a.wav", **setting)
