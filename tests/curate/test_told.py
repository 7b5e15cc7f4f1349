"""The numbers that go with clips: by what they are made, and what becomes of clips without one."""

import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.curate.aesthetic import Aesthetic
from vdm_jax.curate.config import CurateConfig, settings
from vdm_jax.curate.inputs import File
from vdm_jax.curate.motion import Motion
from vdm_jax.curate.output import tables
from vdm_jax.curate.rules import Rule
from vdm_jax.curate.text import Text
from vdm_jax.curate.told import buckets
from vdm_jax.curate.verdict import verdict

STILL = Rule("still", "motion > 1")


def judged(config, *scores):
    """The verdict on clips of one file of which stages told these."""
    clips = [
        {
            "key": f"a.mp4:{n:07d}", "file": "a.mp4", "start": n, "frames": 9, "fps": 9.0,
            "height": 64, "width": 64, "rejected": "", "captions": {}, "vectors": {},
            "scores": each,
        }
        for n, each in enumerate(scores)
    ]  # fmt: skip
    span = {"start": 0, "stop": 99, "end": 99, "fps": 9.0, "height": 64, "width": 64}
    results = {"look a.mp4:0": {"spans": [span]}, "cut a.mp4:0": {"clips": clips}}
    return verdict(config, [File(name="a.mp4", caption="", bytes=1, changed=0)], results)


@pytest.mark.parametrize(
    ("motion", "wanted"),
    [
        ([], []),
        ([3.0], [127]),
        ([3.0, 1.0], [191, 64]),
        ([3.0, 1.0, 2.0], [212, 42, 127]),
        ([2.0, 2.0, 2.0], [127, 127, 127]),
        ([5.0, 2.0, 2.0, 1.0], [223, 127, 127, 32]),
    ],
)
def test_buckets_are_ranks(motion, wanted):
    assert buckets(np.array(motion, float)).tolist() == wanted


def test_buckets_use_the_whole_range_whatever_the_scale():
    motion = np.random.default_rng(0).lognormal(0, 3, 2001)
    ids = buckets(motion)
    assert (ids.min(), np.median(ids), ids.max()) == (0, 127, 255)
    np.testing.assert_array_equal(np.argsort(motion), np.lexsort((motion, ids)))
    np.testing.assert_array_equal(buckets(motion**2 * 7), ids)


def test_rank_is_among_those_that_are_kept():
    config = CurateConfig(stages=(Motion(), Text()), rules=(STILL,), told=("text",))
    scores = [{"motion": m, "text": t} for m, t in ((0, 1), (9, 0), (0, 0), (4, 2), (0, 3))]
    found = judged(config, *[{k: float(v) for k, v in s.items()} for s in scores])
    assert [clip["told"] for clip in found.clips] == [
        {}, {"text": 0.0, "motion_bucket_id": 191.0}, {}, {"text": 2.0, "motion_bucket_id": 64.0},
        {},
    ]  # fmt: skip
    assert found.funnel == [("still", 3), ("copy", 0)]


@pytest.mark.parametrize("missing", [{}, {"text": float("nan")}, {"text": float("inf")}])
def test_a_clip_that_lacks_a_number_is_rejected_and_says_so(missing):
    told = CurateConfig(stages=(Motion(), Text()), rules=(STILL,), told=("text",))
    scores = {"motion": 5.0} | missing, {"motion": 3.0, "text": 1.0}, {"motion": 0.0} | missing
    found = judged(told, *scores)
    assert [clip["rejected"] for clip in found.clips] == ["untold", "", "still"]
    assert found.funnel == [("still", 1), ("untold", 1), ("copy", 0)]
    assert found.kept[0]["told"] == {"text": 1.0, "motion_bucket_id": 127.0}
    plain = judged(CurateConfig(stages=told.stages, rules=(STILL,)), *scores)
    assert [clip["rejected"] for clip in plain.clips] == ["", "", "still"]


def test_without_motion_there_is_no_bucket(tmp_path):
    config = CurateConfig(stages=(Text(),), rules=(), told=("text",))
    found = judged(config, {"text": 1.0})
    assert found.kept[0]["told"] == {"text": 1.0}
    tables(found, tmp_path)
    assert b"motion_bucket_id" not in (tmp_path / "clips.parquet").read_bytes()


def test_what_no_stage_tells_is_refused_before_work_begins():
    there = "no stage tells; there are motion, text"
    for name in ("aesthetic", "frames", "motion_bucket_id"):
        config = CurateConfig(stages=(Motion(), Text()), rules=(), told=("text", name))
        with pytest.raises(Refusal, match=f"told asks for {name}, which {there}"):
            config.build()
    with pytest.raises(Refusal, match="Aesthetic needs --weights"):
        CurateConfig(stages=(Aesthetic(),), rules=(), told=("aesthetic",)).build()


def test_it_can_be_asked_for_once_all_was_looked_at():
    assert settings(CurateConfig(told=("text",))) == settings(CurateConfig())
