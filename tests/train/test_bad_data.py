"""A run over damaged data: it ends at the first bad record, unless the config lets some pass."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from data.made import shards
from train import tiny

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.shard import ShardedClips
from vdm_jax.data.transform import Windows
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.loop import train

BAD = "c0"


@pytest.fixture
def config(tmp_path) -> TrainConfig:
    """Sixteen samples, one of them damaged: two steps of eight meet it."""
    folder = shards(tmp_path / "data", [(2, 8, 8)] * 16, shard_bytes=2**20)
    (path,) = (folder / "train").iterdir()
    data = bytearray(path.read_bytes())
    data[data.index(f'"clip": "{BAD}"'.encode()) + 200] ^= 255
    path.write_bytes(data)
    clips = ShardedClips(
        directory=str(folder), split="train", windows=Windows(num_frames=2), height=8, width=8
    )
    return replace(tiny.config(), data=clips, batch_size=8, steps=2)


def test_bad_records_end_a_run_unless_they_may_be_and_are_named_in_its_log(config, tmp_path):
    run: Path = tmp_path / "run"
    with pytest.raises(Refusal, match=rf"\({BAD}\)"):
        train(config, run)
    assert train(replace(config, max_bad=1), run)
    records = (run / "metrics.jsonl").read_text().splitlines()
    assert len({json.loads(record)["step"] for record in records}) == 2
    said = [line for line in (run / "log.txt").read_text().splitlines() if BAD in line]
    assert len(said) == 1 and "1 of at most 1" in said[0]
