"""What was measured of each clip, kept on disk: computed once, gone on with after a kill.

A file holds a few clips. Its name follows from what the clips are, what was measured with which
weights, and nothing else: whoever asks for the same finds it, whatever is asked for beside it. It
says so inside, in `provenance`. As each file stands alone, several processes share the work.
"""

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from vdm_jax import __version__
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import About, digest
from vdm_jax.evaluate.sets import ClipSet

CHUNK = 32  # clips in a file
PROVENANCE = "provenance"
Videos = UInt8[np.ndarray, "b t h w 3"]


class Batch(NamedTuple):
    """Some clips, what is known of them, and of pairs the true clips beside them."""

    clips: Videos
    about: Sequence[About]
    truth: Videos | None


Table = Mapping[str, np.ndarray]
"""Arrays by name, with a row for each clip."""


@runtime_checkable
class Measure(Protocol):
    """Looks at clips, each by itself or beside its true one.

    identity: what its rows depend on besides the clips (JSON). size: clips of a batch, at most.
    """

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> Mapping[str, Any]: ...

    @property
    def size(self) -> int: ...

    def check(self, one: Batch, /) -> None:
        """Refuse clips that it cannot look at; one: a batch of a single clip of their shape."""
        ...

    def __call__(self, batch: Batch, /) -> Table: ...


@dataclass(frozen=True)
class Rows:
    """The rows of `clips`; of pairs with the clips of `truth` of the same numbers."""

    folder: Path
    measure: Measure
    clips: ClipSet
    truth: ClipSet | None = None

    @property
    def chunks(self) -> list[range]:
        total = len(self.clips)
        return [range(a, min(a + CHUNK, total)) for a in range(0, total, CHUNK)]

    def missing(self) -> list[range]:
        """The chunks that are not there, or are damaged."""
        return [chunk for chunk in self.chunks if self._read(chunk) is None]

    def compute(self, chunk: range, tell: Callable[[int], object]) -> None:
        """Measure and keep one chunk. tell: is called with how many clips were measured."""
        tables = []
        for start in range(chunk.start, chunk.stop, self.measure.size):
            numbers = range(start, min(start + self.measure.size, chunk.stop))
            truth = None if self.truth is None else _stacked(self.truth, numbers)
            about = [self.clips.about(i) for i in numbers]
            tables.append(self.measure(Batch(_stacked(self.clips, numbers), about, truth)))
            tell(len(numbers))
        rows = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        _check(rows, self.measure.name, self.clips, chunk)
        self._write(chunk, rows)

    def tables(self, first: int | None = None) -> Iterator[Table]:
        """Chunk by chunk, of all clips or of the first few."""
        for chunk in self.chunks:
            wanted = len(self.clips) if first is None else first
            if chunk.start >= wanted:
                return
            found = self._read(chunk)
            if found is None:
                raise Refusal(f"{self._path(chunk)}: is gone or damaged; give the command again")
            yield {name: rows[: wanted - chunk.start] for name, rows in found.items()}

    def numbered(self, first: int) -> Iterator[tuple[range, Table]]:
        """The same beside the numbers of the clips."""
        for chunk, table in zip(self.chunks, self.tables(first), strict=False):
            yield range(chunk.start, min(chunk.stop, first)), table

    def _provenance(self, chunk: range) -> str:
        told: dict[str, Any] = {
            "measure": self.measure.name,
            **self.measure.identity,
            "clips": [self.clips.identity(i) for i in chunk],
            "beside": None if self.truth is None else [self.truth.identity(i) for i in chunk],
            "vdm_jax": __version__,
        }
        return json.dumps(told, sort_keys=True)

    def _path(self, chunk: range) -> Path:
        return self.folder / self.measure.name / f"{digest(self._provenance(chunk))[:32]}.npz"

    def _read(self, chunk: range) -> Table | None:
        try:
            with np.load(self._path(chunk), allow_pickle=False) as file:
                rows = {name: file[name] for name in file.files if name != PROVENANCE}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        whole = rows and all(len(array) == len(chunk) for array in rows.values())
        return rows if whole else None

    def _write(self, chunk: range, rows: Table) -> None:
        path = self._path(chunk)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.stem}.{os.getpid()}.part")
        with part.open("wb") as file:
            arrays: dict[str, Any] = {**rows, PROVENANCE: np.array(self._provenance(chunk))}
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)


def _stacked(clips: ClipSet, numbers: Sequence[int]) -> Videos:
    found = [clips[i] for i in numbers]
    for number, clip in zip(numbers, found, strict=True):
        if clip.shape != found[0].shape:
            raise Refusal(
                f"{clips.title}: clip {clips.about(number).key} has the shape {clip.shape}, others "
                f"{found[0].shape}"
            )
    return np.stack(found)


def _check(rows: Table, name: str, clips: ClipSet, chunk: range) -> None:
    for column, values in rows.items():
        finite = np.isfinite(values).reshape(len(values), -1).all(1)
        if not finite.all():
            worst = chunk[int(np.argmin(finite))]
            raise Refusal(
                f"{clips.title}: {name} gives no finite {column} for clip "
                f"{clips.about(worst).key}; its weights may be damaged"
            )
