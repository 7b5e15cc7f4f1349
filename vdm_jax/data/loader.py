"""Loader: an endless, shuffled, resumable stream of batches over any source, read through Grain.

Position is ONE number: how many samples the whole job has consumed. From it alone, with the seed,
follows which record comes next and how it is augmented; so a resumed run, or one on another number
of processes, sees exactly the same batches. A fingerprint travels with the position and names what
it belongs to: Grain's own state would accept another dataset, seed or batch size silently.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

import grain
import numpy as np
from absl import flags

from vdm_jax.core.refusal import Refusal, Unavailable
from vdm_jax.data.order import Grouped, Order, Shuffled
from vdm_jax.data.source import (
    Batch,
    InGroups,
    Keyed,
    Sample,
    Source,
    Transform,
    drawn,
    stack,
)

ORDER_VERSION = 1  # goes up when the mapping (seed, position) -> record changes
NAMED = 8  # samples that are named when a batch is late
LOG = logging.getLogger(__name__)

Bad = tuple[int, str]
"""A record that cannot be read, and why."""


class LoaderState(TypedDict):
    """What a checkpoint keeps: global samples consumed, and what they were drawn from (JSON)."""

    position: int
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How records are read ahead; changes speed and memory, never the data.

    threads: reading threads in each process (video decoding releases the interpreter lock).
    batches_ahead: batches decoded before they are asked for.
    workers: extra processes (each takes seconds to start); 0 reads in this process.
    patience: seconds after which it is said what a batch that is not there is waiting for.
    """

    threads: int = 4
    batches_ahead: int = 2
    workers: int = 0
    patience: float = 10.0

    def __post_init__(self) -> None:
        for name in ("threads", "batches_ahead", "workers"):
            if getattr(self, name) < 0:
                raise Refusal(f"{name} must be at least 0, got {getattr(self, name)}")

    def iterate(self, rows: "_Rows", local_batch_size: int) -> Iterator[tuple[Batch, list[Bad]]]:
        ahead = max(self.batches_ahead * local_batch_size, self.threads)
        options = grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=ahead)
        dataset = grain.MapDataset.source(rows).to_iter_dataset(options)
        if self.workers > 0:
            if not flags.FLAGS.is_parsed():  # Grain's workers read a flag; ours come by tyro
                flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=ahead)
            )
        return iter(dataset.batch(local_batch_size, drop_remainder=True, batch_fn=_gather))


