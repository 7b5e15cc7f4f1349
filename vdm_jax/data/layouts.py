"""Published datasets as they are unpacked, and tables of captions, as storages of clips.

Nothing is fetched; terms of use are those of each dataset. Each part lists files and what is
known of them; `data.files` reads them, `clips.Samples` or `buckets.Buckets` cuts samples:

    Samples(clips=UCF101(directory="data/ucf"), windows=Windows(num_frames=16), height=64, width=64)

bad_share: share of the listed files that may be missing or damaged; they are passed over, with a
warning that says how many and which. fps: rate that videos are resampled to; None keeps each
file's own.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.files import (
    PICTURE_SUFFIXES,
    VIDEO_SUFFIXES,
    Listed,
    Pictures,
    Videos,
    caption_in,
    walked,
)
from vdm_jax.data.folder import captioned, tolerating
from vdm_jax.data.transform import check_fps

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class CaptionTable:
    """Videos that a table lists with their captions, a video as often as it is listed.

    table: CSV or JSONL with the columns `file` and `caption` name, or text with a name a line and
    its caption behind a tab; without a column `caption` there are no captions, but one of another
    name must be there. directory: what names are relative to; None: the table's folder.
    """

    table: str
    directory: str | None = None
    file: str = "file"
    caption: str = "caption"
    fps: float | None = None
    bad_share: float = 0.0

    def __post_init__(self) -> None:
        check_fps(self.fps)

    def build(self) -> Videos:
        path = Path(self.table)
        root = path.parent if self.directory is None else Path(self.directory)
        given = ({self.file: name, self.caption: caption} for name, caption in _lines(path))
        rows = list(given) if path.suffix == ".txt" else read_table(path)
        if self.caption != CaptionTable.caption:
            _check_column(path, rows, self.caption)
        listed = [
            Listed(name=_cell(path, row, self.file), caption=str(row.get(self.caption) or ""))
            for row in rows
        ]
        return _videos(root, path, listed, self.fps, self.bad_share)


@dataclass(frozen=True, kw_only=True)
class WebVid:
    """WebVid-10M (Bain et al. 2021, arXiv:2104.00650): table has videoid, page_dir and name.

    directory: where videos lie as page_dir/videoid.mp4. The set is no longer given out; whoever
    has a copy seldom has all of it, hence bad_share.
    """

    table: str
    directory: str
    fps: float | None = None
    bad_share: float = 0.1

    def __post_init__(self) -> None:
        check_fps(self.fps)

    def build(self) -> Videos:
        path = Path(self.table)
        listed = [
            Listed(
                name=f"{_cell(path, row, 'page_dir')}/{_cell(path, row, 'videoid')}.mp4",
                caption=_cell(path, row, "name"),
            )
            for row in read_table(path)
        ]
        return _videos(Path(self.directory), path, listed, self.fps, self.bad_share)


@dataclass(frozen=True, kw_only=True)
class ChronoMagic:
    """ChronoMagic (Yuan et al. 2024, arXiv:2404.05014): table has videoid and name, its caption.

    directory: where videos lie as videoid.mp4.
    """

    table: str
    directory: str
    fps: float | None = None
    bad_share: float = 0.0

    def __post_init__(self) -> None:
        check_fps(self.fps)

    def build(self) -> Videos:
        path = Path(self.table)
        listed = [
            Listed(name=f"{_cell(path, row, 'videoid')}.mp4", caption=_cell(path, row, "name"))
            for row in read_table(path)
        ]
        return _videos(Path(self.directory), path, listed, self.fps, self.bad_share)


@dataclass(frozen=True, kw_only=True)
class UCF101:
    """UCF-101 (Soomro et al. 2012, arXiv:1212.0402): UCF-101/Class/v_Class_gXX_cYY.avi.

    directory: what UCF-101 and ucfTrainTestlist lie in, or UCF-101 itself. split: by the lists
    trainlist0N.txt and testlist0N.txt, N being `lists`; "all" needs none. The caption of a clip is
    its class in words, and it is told its "label", counted from 0 in order of the classes' names.
    """

    directory: str
    split: Literal["all", "train", "test"] = "all"
    lists: Literal[1, 2, 3] = 1
    fps: float | None = None
    bad_share: float = 0.0

    def __post_init__(self) -> None:
        check_fps(self.fps)

    def build(self) -> Videos:
        given = Path(self.directory)
        root = given / "UCF-101" if (given / "UCF-101").is_dir() else given
        names = walked(root, frozenset((".avi",)))
        labels = {name: n for n, name in enumerate(sorted({_folder(name) for name in names}))}
        if self.split != "all":
            names = self._split(root.parent / "ucfTrainTestlist")
        if strange := [name for name in names if _folder(name) not in labels]:
            raise Refusal(f"{root}: holds no class {_folder(strange[0])!r}, of {strange[0]}")
        listed = [
            Listed(
                name=name,
                caption=words(_folder(name)),
                told={"label": float(labels[_folder(name)])},
            )
            for name in names
        ]
        return Videos(root, listed, fps=self.fps, bad_files=tolerating(self.bad_share))

    def _split(self, folder: Path) -> list[str]:
        """The files of a list, each line "Class/name.avi", in training lists with a label."""
        path = folder / f"{self.split}list{self.lists:02d}.txt"
        return sorted(name.split()[0] for name, _ in _lines(path))


@dataclass(frozen=True, kw_only=True)
class FrameFolders:
    """Folders of numbered pictures, at any depth: each that holds some is a clip.

    fps: their rate, which pictures do not tell. A folder `a/b` has its caption in `a/b.txt`, if
    there is one.
    """

    directory: str
    fps: float
    bad_share: float = 0.0

    def __post_init__(self) -> None:
        check_fps(self.fps)

    def build(self) -> Pictures:
        root = Path(self.directory)
        folders = sorted({_folder(name) for name in walked(root, PICTURE_SUFFIXES)})
        listed = [Listed(name=name, caption=caption_in(root / f"{name}.txt")) for name in folders]
        return Pictures(root, listed, fps=self.fps, bad_files=tolerating(self.bad_share))


@dataclass(frozen=True, kw_only=True)
class SkyTimelapse:
    """Sky_timelapse (Xiong et al. 2018, arXiv:1709.07592): sky_train/video/clip/…_00000046.jpg.

    2,392 clips of 640x360 to train on and 225 to test, without captions. fps: what its videos play
    at is not said; 30 is a convention.
    """

    directory: str
    split: Literal["train", "test"] = "train"
    fps: float = 30.0
    bad_share: float = 0.0

    def __post_init__(self) -> None:
        check_fps(self.fps)

    def build(self) -> Pictures:
        folder = str(Path(self.directory) / f"sky_{self.split}")
        return FrameFolders(directory=folder, fps=self.fps, bad_share=self.bad_share).build()


@dataclass(frozen=True, kw_only=True)
class PictureFolder:
    """Pictures at any depth below a folder, as clips of one frame; captions as in `Folder`.

    fps: what networks that are told a rate are told of a picture.
    """

    directory: str
    fps: float = 1.0
    bad_share: float = 0.0

    def __post_init__(self) -> None:
        check_fps(self.fps)

    def build(self) -> Pictures:
        root = Path(self.directory)
        names = walked(root, PICTURE_SUFFIXES)
        listed = [Listed(name=name, caption=captioned(root / name)) for name in names]
        return Pictures(root, listed, fps=self.fps, bad_files=tolerating(self.bad_share))


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV or JSONL file, by column. Raises Refusal."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                return list(_whole(path, csv.DictReader(file)))
            if path.suffix == ".jsonl":
                return [dict(json.loads(line)) for line in file if line.strip()]
    except OSError as error:
        raise Refusal(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, csv.Error) as error:
        raise Refusal(f"{path}: is no {path.suffix[1:]} table: {error}") from error
    raise Refusal(f"{path}: is no .csv, .jsonl or .txt")


def _whole(path: Path, table: "csv.DictReader[str]") -> Iterator[Row]:
    for row in table:
        if None in row:
            raise Refusal(
                f"{path}: line {table.line_num} has more fields than there are columns; a caption "
                "with commas needs quotes around it"
            )
        yield row


def words(name: str) -> str:
    """ "ApplyEyeMakeup" as "apply eye makeup"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Of a text: what is before and after the first tab of each line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{path}: cannot be read as UTF-8: {error}") from error
    for line in lines:
        name, _, caption = line.partition("\t")
        if name.strip():
            yield name.strip(), caption.strip()


