"""Files of records with random access: ArrayRecord, TFRecord and Parquet."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from array_record.python.array_record_module import ArrayRecordReader

from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sniff import reason
from vdm_jax.data import tfrecord

Unpacked = TypeVar("Unpacked")

FAULTS = (ValueError, OSError, LookupError, RuntimeError, OverflowError, MemoryError)
"""What damage in a file is raised as, by these classes and by what unpacks their records."""
PARQUET_COLUMN = "data"


class Shards(NamedTuple):
    """Files of one format, and how many records each is said to hold."""

    file_format: str
    paths: Sequence[Path]
    lengths: Sequence[int]


class Records:
    """The records of several files, numbered through; read from any thread and any process."""

    def __init__(self, shards: Shards, offsets: Sequence[Sequence[int]]):
        """offsets: for each file where its records begin (`tfrecord.offsets`), or none."""
        self._shards, self._offsets = shards, offsets
        self._ends = list(accumulate(shards.lengths))
        self._files: dict[int, RecordFile] = {}
        self._opening = Lock()

    def check_lengths(self) -> None:
        """Raises Refusal for a file that does not hold as many records as it is said to."""
        for which, (path, said) in enumerate(
            zip(self._shards.paths, self._shards.lengths, strict=True)
        ):
            found = len(self._file(which))
            if found != said:
                raise Refusal(f"{path}: holds {found} records instead of {said}")

    def read(self, number: int, unpacked: Callable[[bytes], Unpacked]) -> Unpacked:
        """A record, unpacked; Refusal names one that is damaged."""
        which = bisect_right(self._ends, number)
        inside = number - (self._ends[which - 1] if which else 0)
        try:
            return unpacked(self._file(which).read(inside))
        except (*FAULTS, Refusal) as error:
            path = self._shards.paths[which]
            raise Refusal(f"{path}: record {inside}: {reason(error)}") from error

    def _file(self, which: int) -> "RecordFile":
        with self._opening:
            if which not in self._files:
                path, offsets = self._shards.paths[which], self._offsets[which]
                self._files[which] = opened(path, self._shards.file_format, offsets)
            return self._files[which]

    def __getstate__(self) -> dict[str, Any]:
        """A worker process opens its own files."""
        return self.__dict__ | {"_files": {}, "_opening": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_opening": Lock()})


@runtime_checkable
class RecordFile(Protocol):
    """Records by number, from any thread. Damage raises one of `FAULTS`."""

    def __len__(self) -> int: ...

    def read(self, number: int) -> bytes: ...


def opened(path: Path, file_format: str, offsets: Sequence[int]) -> RecordFile:
    """offsets: of a TFRecord file (`tfrecord.offsets`). Raises Refusal naming the file."""
    openers: dict[str, Callable[[], RecordFile]] = {
        "array_record": lambda: ArrayRecord(path),
        "tfrecord": lambda: TFRecord(path, offsets),
        "parquet": lambda: Parquet(path),
    }
    try:
        return openers[file_format]()
    except FAULTS as error:
        raise Refusal(f"{path}: cannot be read: {reason(error)}") from error


class ArrayRecord:
    def __init__(self, path: Path):
        self._reader = ArrayRecordReader(
            str(path), "readahead_buffer_size:0,max_parallelism:0", file_reader_buffer_size=2**16
        )

    def __len__(self) -> int:
        return self._reader.num_records()

    def read(self, number: int) -> bytes:
        return self._reader.read([number])[0]


class TFRecord:
    def __init__(self, path: Path, offsets: Sequence[int]):
        self._path, self._offsets = path, offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def read(self, number: int) -> bytes:
        return tfrecord.read(self._path, self._offsets[number])


class Parquet:
    """One column of bytes. Row groups (TFDS makes them of 100 records) are read whole."""

    def __init__(self, path: Path):
        self._file = _parquet().ParquetFile(path, page_checksum_verification=True)
        if self._file.schema_arrow.names != [PARQUET_COLUMN]:
            raise ValueError(f"its columns are {self._file.schema_arrow.names}, not data alone")
        groups = range(self._file.num_row_groups)
        rows = [self._file.metadata.row_group(group).num_rows for group in groups]
        self._places = [(g, row) for g in groups for row in range(rows[g])]
        self._group = lru_cache(maxsize=2)(self._read_group)
        self._reading = Lock()

    def __len__(self) -> int:
        return len(self._places)

    def read(self, number: int) -> bytes:
        group, row = self._places[number]
        with self._reading:
            value = self._group(group)[row].as_py()
        if not isinstance(value, bytes):
            raise ValueError("is no bytes")
        return value

    def _read_group(self, group: int) -> Any:
        return self._file.read_row_group(group, columns=[PARQUET_COLUMN]).column(0)


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise Refusal("parquet files need pyarrow; pip install 'vdm-jax[curate]'") from error
    return parquet
