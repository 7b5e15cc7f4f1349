"""Pick-a-Pic in miniature: the chosen picture, the other one, and no ties."""

import pickle
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from data.made import number_of, numbered
from PIL import Image
from pyarrow import parquet

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.loader import Loader
from vdm_jax.data.pairs import PickAPic
from vdm_jax.data.source import Keyed, Source


def jpeg(number: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(numbered(1, 16, 24, number)[0]).save(buffer, "JPEG")
    return buffer.getvalue()


LABELS = [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0), (1.0, 0.0), (0.0, 1.0)]


def write(path: Path, first: int) -> None:
    """Pairs of pictures 10 + n and 40 + n, three to a row group."""
    numbers = range(first, first + len(LABELS))
    table = pa.table(
        {
            "caption": [f"prompt {n}" for n in numbers],
            "jpg_0": [jpeg(10 + n) for n in numbers],
            "jpg_1": [jpeg(40 + n) for n in numbers],
            "label_0": [label for label, _ in LABELS],
            "label_1": [label for _, label in LABELS],
            "user_id": [1] * len(LABELS),
        }
    )
    parquet.write_table(table, path, row_group_size=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "train-0.parquet", 0)
    write(tmp_path / "train-1.parquet", 5)
    return tmp_path


def part_of(folder: Path) -> PickAPic:
    return PickAPic(directory=str(folder), height=8, width=8)


def test_chosen_rejected_and_no_ties(folder: Path):
    source = part_of(folder).build()
    assert isinstance(source, Source) and isinstance(source, Keyed)
    assert len(source) == 8 and source.ties == 2
    numbers = [0, 2, 3, 4, 5, 7, 8, 9]
    won = [10, 42, 13, 44, 15, 47, 18, 49]
    lost = [40, 12, 43, 14, 45, 17, 48, 19]
    for i, n in enumerate(numbers):
        sample = source[i]
        assert sample["chosen"].shape == sample["rejected"].shape == (1, 8, 8, 3)
        assert (number_of(sample["chosen"]), number_of(sample["rejected"])) == (won[i], lost[i])
        assert sample["caption"] == f"prompt {n}"
    assert source.key(6) == source[6]["key"] == "train-1.parquet:1:0"


def test_pairs_come_through_the_loader_and_into_workers(folder: Path):
    source = part_of(folder).build()
    batch = next(Loader(source, batch_size=8, seed=1))
    assert batch["chosen"].shape == (8, 1, 8, 8, 3) and len(set(batch["key"])) == 8
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy[3]["chosen"], source[3]["chosen"])
    assert copy.fingerprint == source.fingerprint


def test_other_pictures_are_another_source(folder: Path):
    first = part_of(folder).build().fingerprint
    assert part_of(folder).build().fingerprint == first
    write(folder / "train-1.parquet", 6)
    assert part_of(folder).build().fingerprint != first


def test_what_is_no_table_of_pairs_is_refused(folder: Path, tmp_path: Path):
    (folder / "train-1.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(Refusal, match=r"train-1\.parquet: cannot be read as Parquet"):
        part_of(folder).build()
    parquet.write_table(pa.table({"caption": ["a"]}), folder / "train-1.parquet")
    with pytest.raises(Refusal, match="no column label_0, label_1, jpg_0, jpg_1"):
        part_of(folder).build()
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refusal, match=r"holds no \*\.parquet"):
        part_of(tmp_path / "empty").build()


def test_a_damaged_picture_is_refused_by_its_place(folder: Path):
    path = folder / "train-0.parquet"
    data = path.read_bytes()
    source = part_of(folder).build()
    broken = data.replace(jpeg(13)[:4], b"\0\0\0\0")
    assert len(broken) == len(data) and broken != data
    path.write_bytes(broken)
    with pytest.raises(Refusal, match=r"train-0\.parquet: row 0 of group 1: cannot identify"):
        source[2]


def test_patterns_and_sizes_that_are_none_are_refused(folder: Path):
    for files in ("", str(folder / "*.parquet")):
        with pytest.raises(Refusal, match="files must be a pattern such as 'train-"):
            replace(part_of(folder), files=files).build()
    with pytest.raises(Refusal, match=r"^width must be at least 1, got 0$"):
        replace(part_of(folder), width=0)
