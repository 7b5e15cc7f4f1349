"""What is wrong with what the user gives is said before anything is read, and nothing is lost."""

import errno
import json
import os
import resource
import shutil
import signal
import sqlite3

import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal, Unavailable
from vdm_jax.curate.captions import Captions
from vdm_jax.curate.config import CurateConfig
from vdm_jax.curate.curation import Curation
from vdm_jax.curate.imported import Imported
from vdm_jax.curate.inputs import listed
from vdm_jax.curate.ledger import FILE, Ledger
from vdm_jax.curate.local import Local
from vdm_jax.curate.motion import Motion
from vdm_jax.curate.quality import Quality
from vdm_jax.curate.rules import Rule
from vdm_jax.data.shard import Writer


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ("percentile(motion, 150) > 1", "cannot be computed"),
        ("not motion", "neither true nor false"),
        ("motion and text", "neither true nor false"),
        ("-(motion > 1)", "cannot be computed"),
        ("percentile(text, motion) > 1", "cannot be computed"),
        ("percentile(5, 50) > 1", "cannot be computed"),
        ("not " * 5000 + "motion > 1", "expression|computed"),
    ],
)
def test_rules_that_mean_nothing_are_refused_before_any_clip_is_seen(keep, said):
    with pytest.raises(Refusal, match=said):
        Rule("odd", keep).check({"motion", "text"})


def test_a_rule_of_the_whole_holds_for_every_clip():
    columns = {"motion": np.array([1.0, 2.0, 6.0])}
    assert Rule("x", "percentile(motion, 50) > 1").holds(columns).tolist() == [True] * 3
    whole = Rule("x", "percentile(motion, 50) > 3 or motion > 5").holds(columns)
    assert whole.tolist() == [False, False, True]


@pytest.mark.parametrize("reason", ["", " ", "short", "fade", "copy", "same", "untold", "kept"])
def test_a_rule_has_a_word_of_its_own(reason):
    with pytest.raises(Refusal, match="reason"):
        CurateConfig(rules=(Rule(reason, "motion > 1"),))
    with pytest.raises(Refusal, match="'twice' is the reason of two rules"):
        CurateConfig(rules=(Rule("twice", "motion > 1"), Rule("twice", "text < 1")))


@pytest.mark.parametrize("stage", [Motion, Quality])
def test_a_stage_that_looks_at_nothing_is_refused(stage):
    with pytest.raises(Refusal, match=f"{stage.__name__}: side must be above 0, got 0"):
        stage(side=0)


def table(folder, name, text):
    (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    return {file.name: (file.caption, file.reason) for file in listed(folder / name)[1]}


def test_tables_say_what_they_say(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.mp4").write_bytes(b"x")
    (tmp_path / "b.txt").write_text("\ufeffbeside", encoding="utf-8")
    both = {"a.mp4": ("a man, in a car", ""), "b.mp4": ("beside", "")}
    assert table(tmp_path, "l.txt", "a.mp4\ta man, in a car\r\nb.mp4\n") == both
    assert table(tmp_path, "l.csv", "\ufefffile\r\na.mp4\r\n")["a.mp4"] == ("", "")
    rows = [{"file": "a.mp4", "caption": "a man,\n in a car"}, {"file": "b.mp4"}]
    assert table(tmp_path, "l.jsonl", "\ufeff" + "\n".join(map(json.dumps, rows))) == both
    odd = json.dumps({"file": "a.mp4", "caption": "bad \ud800 end"})
    assert table(tmp_path, "l.jsonl", odd)["a.mp4"] == ("", "caption")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,caption\na.mp4,a man, in a car\n", "row 1 has more values than there are columns"),
        ("file,caption\na.mp4,one\na.mp4,two\n", "'a.mp4' twice"),
        ("file,caption\n../a.mp4,one\n", "leads out"),
    ],
)
def test_tables_that_would_lose_something_are_refused(tmp_path, text, said):
    with pytest.raises(Refusal, match=said):
        table(tmp_path, "l.csv", text)


@pytest.mark.parametrize("row", ['{"file": null}', '{"file": "a.mp4", "caption": ["x"]}'])
def test_what_is_no_text_is_refused(tmp_path, row):
    with pytest.raises(Refusal, match="must be texts"):
        table(tmp_path, "l.jsonl", row)


def test_a_refused_command_leaves_nothing_behind(tmp_path):
    for source in (tmp_path / "none", tmp_path / "out" / "in"):
        with pytest.raises(Refusal, match="--input"):
            Curation(config=CurateConfig(), source=source, output=tmp_path / "out").check()
    assert not (tmp_path / "out").exists()


def test_a_second_start_in_the_same_output_waits_for_another_day(tmp_path):
    (tmp_path / "in").mkdir()
    curation = Curation(config=CurateConfig(), source=tmp_path / "in", output=tmp_path / "out")
    curation.check()
    said = pytest.raises(Unavailable, match="another start is at work")
    with curation.alone(), said, curation.alone():
        pass
    with curation.alone():
        pass


def test_a_ledger_in_use_is_no_damaged_one(tmp_path):
    Ledger(tmp_path, {"a": 1}).close()
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    ledger = None
    try:
        with pytest.raises(Unavailable, match="locked"):
            ledger = Ledger(tmp_path, {"a": 1})
            ledger.add("x", {})
    finally:
        other.close()
        if ledger is not None:
            ledger.close()


def test_a_disk_that_takes_no_more_is_not_the_fault_of_a_clip(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 64, 3), np.uint8)
    try:
        with pytest.raises(Unavailable, match=f"cannot be written.*{os.strerror(errno.EFBIG)}"):
            writer = Writer(tmp_path, "train")
            for number in range(8):
                writer.add(f"c{number}", noise, 24, "")
            writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


KILLER = """
import os
import signal
from pathlib import Path

class Once:
    def caption(self, clip):
        once = Path(__file__).with_name("once")
        if not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "fine"
"""


def test_a_worker_that_something_else_ends_costs_no_file(corpus, tmp_path, monkeypatch):
    """As the kernel does that runs out of memory."""
    (tmp_path / "in").mkdir()
    shutil.copy(corpus.folder / "a_good0.mp4", tmp_path / "in")
    (tmp_path / "killer.py").write_text(KILLER)
    monkeypatch.syspath_prepend(tmp_path)
    writer = Imported(name="once", make="killer:Once")
    config = CurateConfig(size=64, stages=(Captions(writers=(writer,)),), rules=())
    curation = Curation(config=config, source=tmp_path / "in", output=tmp_path / "out")
    curation.check()
    found = curation.run(Local(workers=1), lambda *_: None)
    assert (tmp_path / "once").exists()
    assert [file["reason"] for file in found.files] == [""]
    assert [clip["caption"] for clip in found.kept] == ["fine"]
