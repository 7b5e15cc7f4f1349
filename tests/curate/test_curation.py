"""A whole curation of planted videos: the verdicts, what it leaves, kills on the way, bad files."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from curate import planted

from vdm_jax.core import command, video
from vdm_jax.core.refusal import Refusal
from vdm_jax.curate import __main__ as curate
from vdm_jax.curate.config import CurateConfig
from vdm_jax.curate.curation import Curation
from vdm_jax.curate.local import Local
from vdm_jax.curate.rules import Rule
from vdm_jax.data.shard import ShardedClips, verify
from vdm_jax.data.transform import Windows

CONFIG = """
from dataclasses import replace
from vdm_jax.curate.config import RULES, CurateConfig
from vdm_jax.curate.rules import Rule

def config():
    return CurateConfig(size=96, span=2.0, rules=(Rule("static", "motion > 2"), *RULES[1:]))
"""


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Three of each kind of video, and files that are none."""
    folder = tmp_path_factory.mktemp("planted")
    made = planted.corpus(folder, each=3)
    whole = (folder / "joined0.mp4").read_bytes()
    (folder / "cut_short.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "list.mp4").write_text("#EXTM3U\nhttp://127.0.0.1:9/clip.ts\n")
    (folder / "link.mp4").symlink_to(folder / "joined0.mp4")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "a_good0.txt").write_text("a disc over a coloured field\n")
    return made


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="session")
def curated(corpus, config, tmp_path_factory):
    output = tmp_path_factory.mktemp("curated") / "clips"
    run(corpus.folder, output, config)
    return output


def run(source, output, config):
    with pytest.raises(SystemExit) as end:
        command.run(
            curate.main,
            ["--input", str(source), "--output", str(output), "--config", str(config)],
        )
    assert end.value.code == 0


def rows(output, name="clips"):
    return pq.read_table(output / f"{name}.parquet").to_pylist()


def test_what_was_planted_is_found(corpus, curated):
    clips = rows(curated)
    wrong = {
        clip["key"]: clip["rejected"]
        for clip in clips
        if clip["rejected"] not in ("short", "fade")
        and clip["rejected"] != corpus.expected.get(clip["file"], "")
    }
    assert not wrong
    assert {clip["file"] for clip in clips} >= set(corpus.expected)


def test_copies_point_to_what_they_copy(curated):
    copies = {clip["file"]: clip["copy_of"] for clip in rows(curated) if clip["copy_of"]}
    assert copies == {f"z_copy{n}.mp4": f"a_good{n}.mp4:0000000" for n in range(3)}


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
    sample = next(s for s in map(source.__getitem__, range(len(source))) if s["caption"])
    assert sample["caption"] == "a disc over a coloured field"
    name, _, start = sample["key"].rpartition(":")
    truth = video.read(corpus.folder / name.partition(":")[0], stop=8, size=(96, 170)).frames
    difference = sample["video"].astype(int) - truth[:, :, 5:165]
    assert start == "0" and np.abs(difference).mean() < 3


def test_the_report_shows_the_funnel_and_what_was_rejected(curated):
    text = (curated / "report.html").read_text()
    for words in ("seen", "static", "copy: 3 clips", "cut_short.mp4", "data:image/webp;base64"):
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


def fingerprint(output):
    """Hash of all that a curation leaves but its report, whose pictures name no bytes."""
    files = sorted(p for p in output.rglob("*") if p.is_file() and p.suffix != ".html")
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(output)).encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.mark.long
def test_kills_lose_and_double_nothing(corpus, config, curated, tmp_path):
    command_line = [
        sys.executable, "-m", "vdm_jax.curate", "--input", str(corpus.folder),
        "--output", str(tmp_path / "out"), "--config", str(config),
    ]  # fmt: skip
    rng, kills = random.Random(0), 0
    for _ in range(40):
        process = subprocess.Popen(
            command_line, start_new_session=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(rng.uniform(3, 12))
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            time.sleep(0.1)
    else:
        subprocess.run(command_line, check=True, capture_output=True)
    assert kills >= 1 and fingerprint(tmp_path / "out") == fingerprint(curated)
