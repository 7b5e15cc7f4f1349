"""A folder of real videos: captions from text files beside them.

Videos of any format that core/video.py reads lie anywhere below the folder; `a/b.mp4` has its
caption in `a/b.txt`, if there is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import Windowed
from vdm_jax.data.files import (
    VIDEO_SUFFIXES,
    BadFiles,
    Listed,
    SkipBad,
    Videos,
    caption_in,
    refuse_bad,
    walked,
)
from vdm_jax.data.transform import Windows, check_fps, check_size

Split = Literal["all", "train", "test"]


@dataclass(frozen=True, kw_only=True)
class VideoFolder:
    """Clips of the videos below a folder; a damaged one is refused."""

    directory: str
    windows: Windows
    height: int
    width: int
    fps: float | None = None
    """Rate that videos are resampled to; None keeps each file's own."""
    split: Split = "all"
    """Of the files in order of their names test is the last tenth, at least one; train the rest."""

    def __post_init__(self) -> None:
        check_fps(self.fps)
        check_size(self.height, self.width)
        _check_split(self.split)

    def build(self) -> Windowed:
        clips = Folder(directory=self.directory, fps=self.fps, split=self.split).build()
        return Windowed(clips, self.windows, (self.height, self.width))


@dataclass(frozen=True, kw_only=True)
class Folder:
    """The config part of the videos below a folder. fps, split: as in `VideoFolder`.

    bad_share: share of the files that may be unreadable; they are passed over.
    """

    directory: str
    fps: float | None = None
    split: Split = "all"
    bad_share: float = 0.0

    def __post_init__(self) -> None:
        check_fps(self.fps)
        _check_split(self.split)

    def build(self) -> Videos:
        """Raises Refusal if there are no videos, or more damaged ones than may be."""
        root = Path(self.directory)
        names = _of_split(root, walked(root, VIDEO_SUFFIXES), self.split)
        listed = [Listed(name=name, caption=captioned(root / name)) for name in names]
        return Videos(root, listed, fps=self.fps, bad_files=tolerating(self.bad_share))


def tolerating(share: float) -> BadFiles:
    """What is done about bad files where this share of them may be bad."""
    if not 0 <= share <= 1:
        raise Refusal(f"bad_share must lie in 0 … 1, got {share}")
    return SkipBad(share) if share else refuse_bad


def captioned(path: Path) -> str:
    """The caption of `a/b.mp4`, in `a/b.txt`."""
    return caption_in(path.with_suffix(".txt"))


def _check_split(split: str) -> None:
    if split not in get_args(Split):
        raise Refusal(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")


def _of_split(root: Path, names: Sequence[str], split: Split) -> Sequence[str]:
    if split == "all":
        return names
    if len(names) < 2:
        raise Refusal(f"{root} holds one video; training needs another, to hold out")
    first = len(names) - max(1, len(names) // 10)
    return names[:first] if split == "train" else names[first:]
