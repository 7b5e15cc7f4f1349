"""A folder of real videos as a source: windows of T frames, captions from text files beside them.

Videos of any format that core/video.py reads lie anywhere below the folder; `a/b.mp4` has its
caption in `a/b.txt`, if there is one. Good for hundreds of files; beyond that, or where decoding
holds up training, put them into shards.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vdm_jax.core import video
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.loader import Sample
from vdm_jax.data.transform import TRANSFORM_VERSION, Windows, cover

SUFFIXES = frozenset(
    (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".gif", ".webp")
)

Split = Literal["all", "train", "test"]
BadFiles = Callable[[Path, Sequence[Refusal]], None]
"""What to do about the unreadable files of a folder: told once, when the source is built."""


def refuse_bad(folder: Path, bad: Sequence[Refusal]) -> None:
    """Raise one Refusal that lists every unreadable file."""
    raise Refusal(f"{folder}: {len(bad)} unreadable: " + "; ".join(str(refusal) for refusal in bad))


def skip_bad(folder: Path, bad: Sequence[Refusal]) -> None:
    """Go on without them, saying how many and which."""
    print(f"{folder}: skipping {len(bad)} unreadable: " + "; ".join(str(r) for r in bad))


@dataclass(frozen=True, kw_only=True)
class _Video:
    name: str
    caption: str
    frames: int
    fps: float
    sha256: str


@dataclass(frozen=True, kw_only=True)
class VideoFolder:
    """The config part of a `Folder` source that refuses damaged files."""

    directory: str
    windows: Windows
    height: int
    width: int
    fps: float | None = None
    """Rate that videos are resampled to; None keeps each file's own."""
    split: Split = "all"
    """Of the files in order of their names test is the last tenth, at least one; train the rest."""

    def build(self) -> "Folder":
        size = self.height, self.width
        return Folder(self.directory, self.windows, size, fps=self.fps, split=self.split)


class Folder:
    """Source over the videos below a folder: fixed windows of each, in order of their names.

    size: (height, width) that samples are scaled and centre-cropped to. fps: the rate that videos
    are resampled to before windows are cut; None keeps each file's own. split: as in `VideoFolder`.
    Every file is read through when the source is built, since a header does not prove that frames
    follow; what is found to be damaged only in decoding is refused then. The key of a sample is
    "relative/path.mp4:first frame".
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        windows: Windows,
        size: tuple[int, int],
        *,
        fps: float | int | None = None,
        split: Split = "all",
        bad_files: BadFiles = refuse_bad,
        limits: video.Limits | None = None,
    ):
        """Raises Refusal if there are no videos, if all are too short, or as `bad_files` does."""
        self._root, self._split = Path(folder), split
        self._windows, self._size, self._fps = windows, size, fps
        self._limits = limits or video.Limits()
        self._videos = self._inspect(bad_files)
        self._ends = np.cumsum([windows.count(v.frames) for v in self._videos], dtype=int)
        if len(self) == 0:
            raise Refusal(f"{self._root}: no video has {windows.span} frames")

    @property
    def fingerprint(self) -> str:
        identity = {
            "transform": TRANSFORM_VERSION,
            "videos": [asdict(v) for v in self._videos],
            "windows": asdict(self._windows),
            "size": list(self._size),
            "fps": self._fps,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        which = int(np.searchsorted(self._ends, index, side="right"))
        entry = self._videos[which]
        wanted = self._windows.indices(index - (int(self._ends[which - 1]) if which else 0))
        clip = video.read(
            self._root / entry.name,
            start=wanted[0],
            stop=wanted[-1] + 1,
            fps=self._fps,
            limits=self._limits,
        )
        return {
            "video": cover(clip.frames[:: self._windows.every], self._size),
            "caption": entry.caption,
            "fps": np.float32(clip.fps / self._windows.every),
            "key": f"{entry.name}:{wanted[0]}",
        }

    def _inspect(self, bad_files: BadFiles) -> list[_Video]:
        if not self._root.is_dir():
            raise Refusal(f"{self._root}: no such folder; it is to hold the videos to train on")
        paths = sorted(p for p in self._root.rglob("*") if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise Refusal(f"{self._root}: holds no videos ({' '.join(sorted(SUFFIXES))})")
        good, bad = [], []
        for path in self._of_split(paths):
            try:
                good.append(self._describe(path))
            except Refusal as refusal:
                bad.append(refusal)
        if bad:
            bad_files(self._root, bad)
        return good

    def _of_split(self, paths: Sequence[Path]) -> Sequence[Path]:
        if self._split == "all":
            return paths
        if len(paths) < 2:
            raise Refusal(f"{self._root} holds one video; training needs another, to hold out")
        first = len(paths) - max(1, len(paths) // 10)
        return paths[:first] if self._split == "train" else paths[first:]

    def _describe(self, path: Path) -> _Video:
        extent = video.measure(path, fps=self._fps, limits=self._limits)
        caption = path.with_suffix(".txt")
        try:
            words = caption.read_text(encoding="utf-8").strip() if caption.is_file() else ""
        except UnicodeDecodeError as error:
            raise Refusal(f"{caption} is not UTF-8 ({error}); save it as UTF-8") from error
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return _Video(
            name=path.relative_to(self._root).as_posix(),
            caption=words,
            frames=extent.frames,
            fps=extent.fps,
            sha256=digest,
        )