def _cell(path: Path, row: Row, column: str) -> str:
    value = row.get(column)
    if value is None:
        have = ", ".join(str(name) for name in row)
        raise Refusal(f"{path}: a row has no column {column!r}, only {have}")
    return str(value).strip()


def _check_column(path: Path, rows: Sequence[Row], column: str) -> None:
    have = dict.fromkeys(str(name) for row in rows for name in row)
    if rows and column not in have:
        raise Refusal(f"{path}: has no column {column!r}, only {', '.join(have)}")


def _videos(
    root: Path, table: Path, listed: list[Listed], fps: float | None, bad_share: float
) -> Videos:
    if not listed:
        raise Refusal(f"{table}: lists no videos")
    for each in listed:
        if Path(each.name).is_absolute() or ".." in Path(each.name).parts:
            raise Refusal(f"{table}: {each.name!r} leads out of {root}")
        if Path(each.name).suffix.lower() not in VIDEO_SUFFIXES:
            raise Refusal(f"{table}: {each.name!r} is not named like a video")
    return Videos(root, listed, fps=fps, bad_files=tolerating(bad_share))


def _folder(name: str) -> str:
    """Of a file "a/b.avi" or "a/b/c.avi": "a", "a/b"; "." of one that lies at the root."""
    return Path(name).parent.as_posix()
