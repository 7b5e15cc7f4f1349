"""Clips that lie in files as they came: videos, and sequences of pictures.

Which files, in which order and with which captions is told by whoever lists them: `data.folder`,
`data.layouts`. Good for what can be looked through whenever a source is opened; beyond that, or
where decoding holds up training, `python -m vdm_jax.curate` writes shards.
"""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vdm_jax.core import video
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.still import STILL_FORMATS
from vdm_jax.data.clips import ClipInfo, digest
from vdm_jax.data.transform import check_fps

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".gif", ".webp")
)
PICTURE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp"))
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # an EXIF tag; its values that swap height and width
NAMED = 20  # bad files that are named one by one
LOG = logging.getLogger(__name__)

BadFiles = Callable[[Path, Sequence[Refusal], int], None]
"""What to do about the files of a folder that are missing or unreadable, of so many in all: told
once, when the storage is opened."""


def refuse_bad(folder: Path, bad: Sequence[Refusal], total: int) -> None:
    """Raise one Refusal that lists them."""
    raise Refusal(f"{folder}: {len(bad)} of {total} unreadable: {_listed(bad)}")


@dataclass(frozen=True)
class SkipBad:
    """Go on without them, saying how many and which; refuse more than this share of all."""

    share: float = 1.0

    def __call__(self, folder: Path, bad: Sequence[Refusal], total: int) -> None:
        if len(bad) > self.share * total:
            raise Refusal(
                f"{folder}: {len(bad)} of {total} unreadable, over the share of {self.share:g} "
                f"that may be: {_listed(bad)}"
            )
        LOG.warning("%s: skipping %d of %d unreadable: %s", folder, len(bad), total, _listed(bad))


def _listed(bad: Sequence[Refusal]) -> str:
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return "; ".join(str(refusal) for refusal in bad[:NAMED]) + more


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One clip of a list. name: of its file or folder, relative; told: as in `ClipInfo`."""

    name: str
    caption: str = ""
    told: Mapping[str, float] = field(default_factory=dict)


class Videos:
    """Video files of any format that core/video.py reads (`clips.Clips`).

    Every file is read through when the storage is opened, since a header does not prove that frames
    follow; what is found to be damaged only in decoding is refused then. The key of a clip is the
    name of its file.
    """

    credit = ""

    def __init__(
        self,
        root: Path,
        listed: Sequence[Listed],
        *,
        fps: float | int | None = None,
        bad_files: BadFiles = refuse_bad,
        limits: video.Limits | None = None,
    ):
        """fps: the rate that files are resampled to by the times of their frames; None keeps each
        one's own. Raises Refusal as `bad_files` does."""
        check_fps(fps)
        self._root, self._fps, self._limits = root, fps, limits or video.Limits()
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(self._described, listed))
        good = _good(root, found, bad_files)
        self.infos = [info for info, _ in good]
        self.fingerprint = digest(
            {"videos": [[asdict(info), sha256] for info, sha256 in good], "fps": fps}
        )

    def __str__(self) -> str:
        return str(self._root)

    def read(self, index: int, numbers: range) -> UInt8[np.ndarray, "t h w 3"]:
        path = self._root / self.infos[index].key
        start, stop = numbers[0], numbers[-1] + 1
        clip = video.read(path, start=start, stop=stop, fps=self._fps, limits=self._limits)
        return clip.frames[:: numbers.step]

    def _described(self, listed: Listed) -> tuple[ClipInfo, str] | Refusal:
        path = self._root / listed.name
        try:
            extent = video.measure(path, fps=self._fps, limits=self._limits)
            height, width = video.read(path, stop=1, limits=self._limits).frames.shape[1:3]
        except Refusal as refusal:
            return refusal
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        info = ClipInfo(
            key=listed.name,
            caption=listed.caption,
            fps=extent.fps,
            frames=extent.frames,
            height=height,
            width=width,
            told=listed.told,
        )
        return info, sha256


