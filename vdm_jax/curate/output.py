"""What a curation leaves: shards of the kept clips, and the tables of all clips and files."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader

from vdm_jax.core.refusal import Refusal
from vdm_jax.curate import work
from vdm_jax.curate.config import CurateConfig
from vdm_jax.curate.stage import Row, Span, unpacked
from vdm_jax.curate.told import BUCKET, MOTION
from vdm_jax.curate.verdict import TEST, TRAIN, Verdict
from vdm_jax.data.record import RECORD_FRAMES, unpack
from vdm_jax.data.shard import Manifest, Writer

CLIPS, FILES = "clips.parquet", "files.parquet"
DRAFT = "shards"


def write(
    config: CurateConfig, verdict: Verdict, folder: Path, output: Path, tick: Callable[[], object]
) -> Manifest:
    """Shards and tables; the manifest last, so that without it nothing is finished.

    folder: where the spans' clips lie. tick: called after each clip.
    """
    draft = folder / DRAFT
    shutil.rmtree(draft, ignore_errors=True)
    writers = {split: Writer(draft, split) for split in (TRAIN, TEST)}
    for clip in verdict.kept:
        sizes = clip["frames"], clip["height"], clip["width"], 3
        writers[clip["split"]].append(
            clip["key"], raw(clip, folder), sizes, clip["fps"], clip["caption"],
            captions=clip["captions"], told=clip["told"],
        )  # fmt: skip
        tick()
    splits = {split: writer.close() for split, writer in writers.items()}
    splits = {split: shards for split, shards in splits.items() if shards}
    if not splits:
        raise Refusal(f"no clip of {len(verdict.clips)} is kept; {output / 'report.html'} says why")
    for split in (TRAIN, TEST):
        shutil.rmtree(output / split, ignore_errors=True)
        if split in splits:
            (draft / split).rename(output / split)
    manifest = Manifest(provenance=config.provenance, splits=splits)
    manifest.save(output)
    return manifest


def tables(verdict: Verdict, output: Path, vectors: Sequence[str] = ()) -> None:
    """clips.parquet and files.parquet. vectors: names of those that the first one keeps."""
    names = [name for clip in verdict.clips for name in clip["scores"]]
    scores = {
        name: pa.array([clip["scores"].get(name) for clip in verdict.clips], pa.float64())
        for name in sorted(set(names))
    }
    plain = ("key", "file", "start", "frames", "fps", "height", "width", "caption", "rejected",
             "copy_of", "split")  # fmt: skip
    columns: dict[str, Any] = {name: [clip[name] for clip in verdict.clips] for name in plain}
    columns["captions"] = pa.array(
        [list(clip["captions"].items()) for clip in verdict.clips],
        pa.map_(pa.string(), pa.string()),
    )
    if any(MOTION in clip["scores"] for clip in verdict.clips):
        numbers = [clip["told"].get(BUCKET) for clip in verdict.clips]
        columns[BUCKET] = pa.array(numbers, pa.float64())
    for name in vectors:
        found = [clip["vectors"].get(name) for clip in verdict.clips]
        numbers = [None if text is None else unpacked(text) for text in found]
        columns[f"vector_{name}"] = pa.array(numbers, pa.list_(pa.float16()))
    _save(pa.table(columns | scores), output / CLIPS)
    _save(pa.Table.from_pylist(verdict.files), output / FILES)


def _save(table: pa.Table, path: Path) -> None:
    part = path.with_name(f".{path.name}.part")
    pq.write_table(table, part)
    part.replace(path)


def raw(clip: Row, folder: Path) -> Iterator[bytes]:
    """The records of a clip, as its worker packed them."""
    reader = ArrayRecordReader(str(_file(clip, folder)))
    try:
        count = -(-clip["frames"] // RECORD_FRAMES)
        yield from reader.read(list(range(clip["record"], clip["record"] + count)))
    finally:
        reader.close()


def middles(clips: Iterable[Row], folder: Path) -> Iterator[np.ndarray]:
    """The middle frame of each clip."""
    for clip in clips:
        middle = clip["frames"] // 2
        block, inside = divmod(middle, RECORD_FRAMES)
        reader = ArrayRecordReader(str(_file(clip, folder)))
        record = reader.read([clip["record"] + block])[0]
        reader.close()
        yield unpack(record, clip["key"], block * RECORD_FRAMES, [inside])[0]


def _file(clip: Row, folder: Path) -> Path:
    return folder / work.name(Span(file=clip["file"], start=clip["span"]))