class Loader:
    """An iterator of batches: records shuffled anew each epoch, without end.

    Sample g of the stream is `source[order[g]]`, where `order` strings together one permutation
    per epoch; every record appears once per epoch, and batches run across epoch boundaries. Where
    the source is in groups, batches are of one group each (`order.Grouped`). What is left to chance
    is drawn from a generator keyed by (seed, g). Batch k holds the samples
    [k*batch_size, (k+1)*batch_size); a process delivers those of its rows that its devices need.

    A record that is refused twice is bad. In its place stands another of its group, drawn from
    (seed, g) too: so the stream depends on which records are bad, but not on when or by whom that
    is found, as long as every process sees the same disk. Each process ends the stream, by the
    Refusal, where it has met more than `max_bad` bad records since it was opened, or where a whole
    group is bad.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        seed: int,
        rows: Sequence[int] | None = None,
        transform: Transform | None = None,
        reading: Reading | None = None,
        max_bad: int = 0,
    ):
        """batch_size counts the samples of all processes together.

        rows: which of a batch are delivered here, ascending; None: all of them.

        Raises Refusal for an empty source, an empty batch, or a negative seed.
        """
        _check(source, batch_size, seed)
        if max_bad < 0:
            raise Refusal(f"max_bad must be at least 0, got {max_bad}")
        self._order = _order(source, batch_size, seed)
        self._max_bad = max_bad
        self._bad: dict[int, str] = {}
        self._rows = tuple(range(batch_size) if rows is None else rows)
        assert self._rows and set(self._rows) <= set(range(batch_size))
        self._source = source
        self._transform = transform
        self._reading = reading or Reading()
        self._seed = seed
        self._batch_size = batch_size
        self._position = 0
        # built on first use, after any restore
        self._opened: _Rows | None = None
        self._batches: Iterator[tuple[Batch, list[Bad]]] | None = None

    @property
    def position(self) -> int:
        """Samples consumed so far by all processes together."""
        return self._position

    @property
    def batch_size(self) -> int:
        """Samples in a batch, over all processes."""
        return self._batch_size

    @property
    def bad(self) -> Mapping[int, str]:
        """The bad records that batches of this process met, and why they are bad."""
        return dict(self._bad)

    @property
    def fingerprint(self) -> str:
        """Everything the meaning of a position depends on, as JSON text."""
        transform = "none" if self._transform is None else self._transform.fingerprint
        identity: dict[str, Any] = {
            "source": self._source.fingerprint,
            "length": len(self._source),
            "seed": self._seed,
            "batch_size": self._batch_size,
            "transform": transform,
            "order": ORDER_VERSION,
        }
        if isinstance(self._source, InGroups):
            identity["groups"] = list(self._source.groups)
        return json.dumps(identity, sort_keys=True)

    def state(self) -> LoaderState:
        return {"position": self._position, "fingerprint": self.fingerprint}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`; Refusal names each thing that differs from when it was saved."""
        position, saved = state.get("position"), state.get("fingerprint")
        if not isinstance(position, int) or position < 0 or not isinstance(saved, str):
            raise Refusal(f"data position is unreadable: got {dict(state)}")
        differences = _differences(saved, self.fingerprint)
        if differences:
            raise Refusal(
                f"the data is not that of the run any more: {'; '.join(differences)}; bring it "
                "back, or begin another run"
            )
        self.close()
        self._position = position

    def close(self) -> None:
        """Stop reading ahead; the next batch starts reading again where the stream stands."""
        batches, self._batches = self._batches, None
        if isinstance(batches, grain.DatasetIterator):
            batches.close()

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        """The next batch of this process: arrays "b ..." of its rows."""
        if self._batches is None:
            self._batches = self._open()
        try:
            with _impatient(self._reading.patience, self._say_late):
                batch, bad = next(self._batches)
            self._note(bad)
        except BaseException:
            self.close()  # a broken reader is not read on from
            raise
        self._position += self._batch_size
        return batch

    def _open(self) -> Iterator[tuple[Batch, list[Bad]]]:
        self._opened = _Rows(
            self._source,
            self._transform,
            self._order,
            seed=self._seed,
            start=self._position,
            rows=self._rows,
            stride=self._batch_size,
            max_bad=self._max_bad,
        )
        return self._reading.iterate(self._opened, len(self._rows))

    def _note(self, bad: Sequence[Bad]) -> None:
        """Count bad records, naming each once. Raises Refusal for one too many."""
        for record, why in bad:
            if record in self._bad:
                continue
            self._bad[record] = why
            count = f"{len(self._bad)} of at most {self._max_bad}"
            if len(self._bad) > self._max_bad:
                raise Refusal(f"{len(self._bad)} bad records, {self._max_bad} may be: {why}")
            LOG.warning("bad record passed over, %s: %s", count, why)

    def _say_late(self, seconds: float) -> None:
        """Name what the batch that is not there waits for, as far as this process knows."""
        rows = self._opened
        assert rows is not None
        due = [self._position + row for row in self._rows]
        late = sorted(set(due) & rows.begun) or due
        records = [self._order[position] for position in late[:NAMED]]
        known = self._source.key if isinstance(self._source, Keyed) else str
        names = ", ".join(known(record) for record in records)
        more = f" and {len(late) - NAMED} more" if len(late) > NAMED else ""
        LOG.warning("waiting for data since %.0f s, for samples %s%s", seconds, names, more)


