"""The cost of reading: shards beside ArrayRecord alone, and the loader beside decoding alone.

    python tests/bench/loader.py

Clips of 96x160 are written as shards; windows of 16 frames are read from them at random, by one
thread, and three ways in turn: ArrayRecord's bytes alone, with the record checked and taken apart
(`data.record.apart`), and whole samples. Then the loader's samples a second, with threads and
with two worker processes, beside plain loops over the same samples in as many threads or processes:
the decode bound. Each figure is the best of several rounds, since other work on the machine only
ever makes them worse.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from vdm_jax.data.clips import Windowed
from vdm_jax.data.loader import Loader, Reading
from vdm_jax.data.record import RECORD_FRAMES, apart
from vdm_jax.data.shard import Manifest, Provenance, Records, Shards, Writer
from vdm_jax.data.transform import Windows

HEIGHT, WIDTH, FRAMES, BATCH = 96, 160, 16, 8
NOBODY = Provenance(title="bench", source="drawn", licence="CC0", credit="nobody")


def write(folder: Path, clips: int) -> None:
    """Textured clips of two records each, about as large as film."""
    rng = np.random.default_rng(0)
    writer = Writer(folder, "train")
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for n in range(clips):
        grain = rng.normal(0, 6, (HEIGHT, WIDTH, 3))
        waves = [90 * np.sin((x + y * (n % 5) + 3 * i) / 9)[..., None] for i in range(64)]
        frames = np.stack([(128 + wave + grain).clip(0, 255).astype(np.uint8) for wave in waves])
        writer.add(f"clip-{n}", frames, 24, "")
    Manifest(provenance=NOBODY, splits={"train": writer.close()}).save(folder)


def best(run: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def reads(folder: Path, count: int, rounds: int) -> dict[str, float]:
    """Seconds a record: ArrayRecord alone, through `Records`, and taken apart."""
    shards = Manifest.load(folder).split(folder, "train")
    clips = [(n, clip) for n, shard in enumerate(shards) for clip in shard.clips]
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 2, count).tolist()
    picks = [(*clips[int(rng.integers(len(clips)))], block) for block in blocks]
    options = "readahead_buffer_size:0,max_parallelism:0"
    readers = [
        ArrayRecordReader(str(folder / s.file), options, file_reader_buffer_size=2**16)
        for s in shards
    ]
    records = Records(folder, shards)

    def alone() -> None:
        for shard, clip, block in picks:
            readers[shard].read([clip.first_record + block])

    def ours() -> None:
        for shard, clip, block in picks:
            start = block * RECORD_FRAMES
            key, number = clip.key, clip.first_record + block
            records.read(shard, clip, number, lambda r, k=key, s=start: apart(r, k, s))

    ours(), alone()
    return {
        "ArrayRecord alone": best(alone, rounds) / count,
        "checked and taken apart": best(ours, rounds) / count,
    }


_SOURCE: list[Windowed] = []


def _begin(source: Windowed) -> None:
    _SOURCE.append(source)


def _read(index: int) -> int:
    return len(_SOURCE[0][index]["video"])


def rates(source: Windowed, batches: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Samples a second by (the loader, a plain loop over as many threads or processes)."""
    indices = np.random.default_rng(2).integers(0, len(source), batches * BATCH).tolist()
    with ThreadPoolExecutor(2) as threads:
        loop = lambda: list(threads.map(source.__getitem__, indices))  # noqa: E731
        told = {"2 threads": beside(source, Reading(threads=2), batches, loop, rounds)}
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(2, _begin, (source,)) as pool:  # which decode, and send nothing back
        loop = lambda: pool.map(_read, indices, chunksize=4)  # noqa: E731
        reading = Reading(threads=1, workers=2)
        told["2 workers"] = beside(source, reading, batches, loop, rounds)
    return told


def beside(
    source: Windowed, reading: Reading, batches: int, loop: Callable[[], object], rounds: int
) -> tuple[float, float]:
    """Both by turns, the best of each; what was read ahead meanwhile is used up first."""
    loader = Loader(source, batch_size=BATCH, seed=0, reading=reading)
    drained = 2 + 2 * reading.batches_ahead * max(1, reading.workers)  # kept here and there
    ours, bound = [], []
    loop()
    for _ in range(rounds):
        for _ in range(drained):
            next(loader)
        ours.append(best(lambda: [next(loader) for _ in range(batches)], 1))
        bound.append(best(loop, 1))
    loader.close()
    return batches * BATCH / min(ours), batches * BATCH / min(bound)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(folder, args.clips)
        size = sum(p.stat().st_size for p in folder.rglob("*.array_record"))
        print(f"{args.clips} clips, {size / 1e6:.0f} MB, {os.cpu_count()} cores\n")
        cost = reads(folder, 400, args.rounds)
        first = cost["ArrayRecord alone"]
        print(f"{'a record of 32 frames':<28}{'ms':>8}{'ratio':>8}   (at most 1.3)")
        for name, seconds in cost.items():
            print(f"{name:<28}{1e3 * seconds:>8.3f}{seconds / first:>8.2f}")
        source = Windowed(Shards(folder, "train"), Windows(num_frames=FRAMES), (HEIGHT, WIDTH))
        indices = np.random.default_rng(3).integers(0, len(source), 60).tolist()
        sample = best(lambda: [source[i] for i in indices], args.rounds) / len(indices)
        print(f"{'a sample, 16 frames decoded':<28}{1e3 * sample:>8.3f}{sample / first:>8.2f}\n")
        print(f"{'samples a second':<16}{'loader':>10}{'decoding':>10}{'part':>8}   (at least 0.8)")
        for name, (loader, bound) in rates(source, args.batches, args.rounds).items():
            print(f"{name:<16}{loader:>10.1f}{bound:>10.1f}{loader / bound:>8.2f}")


if __name__ == "__main__":
    main()
