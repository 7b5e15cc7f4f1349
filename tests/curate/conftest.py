"""Planted videos, curated once for all tests of this folder."""

import os

import pytest
from curate import planted
from curate.runs import run

CONFIG = """
from vdm_jax.curate.captions import Captions, Template
from vdm_jax.curate.config import RULES, CurateConfig
from vdm_jax.curate.rules import Rule

def config():
    plain = CurateConfig()
    return CurateConfig(
        size=96, span=2.0, rules=(Rule("static", "motion > 2"), *RULES[1:]), told=("text",),
        stages=(*plain.stages, Captions(writers=(Template(),))),
    )
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
