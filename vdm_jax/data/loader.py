"""Loader: an endless, shuffled, resumable stream of batches over any source, read through Grain.

Position is ONE number: how many samples the whole job has consumed. From it alone, with the seed,
follows which record comes next and how it is augmented; so a resumed run, or one on another number
of processes, sees exactly the same batches. A fingerprint travels with the position and names what
it belongs to: Grain's own state would accept another dataset, seed or batch size silently.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, runtime_checkable

import grain
import numpy as np
from absl import flags

from vdm_jax.core.refusal import Refusal

Sample = dict[str, Any]
"""One record in numpy: video uint8 "t h w c", caption str, fps float32, key str, and what more
the source knows about it."""

Batch = dict[str, Any]
"""Samples stacked: arrays gain a leading axis, strings become a list, dicts stay dicts."""

ORDER_VERSION = 1  # goes up when the mapping (seed, position) -> record changes


@runtime_checkable
class Source(Protocol):
    """Random access to samples: `source[i]`, 0 <= i < len(source), the same sample every time.

    fingerprint: a stable hash of what the samples are (contents, parameters, version).
    A record that cannot be read raises Refusal naming it, and the stream stops there: skipping
    would make the data depend on the state of the disk.
    """

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@runtime_checkable
class Transform(Protocol):
    """A random change of one sample, drawn from `rng` only; `fingerprint` names its version."""

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample: ...


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
    """

    threads: int = 4
    batches_ahead: int = 2
    workers: int = 0

    def iterate(self, rows: "_Rows", local_batch_size: int) -> Iterator[Batch]:
        ahead = max(self.batches_ahead * local_batch_size, self.threads)
        options = grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=ahead)
        dataset = grain.MapDataset.source(rows).to_iter_dataset(options)
        if self.workers > 0:
            if not flags.FLAGS.is_parsed():  # Grain's workers read a flag; ours come by tyro
                flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=ahead)
            )
        return iter(dataset.batch(local_batch_size, drop_remainder=True, batch_fn=stack))


class Loader:
    """An iterator of batches: records shuffled anew each epoch, without end.

    Sample g of the stream is `source[order[g]]`, where `order` strings together one permutation
    per epoch; every record appears once per epoch, and batches run across epoch boundaries. Its
    transform draws from a generator keyed by (seed, g). Batch k holds the samples
    [k*batch_size, (k+1)*batch_size); a process delivers those of its rows that its devices need.
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
    ):
        """batch_size counts the samples of all processes together.

        rows: which of a batch are delivered here, ascending; None: all of them.

        Raises Refusal for an empty source, an empty batch, or a negative seed.
        """
        _check(source, batch_size, seed)
        self._rows = tuple(range(batch_size) if rows is None else rows)
        assert self._rows and set(self._rows) <= set(range(batch_size))
        self._source = source
        self._transform = transform
        self._reading = reading or Reading()
        self._seed = seed
        self._batch_size = batch_size
        self._position = 0
        self._batches: Iterator[Batch] | None = None  # built on first use, after any restore

    @property
    def position(self) -> int:
        """Samples consumed so far by all processes together."""
        return self._position

    @property
    def batch_size(self) -> int:
        """Samples in a batch, over all processes."""
        return self._batch_size

    @property
    def fingerprint(self) -> str:
        """Everything the meaning of a position depends on, as JSON text."""
        transform = "none" if self._transform is None else self._transform.fingerprint
        return json.dumps(
            {
                "source": self._source.fingerprint,
                "length": len(self._source),
                "seed": self._seed,
                "batch_size": self._batch_size,
                "transform": transform,
                "order": ORDER_VERSION,
            },
            sort_keys=True,
        )

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
            batch = next(self._batches)
        except BaseException:
            self.close()  # a broken reader is not read on from
            raise
        self._position += self._batch_size
        return batch

    def _open(self) -> Iterator[Batch]:
        rows = _Rows(
            self._source,
            self._transform,
            seed=self._seed,
            start=self._position,
            rows=self._rows,
            stride=self._batch_size,
        )
        return self._reading.iterate(rows, len(self._rows))


class _Rows:
    """The samples one process delivers, in order, without end: its rows of every batch."""

    def __init__(
        self,
        source: Source,
        transform: Transform | None,
        *,
        seed: int,
        start: int,
        rows: tuple[int, ...],
        stride: int,
    ):
        # A drawn seed, since Grain's epochs count up from it: seed 0's second epoch would
        # otherwise be seed 1's first.
        shuffle_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._order = grain.MapDataset.range(len(source)).shuffle(seed=shuffle_seed).repeat()
        self._source, self._transform, self._seed = source, transform, seed
        self._start, self._rows, self._stride = start, rows, stride

    def __len__(self) -> int:
        return sys.maxsize

    def _record(self, global_index: int) -> int:
        record = self._order[global_index]
        assert record is not None  # a range is never sparse
        return record

    def __getitem__(self, index: int) -> Sample:
        batch, row = divmod(index, len(self._rows))
        global_index = self._start + batch * self._stride + self._rows[row]
        sample = self._source[self._record(global_index)]
        if self._transform is None:
            return sample
        return self._transform(sample, np.random.default_rng((self._seed, global_index)))


def stack(samples: Sequence[Sample]) -> Batch:
    """Samples with the same fields -> one batch. Raises Refusal naming fields that do not fit."""
    return {name: _stack_field(name, [s.get(name) for s in samples]) for name in _names(samples)}


def _names(samples: Sequence[Sample]) -> list[str]:
    names = list(samples[0])
    for sample in samples:
        if set(sample) != set(names):
            odd = sorted(set(sample) ^ set(names))
            raise Refusal(f"samples differ in their fields: {odd} are not in all of them")
    return names


def _stack_field(name: str, values: Sequence[Any]) -> Any:
    if isinstance(values[0], str):
        return list(values)
    if isinstance(values[0], Mapping):
        return stack(values)
    arrays = [np.asarray(value) for value in values]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise Refusal(f"samples of one batch need equal shapes: {name} has {sorted(shapes)}")
    return np.stack(arrays)


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
