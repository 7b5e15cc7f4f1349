"""A whole curation of planted videos: the verdicts, what it leaves, kills on the way, bad files."""

import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from curate.runs import fingerprint

from vdm_jax.core import video
from vdm_jax.core.refusal import Refusal
from vdm_jax.curate.config import CurateConfig
from vdm_jax.curate.curation import Curation
from vdm_jax.curate.local import Local
from vdm_jax.curate.rules import Rule
from vdm_jax.data.captions import Share
from vdm_jax.data.shard import ShardedClips, verify
from vdm_jax.data.transform import Windows


def rows(output, name="clips"):
    return pq.read_table(output / f"{name}.parquet").to_pylist()


def test_what_was_planted_is_found(corpus, curated):
    clips = rows(curated)
    wrong = {
        clip["key"]: clip["rejected"]
        for clip in clips
        if clip["rejected"] not in corpus.expected.get(clip["file"], {"", "short", "fade"})
    }
    assert not wrong
    assert {clip["file"] for clip in clips} >= set(corpus.expected)


def test_copies_point_to_what_they_copy(curated):
    copies = {(clip["key"], clip["copy_of"]) for clip in rows(curated) if clip["copy_of"]}
    assert copies == {
        (f"z_copy{n}.mp4:{start:07d}", f"a_good{n}.mp4:{like:07d}")
        for n in range(3)
        for start, like in ((0, 0), (29, 30))
    }


def test_each_bad_file_is_one_row_with_a_reason(curated):
    reasons = {row["file"]: row["reason"] for row in rows(curated, "files") if row["reason"]}
    assert reasons == {
        "cut_short.mp4": "cut_short",
        "empty.mp4": "empty",
        "link.mp4": "link",
        "list.mp4": "no_video",
        "pipe.mp4": "not_regular",
    }


def test_training_reads_what_was_kept(curated, corpus):
    manifest = verify(curated)
    kept = [clip for clip in rows(curated) if not clip["rejected"]]
    listed = [c for shards in manifest.splits.values() for shard in shards for c in shard.clips]
    assert sorted(clip.key for clip in listed) == sorted(clip["key"] for clip in kept)
    source = ShardedClips(
        directory=str(curated), split="train", windows=Windows(num_frames=8), height=96, width=160
    ).build()
    samples = map(source.__getitem__, range(len(source)))
    sample = next(s for s in samples if s["key"].startswith("a_good0.mp4:"))
    assert sample["caption"] == "a disc over a coloured field"
    name, _, start = sample["key"].rpartition(":")
    truth = video.read(corpus.folder / name.partition(":")[0], stop=8, size=(96, 170)).frames
    difference = sample["video"].astype(int) - truth[:, :, 5:165]
    assert start == "0" and np.abs(difference).mean() < 3


def test_captions_and_numbers_of_a_clip_go_with_it(curated):
    kept = {clip["key"]: clip for clip in rows(curated) if not clip["rejected"]}
    manifest = verify(curated)
    listed = [c for shards in manifest.splits.values() for shard in shards for c in shard.clips]
    for clip in listed:
        row = kept[clip.key]
        assert clip.captions == dict(row["captions"]) and "template" in clip.captions
        assert clip.caption == next(iter(clip.captions.values()))
        assert clip.told == {name: row[name] for name in ("text", "motion_bucket_id")}
    assert [*listed[0].captions] == ["sidecar", "template"]
    by_motion = sorted(kept.values(), key=lambda row: row["motion"])
    ids = [row["motion_bucket_id"] for row in by_motion]
    even = 255 * (np.arange(len(kept)) + 0.5) / len(kept)
    np.testing.assert_allclose(ids, even, atol=0.5)  # no two clips move alike
    assert all(r["motion_bucket_id"] is None for r in rows(curated) if r["rejected"])


def test_training_draws_the_captions_of_what_was_curated(curated):
    source = ShardedClips(
        directory=str(curated), split="train", windows=Windows(num_frames=8), height=96, width=160,
        captions=(Share(writer="sidecar", share=0.5), Share(writer="template", share=0.5)),
    ).build()  # fmt: skip
    rng, first = np.random.default_rng(0), source[0]
    assert first["key"] == "a_good0.mp4:0000000:0" and first["motion_bucket_id"] > 0
    said = {source.draw(0, rng)["caption"] for _ in range(20)}
    assert len(said) == 2 and "a disc over a coloured field" in said
    last = len(source) - 1
    assert all(source.draw(last, rng)["caption"].startswith("A video of") for _ in range(5))


def test_the_report_shows_the_funnel_and_what_was_rejected(curated):
    text = (curated / "report.html").read_text()
    for words in ("seen", "static", "copy: 6 clips", "cut_short.mp4", "data:image/webp;base64"):
        assert words in text


def test_a_second_start_does_not_write_over_the_first(corpus, config, curated):
    curation = Curation(config=CurateConfig(), source=corpus.folder, output=curated)
    with pytest.raises(Refusal, match="holds shards already"):
        curation.check()


def test_other_settings_do_not_go_on_where_these_ended(corpus, tmp_path):
    small = CurateConfig(size=64, stages=(), rules=())
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(corpus.folder / "a_good0.mp4", source)
    first = Curation(config=small, source=source, output=tmp_path / "out")
    first.check()
    first.run(Local(workers=1), lambda *_: None)
    other = replace(first, config=replace(small, size=80, rules=(Rule("x", "frames > 9"),)))
    with pytest.raises(Refusal, match="begun with other size"):
        other.run(Local(workers=1), lambda *_: None)


@pytest.mark.long
def test_kills_lose_and_double_nothing(corpus, config, curated, tmp_path):
    assert_kills_change_nothing(corpus, config, curated, tmp_path, 4)


@pytest.mark.slow
def test_thirty_kills_lose_and_double_nothing(corpus, config, curated, tmp_path):
    assert_kills_change_nothing(corpus, config, curated, tmp_path, 30)


def assert_kills_change_nothing(corpus, config, curated, folder, count):
    """One curation after the other is killed at random moments of all its lives."""
    rng, kills, number = random.Random(0), 0, 0
    while kills < count:
        output, number = folder / f"out{number}", number + 1
        line = [
            sys.executable, "-m", "vdm_jax.curate", "--input", str(corpus.folder),
            "--output", str(output), "--config", str(config),
        ]  # fmt: skip
        while not (output / "manifest.json").exists():
            patience = rng.uniform(1, 20) if kills < count else None
            kills += killed(line, patience)
        assert fingerprint(output) == fingerprint(curated), f"after {kills} kills"


def killed(line, patience):
    """Whether it was still alive after so many seconds, and so was killed, with its workers."""
    process = subprocess.Popen(
        line, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert process.wait(patience) == 0
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
