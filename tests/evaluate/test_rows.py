"""Rows are found again by whoever asks for the same, and by nobody else."""

import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import About
from vdm_jax.evaluate.rows import CHUNK, Rows
from vdm_jax.evaluate.scores import METRICS, parts_of


class Grey:
    """Clips of one shade each."""

    def __init__(self, shades, kind="grey", title="clips"):
        self.title, self._shades, self._kind = title, shades, kind

    def __len__(self):
        return len(self._shades)

    def __getitem__(self, number):
        return np.full((2, 4, 4, 3), self._shades[number], np.uint8)

    def about(self, number):
        return About(f"video-{number // 3}:{number % 3}", "", 8.0)

    def identity(self, number):
        return f"{self._kind} {self._shades[number]}"


class Mean:
    """Of a clip, or of how it differs from the true one; counts how often it looks."""

    name, size = "mean", 5

    def __init__(self, version=1, spoilt=None):
        self.identity, self.seen, self._spoilt = {"version": version}, 0, spoilt

    def check(self, one):
        pass

    def __call__(self, batch):
        self.seen += len(batch.clips)
        truth = 0 if batch.truth is None else batch.truth.astype(float)
        value = (batch.clips - truth).mean((1, 2, 3, 4))
        return {"value": np.where(value == self._spoilt, np.nan, value)}


SHADES = list(range(CHUNK + 7))


def computed(rows):
    for chunk in rows.missing():
        rows.compute(chunk, lambda count: None)
    return np.concatenate([table["value"] for table in rows.tables()])


def test_the_same_is_measured_once_and_anything_else_anew(tmp_path):
    first = Mean()
    np.testing.assert_array_equal(computed(Rows(tmp_path, first, Grey(SHADES))), SHADES)
    assert first.seen == len(SHADES)
    again = Mean()
    np.testing.assert_array_equal(computed(Rows(tmp_path, again, Grey(SHADES))), SHADES)
    assert again.seen == 0
    for measure, clips, truth, wanted in (
        (Mean(version=2), Grey(SHADES), None, SHADES),
        (Mean(), Grey(SHADES, kind="other"), None, SHADES),
        (Mean(), Grey(SHADES), Grey([0] * len(SHADES)), SHADES),
        (Mean(), Grey(SHADES), Grey(SHADES), np.zeros(len(SHADES))),
        (Mean(), Grey(SHADES[::-1]), None, SHADES[::-1]),
    ):
        rows = Rows(tmp_path, measure, clips, truth)
        np.testing.assert_array_equal(computed(rows), wanted)
        assert measure.seen == len(SHADES)


def test_more_clips_measure_only_what_is_new(tmp_path):
    computed(Rows(tmp_path, Mean(), Grey(SHADES[:CHUNK])))
    more = Mean()
    rows = Rows(tmp_path, more, Grey(SHADES))
    computed(rows)
    assert more.seen == len(SHADES) - CHUNK
    told = [(list(chunk), table["value"].tolist()) for chunk, table in rows.numbered(CHUNK + 2)]
    assert told == [(SHADES[:CHUNK],) * 2, (SHADES[CHUNK : CHUNK + 2],) * 2]


def test_numbers_that_are_none_name_the_clip(tmp_path):
    with pytest.raises(Refusal, match="clips: mean gives no finite value for clip video-3:1"):
        computed(Rows(tmp_path, Mean(spoilt=10), Grey(SHADES)))


def test_intervals_leave_out_videos_not_clips(tmp_path):
    """Clips of one video are alike: taken as independent, they would seem to tell more."""
    shades = np.random.default_rng(0).integers(0, 255, 13).repeat(3).tolist()
    rows = Rows(tmp_path, Mean(), Grey(shades, title="real"))
    computed(rows)
    assert parts_of(rows, 12).tolist() == np.arange(4).repeat(3).tolist()
    found = METRICS["flicker"].of(rows, rows, len(shades))
    assert found.value == pytest.approx(np.mean(shades))
    by_video = np.std(shades[::3], ddof=1) / 13**0.5
    assert found.error == pytest.approx(by_video, rel=1e-9)
    alone = Rows(tmp_path, Mean(), Grey(shades[:6]))
    computed(alone)
    assert len(set(parts_of(alone, 6).tolist())) == 6  # two videos say nothing of others
