"""Pairs of pictures of which people chose one, for learning from preferences.

Pick-a-Pic v2 (Kirstain et al. 2023, arXiv:2305.01569) as it is given out: Parquet files with the
columns caption, jpg_0, jpg_1, label_0 and label_1. The label of the chosen picture is 1, that of
the other 0; both are 0.5 where neither was better, and such a pair is left out, as it is in
Diffusion-DPO (Wallace et al. 2023, arXiv:2311.12908).

Parquet is read a row group at a time, and a shuffled stream wants one pair of each: files written
with small row groups (16 rows) are fast, those with thousands of rows are not.
"""

import hashlib
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sniff import reason
from vdm_jax.core.still import STILL_FORMATS
from vdm_jax.data.clips import digest
from vdm_jax.data.source import Sample
from vdm_jax.data.transform import TRANSFORM_VERSION, check_size, cover

INSTALL = "pip install 'vdm-jax[curate]'"
TOLD = ("caption", "label_0", "label_1")
PICTURES = ("jpg_0", "jpg_1")
_FOOTER = struct.Struct("<I4s")


@dataclass(frozen=True, kw_only=True)
class PickAPic:
    """The config part of a `Pairs` source over the .parquet files of a folder, by their names.

    files: which of them, such as "train-*.parquet".
    """

    directory: str
    height: int
    width: int
    files: str = "*.parquet"

    def __post_init__(self) -> None:
        check_size(self.height, self.width)

    def build(self) -> "Pairs":
        """Raises Refusal if there are no such files, and as `Pairs` does."""
        root = Path(self.directory)
        try:
            paths = sorted(root.glob(self.files))
        except (ValueError, NotImplementedError) as error:
            raise Refusal(
                f"files must be a pattern such as 'train-*.parquet', relative to {root}; "
                f"got {self.files!r}"
            ) from error
        if not paths:
            raise Refusal(f"{root}: holds no {self.files}")
        return Pairs(paths, (self.height, self.width))


class _Row(NamedTuple):
    """Where a pair lies, and which of its pictures was chosen."""

    file: int
    group: int
    row: int
    caption: str
    chosen: int


class Pairs:
    """Source over pairs: "chosen" and "rejected", uint8 "1 h w 3", with "caption" and "key".

    size: (height, width) that pictures are scaled and centre-cropped to. The key of a sample is
    "file:row group:row". The fingerprint holds the files' lengths and footers, not their pictures.
    """

    def __init__(self, paths: Sequence[Path], size: tuple[int, int]):
        """Reads captions and labels. Raises Refusal for a file that is no such table, or if every
        pair is a tie."""
        self._paths, self._size = tuple(paths), size
        self._held = threading.local()
        self._rows: list[_Row] = []
        self.ties = 0
        for number in range(len(paths)):
            self._index(number)
        if not self._rows:
            raise Refusal(f"{paths[0].parent}: {self.ties} pairs, all of them ties")
        footers = [_footer(path) for path in paths]
        self.fingerprint = digest(
            {"transform": TRANSFORM_VERSION, "files": footers, "size": self._size}
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = self._rows[index]
        pictures = self._group(row)[row.row]
        chosen, rejected = pictures[row.chosen], pictures[1 - row.chosen]
        return {
            "chosen": self._picture(chosen, row),
            "rejected": self._picture(rejected, row),
            "caption": row.caption,
            "key": self.key(index),
        }

    def key(self, index: int) -> str:
        """The key of a sample that is not read."""
        row = self._rows[index]
        return f"{self._paths[row.file].name}:{row.group}:{row.row}"

    def __getstate__(self) -> dict[str, Any]:
        """A worker process opens its own files."""
        return self.__dict__ | {"_held": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"_held": threading.local()})

    def _index(self, number: int) -> None:
        path = self._paths[number]
        with _opened(path) as file:
            names = set(file.schema_arrow.names)
            if missing := [name for name in (*TOLD, *PICTURES) if name not in names]:
                raise Refusal(f"{path}: has no column {', '.join(missing)}")
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=list(TOLD)).to_pydict()
                rows = zip(*(table[name] for name in TOLD), strict=True)
                for row, (caption, label_0, label_1) in enumerate(rows):
                    if label_0 == label_1:
                        self.ties += 1
                        continue
                    chosen = int(label_1 > label_0)
                    self._rows.append(_Row(number, group, row, caption, chosen))

    def _group(self, row: _Row) -> list[tuple[bytes, bytes]]:
        """The pictures of a row group; each thread keeps the last one that it read."""
        place = row.file, row.group
        if getattr(self._held, "place", None) != place:
            with _opened(self._paths[row.file]) as file:
                table = file.read_row_group(row.group, columns=list(PICTURES)).to_pydict()
            self._held.pictures = list(zip(*(table[name] for name in PICTURES), strict=True))
            self._held.place = place
        return self._held.pictures

    def _picture(self, data: bytes, row: _Row) -> UInt8[np.ndarray, "1 h w 3"]:
        try:
            with Image.open(BytesIO(data), formats=STILL_FORMATS) as image:
                return cover(np.asarray(image.convert("RGB"))[None], self._size)
        except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError) as error:
            where = f"{self._paths[row.file]}: row {row.row} of group {row.group}"
            raise Refusal(f"{where}: {reason(error)}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A Parquet file; its faults within become a Refusal that names it."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise Refusal(f"Parquet needs pyarrow: {INSTALL} ({error})") from error
    try:
        with ParquetFile(path) as file:
            yield file
    except (OSError, pyarrow.ArrowException) as error:
        raise Refusal(f"{path}: cannot be read as Parquet: {reason(error)}") from error


def _footer(path: Path) -> list[Any]:
    """A file's name, its length and the hash of its footer, which says where everything lies."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(end - _FOOTER.size)
        length, _ = _FOOTER.unpack(file.read(_FOOTER.size))
        file.seek(max(0, end - _FOOTER.size - length))
        return [path.name, end, hashlib.sha256(file.read(length)).hexdigest()]
