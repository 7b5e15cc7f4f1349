"""Where the files of a job lie: named by its id alone, never by what a client calls them."""

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ID = re.compile(r"video_[0-9a-f]{32}")
VIDEO, THUMBNAIL, SPRITESHEET, REFERENCE, IMAGE = (
    "video.mp4", "thumbnail.webp", "spritesheet.jpg", "reference.png", "image.png"
)  # fmt: skip
LEFT = 3600.0  # seconds after which files of no job are left over from a crash


class Files:
    """The files below a data folder, one folder for each job."""

    def __init__(self, data: Path) -> None:
        self.root = data / "videos"
        self.root.mkdir(parents=True, exist_ok=True)

    def folder(self, job: str) -> Path:
        """Of a job: not made. The first letters of its id stand before, so that none grows long."""
        assert ID.fullmatch(job)
        return self.root / job.removeprefix("video_")[:2] / job

    def path(self, job: str, name: str) -> Path:
        return self.folder(job) / name

    def begin(self, job: str) -> Path:
        """Make the folder."""
        folder = self.folder(job)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def remove(self, job: str) -> None:
        shutil.rmtree(self.folder(job), ignore_errors=True)

    def put(self, job: str, contents: dict[str, bytes]) -> None:
        """Write files, each whole and on the disk."""
        with self.drafted(job, contents) as draft:
            draft.publish()

    @contextmanager
    def drafted(self, job: str, contents: dict[str, bytes]) -> Iterator["Draft"]:
        """Files that are on the disk, under names that nobody reads until they are published."""
        folder, mark = self.begin(job), secrets.token_hex(4)
        parts = {name: folder / f".{name}.{mark}" for name in contents}
        try:
            for name, part in parts.items():
                with part.open("wb") as file:
                    file.write(contents[name])
                    file.flush()
                    os.fsync(file.fileno())
            yield Draft(folder, parts)
        finally:
            for part in parts.values():
                part.unlink(missing_ok=True)

    def old(self) -> list[str]:
        """Ids of folders that have been there for a while."""
        before = time.time() - LEFT
        folders = (
            each for group in self.root.iterdir() if group.is_dir() for each in group.iterdir()
        )
        return [f.name for f in folders if ID.fullmatch(f.name) and f.stat().st_mtime < before]


class Draft:
    """Files of a job that are written, but not yet seen."""

    def __init__(self, folder: Path, parts: Mapping[str, Path]) -> None:
        self._folder, self._parts = folder, parts

    @property
    def size(self) -> int:
        """Bytes of these and of the files that are seen."""
        seen = {each for each in self._folder.iterdir() if not each.name.startswith(".")}
        seen -= {self._folder / name for name in self._parts}
        return sum(each.stat().st_size for each in (*seen, *self._parts.values()))

    def publish(self) -> None:
        """Each in place of what was there, for good; what a crash left beside them goes."""
        for name, part in self._parts.items():
            os.replace(part, self._folder / name)
        for left in self._folder.glob(".*"):
            left.unlink(missing_ok=True)
        for folder in (self._folder, self._folder.parent, self._folder.parent.parent):
            _sync(folder)


def _sync(folder: Path) -> None:
    """What the folder lists outlasts a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
