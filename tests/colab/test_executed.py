"""Each notebook runs from top to bottom, in an environment that its own install cell made."""

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
from colab.books import executed, said
from safetensors.numpy import load_file

from vdm_jax.core import video
from vdm_jax.data.shard import Shards

pytestmark = pytest.mark.long


def frames(path: Path, count: int) -> np.ndarray:
    clip = video.read(path).frames
    assert len(clip) == count and clip.std() > 0
    return clip


def clean(book: Any, lines: int = 60) -> str:
    """What was printed: not much, and no trace of trouble."""
    text = said(book)
    assert not re.search(r"warning|traceback|error:", text, re.IGNORECASE), text
    assert len(text.splitlines()) <= lines, text
    return text


def players(book: Any) -> int:
    """How many videos the pages of the cells play."""
    shown = (out for cell in book.cells for out in cell.get("outputs", ()))
    pages = (out.data.get("text/html", "") for out in shown if out.output_type == "display_data")
    return sum(page.count("<video") for page in pages)


def test_first_video(tmp_path):
    book = executed("first_video", tmp_path, smoke="1", steps="6", caption="a red circle moves up")
    made = tmp_path / "work" / "results" / "first_video_smoke"
    text = clean(book)
    assert "the truth itself" in text and "step 6/6" in text
    frames(made / "mine.mp4", 4)
    assert len(list((made / "run" / "samples").glob("step_*.mp4"))) == 3 and players(book) == 4
    assert (made / "run" / "report.html").is_file()


def test_animate_a_picture(tmp_path):
    size = {"num_frames": "3", "num_steps": "2", "height": "16", "width": "16"}
    book = executed("animate_a_picture", tmp_path, smoke="1", motion_bucket_id="60", **size)
    made = tmp_path / "work" / "results" / "animate_a_picture_smoke"
    assert "all frames will be noise" in clean(book)
    motions = [frames(made / f"motion_{m}.mp4", 3) for m in (20, 127, 220)]
    guided = [frames(made / f"guidance_{s}.mp4", 3) for s in (1.5, 3.0, 5.0)]
    for some in (motions, guided):
        assert all((one != other).any() for one, other in combinations(some, 2))
    frames(made / "video.mp4", 3)
    assert players(book) == 7


def test_finetune_svd(tmp_path):
    book = executed("finetune_svd", tmp_path, smoke="1", steps="2", keep_on_drive="0")
    made = tmp_path / "work" / "results" / "finetune_svd_smoke"
    text = clean(book)
    assert "step 2/2" in text and "compiled the training step" in text
    frames(made / "generated.mp4", 3)
    assert any(np.abs(array).max() > 0 for array in load_file(made / "lora_2.safetensors").values())
    steps = [cell.source for cell in book.cells if cell.cell_type == "markdown"]
    named = re.findall(r"^## \d\. (.*)$", "\n".join(steps), re.MULTILINE)
    assert named == ["Download", "Load", "Fine-tune", "Sampling function", "Generate"]


def test_curate(tmp_path):
    book = executed("curate", tmp_path, size="96")
    clips = tmp_path / "work" / "results" / "curate" / "clips"
    text = clean(book)
    seen = parquet.read_table(clips / "clips.parquet").to_pylist()
    kept = [clip for clip in seen if not clip["rejected"]]
    assert f"seen: {len(seen)} clips of 4 files" in text and 0 < len(kept) < len(seen)
    stored = [Shards(clips, split).infos for split in ("train", "test")]
    assert sum(map(len, stored)) == len(kept)
    assert (clips / "report.html").is_file() and players(book) >= 3


def test_evaluate(tmp_path):
    book = executed("evaluate", tmp_path, smoke="1", num_clips="8")
    made = tmp_path / "work" / "results" / "evaluate_smoke" / "report"
    text = clean(book)
    assert "copy the first frame" in text and "extrapolate the first two frames" in text
    drawn = sorted((made / "clips" / "model").glob("*.mp4"))
    assert len(drawn) == 8
    assert all(len(frames(path, 4)) == 4 for path in drawn)
    assert (made / "report.html").is_file() and (made / "results.json").is_file()
