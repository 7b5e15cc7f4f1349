"""The stream is the promised one, sample by sample, whoever reads it and however often it changes.

The order is computed a second time here, from Grain's permutation of one epoch.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data.made import shards
from grain._src.python.experimental.index_shuffle.python import index_shuffle_module

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.buckets import Bucket, Buckets
from vdm_jax.data.loader import Loader, Reading
from vdm_jax.data.order import Grouped
from vdm_jax.data.shard import ShardedClips, ShardFolder
from vdm_jax.data.transform import RandomCrop, Windows

SEED, BATCH = 11, 6
READERS = [(0, 1), (2, 1), (0, 3), (1, 2), (1, 1)]  # (worker processes, processes)


def permutation(length: int, seed: int, epoch: int) -> list[int]:
    word = (seed + epoch) % 2**32
    return [
        index_shuffle_module.index_shuffle(index=i, max_index=length - 1, seed=word, rounds=4)
        for i in range(length)
    ]


def words(count: int) -> list[int]:
    return [int(word) for word in np.random.SeedSequence(SEED).generate_state(count)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """Clips of three shapes; as windows of 2 frames they are 31 samples."""
    sizes = [(9, 16, 32), (13, 24, 24), (7, 32, 16), (10, 16, 32), (12, 24, 24), (11, 32, 16)]
    return shards(tmp_path_factory.mktemp("mixed"), [*sizes, (5, 16, 32)])


def segments(source, count: int, batches: int) -> list[list[tuple[str, bytes]]]:
    """Global batches, `batches` of them from each of `count` readers, each going on from the state
    that the one before left."""
    state, delivered = None, []
    for workers, processes in READERS[:count]:
        each = BATCH // processes
        loaders = [
            Loader(
                source,
                batch_size=BATCH,
                seed=SEED,
                rows=range(p * each, (p + 1) * each),
                reading=Reading(workers=workers, threads=2),
            )
            for p in range(processes)
        ]
        for loader in loaders:
            if state is not None:
                loader.restore(state)
        for _ in range(batches):
            parts = [next(loader) for loader in loaders]
            pairs = [zip(part["key"], part["video"], strict=True) for part in parts]
            delivered.append([(key, video.tobytes()) for pair in pairs for key, video in pair])
        state = loaders[-1].state()
        assert all(loader.state() == state for loader in loaders)
        for loader in loaders:
            loader.close()
    return delivered


def test_five_ways_of_reading_one_after_the_other_give_the_promised_stream(mixed):
    part = ShardedClips(
        directory=str(mixed), split="train", windows=Windows(num_frames=2), height=16, width=16
    )
    source = part.build()
    total, length = len(READERS) * 3 * BATCH, len(source)
    (seed,) = words(1)
    epochs = -(-total // length)
    order = [i for epoch in range(epochs) for i in permutation(length, seed, epoch)][:total]
    got = [row for batch in segments(source, len(READERS), 3) for row in batch]
    assert [key for key, _ in got] == [source[i]["key"] for i in order]
    assert [video for _, video in got] == [source[i]["video"].tobytes() for i in order]
    for epoch in range(total // length):
        seen = Counter(key for key, _ in got[epoch * length : (epoch + 1) * length])
        assert len(seen) == length == 31 and set(seen.values()) == {1}


def buckets_of(mixed: Path) -> Buckets:
    return Buckets(
        clips=ShardFolder(directory=str(mixed), split="train"),
        buckets=(Bucket(2, 8, 16), Bucket(2, 16, 8), Bucket(2, 12, 12)),
        crop=RandomCrop(),
    )


def test_batches_of_buckets_are_the_promised_ones_too(mixed):
    source = buckets_of(mixed).build()
    sizes = source.groups
    assert sum(sizes) == len(source) == 31 and len(sizes) == 3
    full = [size // BATCH for size in sizes]
    first, *seeds = words(len(sizes) + 1)
    promised = []
    for epoch in range(4):
        slots = [(g, j) for g, count in enumerate(full) for j in range(count)]
        orders = [permutation(n, s, epoch) for n, s in zip(sizes, seeds, strict=True)]
        for slot in permutation(len(slots), first, epoch):
            g, j = slots[slot]
            rows = orders[g][j * BATCH : (j + 1) * BATCH]
            promised.append([sum(sizes[:g]) + row for row in rows])
    batches = segments(source, 3, sum(full))
    assert [[key for key, _ in batch] for batch in batches] == [
        [source.key(i) for i in rows] for rows in promised[: len(batches)]
    ]


def test_an_epoch_of_buckets_leaves_out_less_than_a_batch_of_each():
    order, sizes = Grouped((13, 4, 20), 4, seed=3), (13, 4, 20)
    epochs = [[order[e * 36 + p] for p in range(36)] for e in range(3)]
    for epoch in epochs:
        assert len(set(epoch)) == 36
        for first, size in zip((0, 13, 17), sizes, strict=True):
            inside = [i for i in epoch if first <= i < first + size]
            assert len(inside) == size - size % 4
    assert len({frozenset(range(37)) - set(epoch) for epoch in epochs}) > 1
    for position in range(0, 72, 4):
        assert {order[position + row] in order.peers(position) for row in range(4)} == {True}
    with pytest.raises(Refusal, match="no bucket fills a batch of 21; they hold 13, 4, 20"):
        Grouped(sizes, 21, seed=0)


def test_what_changes_buckets_is_refused_by_name(mixed):
    def loader(part: Buckets, **more) -> Loader:
        return Loader(part.build(), **{"batch_size": BATCH, "seed": SEED} | more)

    part = buckets_of(mixed)
    state = loader(part).state()
    loader(part).restore(state)
    for other, named in (
        (loader(replace(part, buckets=part.buckets[:2])), "groups was"),
        (loader(replace(part, every=2)), "source has changed"),
        (loader(part, seed=1), "seed was 11, now 1"),
        (loader(part, batch_size=3), "batch_size was 6, now 3"),
    ):
        with pytest.raises(Refusal, match=named):
            other.restore(state)
