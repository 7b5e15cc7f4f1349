"""Records that cannot be read: by default the first ends the stream; some may be passed over."""

import hashlib
import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from data.made import shards

from vdm_jax.core.refusal import Refusal, Unavailable
from vdm_jax.data.buckets import Bucket, Buckets
from vdm_jax.data.loader import Loader, Reading
from vdm_jax.data.shard import ShardedClips, ShardFolder
from vdm_jax.data.transform import Windows

BATCH, BAD = 4, ("c1", "c5")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    """Twelve clips of three frames, two of which do not match their checksum any more."""
    folder = shards(tmp_path_factory.mktemp("damaged"), [(3, 16, 16)] * 12, shard_bytes=2**20)
    (path,) = (folder / "train").iterdir()
    data = bytearray(path.read_bytes())
    for key in BAD:
        at = data.index(f'"clip": "{key}"'.encode()) + 200
        data[at] ^= 255
    path.write_bytes(data)
    return folder


def opened(folder: Path, max_bad: int = 5, **more) -> Loader:
    part = ShardedClips(
        directory=str(folder), split="train", windows=Windows(num_frames=3), height=16, width=16
    )
    return Loader(part.build(), batch_size=BATCH, seed=2, max_bad=max_bad, **more)


def keys(loader: Loader, batches: int) -> list[str]:
    return [key for _ in range(batches) for key in next(loader)["key"]]


def test_a_bad_record_is_replaced_counted_and_named_once(damaged, caplog):
    loader = opened(damaged)
    whole = [f"c{loader._order[g]}:0" for g in range(36)]
    got = keys(loader, 9)
    replaced = [g for g, key in enumerate(whole) if key[:-2] in BAD]
    assert len(replaced) == 6
    for g, (key, wanted) in enumerate(zip(got, whole, strict=True)):
        assert (key == wanted) == (g not in replaced) and key[:-2] not in BAD
    assert len({got[g] for g in replaced}) > 1
    assert sorted(loader.bad) == [1, 5]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "1 of at most 5" in said[0] and "2 of at most 5" in said[1]
    assert {key for key in BAD for line in said if f"({key})" in line} == set(BAD)


def test_the_replacement_does_not_depend_on_who_reads_when(damaged):
    """Nor on how often the stream was begun anew."""
    expected = keys(opened(damaged), 9)
    assert keys(opened(damaged, reading=Reading(threads=1, batches_ahead=0)), 9) == expected
    parts = [opened(damaged, rows=rows) for rows in ((0, 1), (2, 3))]
    assert [key for _ in range(9) for part in parts for key in next(part)["key"]] == expected
    state = opened(damaged).state() | {"position": 4 * BATCH}
    for reading in (Reading(), Reading(workers=1, threads=1)):
        later = opened(damaged, reading=reading)
        later.restore(state)
        assert keys(later, 5) == expected[4 * BATCH :]
        assert sorted(later.bad) == [1, 5]
        later.close()


@pytest.mark.parametrize("max_bad", [0, 1])
def test_one_too_many_ends_the_stream(damaged, max_bad: int):
    loader = opened(damaged, max_bad)
    with pytest.raises(Refusal, match=r"record \d \(c[15]\)"):
        keys(loader, 9)
    assert loader.position < 36
    with pytest.raises(Refusal, match="max_bad"):
        opened(damaged, -1)


def test_bad_records_count_over_the_whole_stream():
    moods = {n: [Refusal(f"number {n} is bad") for _ in range(99)] for n in (2, 9, 14)}
    loader = Loader(Moody(moods), batch_size=1, seed=0, max_bad=2)
    with pytest.raises(Refusal, match="3 bad records, 2 may be: number"):
        keys(loader, 16)
    assert len(loader.bad) == 3 and 0 < loader.position < 16


def test_a_replacement_is_of_the_same_bucket(tmp_path: Path):
    folder = shards(tmp_path, [(2, 16, 16)] * 6 + [(2, 16, 32)] * 6, shard_bytes=2**20)
    (path,) = (folder / "train").iterdir()
    data = bytearray(path.read_bytes())
    for key in ("c0", "c7", "c8"):
        data[data.index(f'"clip": "{key}"'.encode()) + 200] ^= 255
    path.write_bytes(data)
    buckets = (Bucket(2, 16, 16), Bucket(2, 16, 32))
    part = Buckets(clips=ShardFolder(directory=str(folder), split="train"), buckets=buckets)
    loader = Loader(part.build(), batch_size=3, seed=0, max_bad=3)
    shapes = [next(loader)["video"].shape for _ in range(8)]
    assert set(shapes) == {(3, 2, 16, 16, 3), (3, 2, 16, 32, 3)}
    assert sorted(loader.bad) == [0, 7, 8]


@dataclass
class Moody:
    """Sixteen samples; `moods` says how often each is refused before it is read."""

    moods: dict[int, list[Exception]] = field(default_factory=dict)
    gate: threading.Event = field(default_factory=threading.Event)
    slow: int | None = None

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(b"moody").hexdigest()

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict:
        if index == self.slow:
            self.gate.wait(20)
        if self.moods.get(index):
            raise self.moods[index].pop()
        return {"video": np.full((1, 2, 2, 3), index, np.uint8), "key": str(index)}

    def key(self, index: int) -> str:
        return f"sample {index}"


def test_what_refuses_once_is_not_bad():
    loader = Loader(Moody({3: [Refusal("a hiccup")]}), batch_size=16, seed=0, max_bad=2)
    assert sorted(map(int, next(loader)["key"])) == list(range(16))
    assert loader.bad == {}


def test_what_is_away_is_not_bad():
    moods = {3: [Unavailable("the disk is away")]}
    with pytest.raises(Unavailable, match="the disk is away"):
        next(Loader(Moody(moods), batch_size=16, seed=0, max_bad=2))


def test_a_late_batch_is_spoken_of_by_what_it_waits_for(caplog):
    source = Moody(slow=7)
    loader = Loader(source, batch_size=16, seed=0, reading=Reading(patience=0.3, threads=2))
    threading.Timer(1.2, source.gate.set).start()
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        next(loader)
    waited = time.monotonic() - began
    said = [record.getMessage() for record in caplog.records]
    assert waited > 1 and 2 <= len(said) <= waited / 0.3
    assert all("waiting for data since" in line for line in said)
    # one may be said when the sample is there and the batch is not yet
    assert all(line.endswith("for samples sample 7") for line in said[:2])
    caplog.clear()
    next(loader)
    assert not caplog.records


@pytest.mark.parametrize("groups", [None, [13, 3]])
def test_a_source_or_bucket_that_is_all_bad_ends_the_stream(groups: list[int] | None):
    """Though fewer records are bad than may be."""
    bad = range(16) if groups is None else range(13, 16)
    source = Moody({n: [Refusal(f"number {n} is bad") for _ in range(99)] for n in bad})
    if groups is not None:
        source.groups = groups
    loader = Loader(source, batch_size=3, seed=0, max_bad=50)
    with pytest.raises(Refusal, match=f"all {len(bad)} samples that may stand here are bad: numb"):
        keys(loader, 6)


def test_peers_are_tried_in_the_order_they_are_drawn():
    source = Moody({n: [Refusal("bad") for _ in range(99)] for n in range(12)})
    loader = Loader(source, batch_size=1, seed=3, max_bad=50)
    expected = []
    for g in range(16):
        rng, record = np.random.default_rng((3, g, 1)), loader._order[g]
        while record < 12:
            record = int(rng.integers(16))
        expected.append(str(record))
    assert keys(loader, 16) == expected