class Pictures:
    """Sequences of picture files: one frame each (`clips.Clips`).

    A listed folder is the clip of its pictures, in the order that people number them ("9" before
    "10"); a listed picture is a clip of one frame. The fingerprint holds names and lengths of the
    files, not their contents, of which there may be millions.
    """

    credit = ""

    def __init__(
        self,
        root: Path,
        listed: Sequence[Listed],
        *,
        fps: float | int,
        bad_files: BadFiles = refuse_bad,
    ):
        """fps: the rate of all sequences. Raises Refusal as `bad_files` does."""
        check_fps(fps)
        self._root, self._fps = root, float(fps)
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(self._described, listed))
        good = _good(root, found, bad_files)
        self.infos = [info for info, _ in good]
        self._files = [[name for name, _ in files] for _, files in good]
        self.fingerprint = digest([[asdict(info), files] for info, files in good])

    def __str__(self) -> str:
        return str(self._root)

    def read(self, index: int, numbers: range) -> UInt8[np.ndarray, "t h w 3"]:
        paths = [self._root / self._files[index][number] for number in numbers]
        frames = [video.read_image(path) for path in paths]
        for path, frame in zip(paths, frames, strict=True):
            if frame.shape != frames[0].shape:
                raise Refusal(f"{path}: differs in size from {paths[0].name}")
        return np.stack(frames)

    def _described(self, listed: Listed) -> tuple[ClipInfo, list[tuple[str, int]]] | Refusal:
        path = self._root / listed.name
        try:
            paths = [path] if path.is_file() else pictures(path)
            files = [(p.relative_to(self._root).as_posix(), p.stat().st_size) for p in paths]
            height, width = _size(paths[0])
        except OSError as error:
            return Refusal(f"{path}: cannot be read: {error.strerror or error}")
        except Refusal as refusal:
            return refusal
        info = ClipInfo(
            key=listed.name,
            caption=listed.caption,
            fps=self._fps,
            frames=len(files),
            height=height,
            width=width,
            told=listed.told,
        )
        return info, files


def pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, as people number them. Raises Refusal if there are none."""
    if not folder.is_dir():
        raise Refusal(f"{folder}: no such file or folder")
    names = [entry.name for entry in os.scandir(folder) if _is(entry.name, PICTURE_SUFFIXES)]
    if not names:
        raise Refusal(f"{folder}: holds no pictures ({' '.join(sorted(PICTURE_SUFFIXES))})")
    return [folder / name for name in sorted(names, key=numbered)]


def numbered(name: str) -> list[tuple[int, str]]:
    """A key that sorts names by the numbers in them."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def walked(root: Path, suffixes: frozenset[str]) -> list[str]:
    """Names of files below a folder, relative and in order; hidden ones are passed over.

    Raises Refusal if there is no folder, or none of them.
    """
    if not root.is_dir():
        raise Refusal(f"{root}: no such folder; it is to hold what is trained on")
    names = []
    for place, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(place).relative_to(root)
        names += [(inside / name).as_posix() for name in files if _is(name, suffixes)]
    if not names:
        raise Refusal(f"{root}: holds none of {' '.join(sorted(suffixes))}")
    return sorted(names)


def caption_in(path: Path) -> str:
    """What a text file says; "" where there is none. Raises Refusal."""
    try:
        return path.read_text(encoding="utf-8-sig").strip() if path.is_file() else ""
    except UnicodeDecodeError as error:
        raise Refusal(f"{path} is not UTF-8 ({error}); save it as UTF-8") from error


def _is(name: str, suffixes: frozenset[str]) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in suffixes


def _size(path: Path) -> tuple[int, int]:
    """Height and width of a picture as `read_image` shows it, from its header."""
    try:
        with Image.open(path, formats=STILL_FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION) in SIDEWAYS
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Refusal(f"{path}: is no readable picture ({error})") from error
    return (width, height) if turned else (height, width)


def _good(root: Path, found: Sequence, bad_files: BadFiles) -> list:
    bad = [each for each in found if isinstance(each, Refusal)]
    if bad:
        bad_files(root, bad, len(found))
    return [each for each in found if not isinstance(each, Refusal)]
