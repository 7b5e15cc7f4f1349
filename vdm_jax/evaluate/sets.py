"""Sets of clips that are compared: real ones, generated ones, and what simple answers look like."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable
from urllib.parse import quote

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import About, Clips, Windowed, digest
from vdm_jax.data.files import VIDEO_SUFFIXES
from vdm_jax.data.folder import Folder
from vdm_jax.data.layouts import UCF101
from vdm_jax.data.shard import MANIFEST, Manifest, ShardFolder
from vdm_jax.data.source import Sample
from vdm_jax.data.transform import cover

Video = UInt8[np.ndarray, "t h w 3"]
TEST = "test"
LONGEST = 120  # letters of a file's name, beyond which it is cut


@runtime_checkable
class ClipSet(Protocol):
    """Clips of one shape, by number. title: for people.

    about: what clip `number` is called, and so on. identity: says what a clip holds, so that what
    was measured of it can be kept.
    """

    @property
    def title(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Video: ...

    def about(self, number: int, /) -> About: ...

    def identity(self, number: int, /) -> str: ...


class Taken:
    """Some windows of a source, in a given order."""

    def __init__(self, title: str, source: Windowed, places: Sequence[int]):
        self.title, self.source, self._places = title, source, list(places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Video:
        return self.sample(number)["video"]

    def sample(self, number: int) -> Sample:
        return self.source[self._places[number]]

    def about(self, number: int) -> About:
        return self.source.about(self._places[number])

    def identity(self, number: int) -> str:
        return f"{self.source.fingerprint}:{self._places[number]}"


class Given:
    """The first frames of clips of a storage, brought to one size: generated elsewhere.

    places: which clips, in order.
    """

    def __init__(
        self,
        title: str,
        clips: Clips,
        places: Sequence[int],
        *,
        num_frames: int,
        size: tuple[int, int],
        resampling: Image.Resampling,
    ):
        """Raises Refusal where a clip is too short, or of another size than the first."""
        check(clips, num_frames)
        self.title, self._clips, self._places = title, clips, list(places)
        self._frames, self._size, self._resampling = range(num_frames), size, resampling

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Video:
        frames = self._clips.read(self._places[number], self._frames)
        return cover(frames, self._size, resampling=self._resampling)

    def about(self, number: int) -> About:
        info = self._clips.infos[self._places[number]]
        return About(info.key, info.caption, info.fps)

    def identity(self, number: int) -> str:
        shape = f"{len(self._frames)} at {self._size} {self._resampling.name}"
        return f"{self._clips.fingerprint}:{self._places[number]} {shape}"


class CopyFirst:
    """Each clip's first frame, held."""

    title = "copy the first frame"

    def __init__(self, of: ClipSet):
        self._of = of

    def __len__(self) -> int:
        return len(self._of)

    def __getitem__(self, number: int) -> Video:
        clip = self._of[number]
        return np.broadcast_to(clip[:1], clip.shape)

    def about(self, number: int) -> About:
        return self._of.about(number)

    def identity(self, number: int) -> str:
        return f"{type(self).__name__} of {self._of.identity(number)}"


class Extrapolated(CopyFirst):
    """Each clip's first two frames, continued in a straight line, pixel by pixel."""

    title = "extrapolate the first two frames"

    def __getitem__(self, number: int) -> Video:
        clip = self._of[number]
        first, second = (clip[i].astype(np.int32) for i in (0, min(1, len(clip) - 1)))
        times = np.arange(len(clip)).reshape(-1, 1, 1, 1)
        return np.clip(first + times * (second - first), 0, 255).astype(np.uint8)


BASELINES: dict[str, type[CopyFirst]] = {"copy": CopyFirst, "linear": Extrapolated}
REAL, OTHER = "real clips", "other real clips"
RESERVED = {REAL, OTHER, *(each.title for each in BASELINES.values())}
"""Titles of sets that are ours."""


def video_of(about: About) -> str:
    """The video that a window is of, or a clip that is one."""
    video, colon, start = about.key.rpartition(":")
    return video if colon and start.isdecimal() else about.key


def bare(video: str) -> str:
    """The name of a video's file in its folder, without its ending."""
    path = PurePosixPath(video)
    return str(path.with_suffix("")) if path.suffix.lower() in VIDEO_SUFFIXES else video


def name_of(about: About) -> str:
    """A name for a file of this clip: of the video and where in it the window begins."""
    start = about.key[len(video_of(about)) :].removeprefix(":") or "0"
    name = quote(bare(video_of(about)), safe=" ()")
    if len(name) > LONGEST:
        name = f"{name[:80]}-{digest(name)[:16]}"
    return f"{name}+{start}"


def opened(path: Path, split: str | None) -> Clips:
    """The clips in a folder: shards, UCF-101 as it is unpacked, or videos of any format.

    split: None takes the test split of shards, all of anything else.
    """
    if not path.is_dir():
        raise Refusal(f"{path}: is no folder of videos or shards")
    part: Any
    if (path / MANIFEST).is_file():
        part = ShardFolder(directory=str(path), split=split or _tested(path))
    elif (path / "UCF-101").is_dir():
        part = UCF101(directory=str(path), split=_one_of(split))
    else:
        part = Folder(directory=str(path), split=_one_of(split))
    return part.build()


def _tested(path: Path) -> str:
    splits = list(Manifest.load(path).splits)
    if TEST not in splits and len(splits) != 1:
        raise Refusal(f"{path}: has the splits {', '.join(splits)}; say --split")
    return TEST if TEST in splits else splits[0]


def _one_of(split: str | None) -> Any:
    if split not in (None, "all", "train", "test"):
        raise Refusal(f"--split {split}: there are all, train and test")
    return split or "all"


def check(clips: Clips, num_frames: int) -> None:
    """Refuse generated clips of which one is too short, or that differ in size."""
    one_size(clips)
    for info in clips.infos:
        if info.frames < num_frames:
            raise Refusal(
                f"{clips}: {info.key} has {info.frames} frames, {num_frames} are compared; "
                f"--protocol.num-frames {info.frames} would take it"
            )


def one_size(clips: Clips) -> tuple[int, int]:
    """(height, width) of clips that must not differ in it."""
    first = clips.infos[0]
    for info in clips.infos:
        if (info.height, info.width) != (first.height, first.width):
            raise Refusal(
                f"{clips}: {first.key} is {first.width}x{first.height}, {info.key} is "
                f"{info.width}x{info.height}; generated clips are all of one size"
            )
    return first.height, first.width