class _Rows:
    """The samples one process delivers, in order, without end: its rows of every batch.

    begun: positions that are being read by this process.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform | None,
        order: Order,
        *,
        seed: int,
        start: int,
        rows: tuple[int, ...],
        stride: int,
        max_bad: int,
    ):
        self._source, self._transform, self._order, self._seed = source, transform, order, seed
        self._start, self._rows, self._stride = start, rows, stride
        self._max_bad = max_bad
        self.begun: set[int] = set()

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> tuple[Sample, tuple[Bad, ...]]:
        batch, row = divmod(index, len(self._rows))
        position = self._start + batch * self._stride + self._rows[row]
        self.begun.add(position)
        try:
            return self._at(position)
        finally:
            self.begun.discard(position)

    def _at(self, position: int) -> tuple[Sample, tuple[Bad, ...]]:
        """The sample at a position, and the bad records that it stands in for."""
        bad: dict[int, str] = {}
        for record in self._candidates(position):
            try:
                return self._read(record, position), tuple(bad.items())
            except Unavailable:
                raise
            except Refusal as refusal:
                bad[record] = str(refusal)
                if len(bad) > self._max_bad:
                    raise
        raise Refusal(f"all {len(bad)} samples that may stand here are bad: {[*bad.values()][-1]}")

    def _candidates(self, position: int) -> Iterator[int]:
        """The record of a position, then its peers as they are drawn, each once."""
        first, peers = self._order[position], self._order.peers(position)
        yield first
        tried = {first}
        rng = np.random.default_rng((self._seed, position, 1))
        while len(tried) < len(peers):
            record = peers[int(rng.integers(len(peers)))]
            if record not in tried:
                tried.add(record)
                yield record

    def _read(self, record: int, position: int) -> Sample:
        try:
            return self._made(record, position)
        except Unavailable:
            raise
        except Refusal:
            return self._made(record, position)  # what refused once may have been the connection

    def _made(self, record: int, position: int) -> Sample:
        rng = np.random.default_rng((self._seed, position))
        sample = drawn(self._source, record, rng)
        return sample if self._transform is None else self._transform(sample, rng)


def _order(source: Source, batch_size: int, seed: int) -> Order:
    if not isinstance(source, InGroups):
        return Shuffled(len(source), seed)
    order = Grouped(source.groups, batch_size, seed)
    if small := [size for size in source.groups if 0 < size < batch_size]:
        LOG.warning(
            "%d of %d samples are never trained on: buckets that hold %s fill no batch of %d",
            sum(small),
            len(source),
            ", ".join(map(str, small)),
            batch_size,
        )
    return order


@contextmanager
def _impatient(patience: float, say: Callable[[float], None]) -> Iterator[None]:
    """Say so, again and again, while what is done within takes longer than `patience` seconds."""
    done, began = threading.Event(), time.monotonic()

    def watch() -> None:
        while not done.wait(patience):
            say(time.monotonic() - began)

    watcher = threading.Thread(target=watch, name="data watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _gather(made: Sequence[tuple[Sample, tuple[Bad, ...]]]) -> tuple[Batch, list[Bad]]:
    return stack([sample for sample, _ in made]), [each for _, bad in made for each in bad]


def _check(source: Source, batch_size: int, seed: int) -> None:
    if len(source) == 0:
        raise Refusal("the source has no samples")
    if batch_size < 1:
        raise Refusal(f"batch_size must be at least 1, got {batch_size}")
    if not 0 <= seed < 2**32:
        raise Refusal(f"seed must be 0 … 2^32 - 1, got {seed}")


def _differences(saved: str, current: str) -> list[str]:
    if saved == current:
        return []
    try:
        old = json.loads(saved)
    except json.JSONDecodeError:
        old = None
    if not isinstance(old, dict):
        raise Refusal(f"data position is unreadable: its fingerprint is {saved[:40]!r}")
    new = json.loads(current)
    return [
        _difference(name, old.get(name), new.get(name))
        for name in sorted(set(old) | set(new))
        if old.get(name) != new.get(name)
    ]


def _difference(name: str, old: object, new: object) -> str:
    hashed = any(isinstance(value, str) and len(value) > 40 for value in (old, new))
    return f"{name} has changed" if hashed else f"{name} was {old!r}, now {new!r}"
