"""Video files <-> uint8 arrays "t h w c": MP4, GIF, WebP and folders of PNG.

Reading also takes MOV, WebM, MKV, AVI and MPEG, and is safe on damaged or hostile files (see
core/container.py); each fault is one Refusal that names the file. Writing is atomic: the file
appears whole under its name, or not at all. There is no network input.
"""

import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from jaxtyping import UInt8

from vdm_jax.core import container, still
from vdm_jax.core.container import Alive, Info, Limits, frames, probe
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sniff import GIF, WEBP, sniff_file
from vdm_jax.core.sound import Sound, Track
from vdm_jax.core.still import read_image

__all__ = [
    "H264",
    "Clip",
    "Codec",
    "Extent",
    "Info",
    "Limits",
    "Lossless",
    "decode",
    "encode",
    "frames",
    "measure",
    "probe",
    "read",
    "read_image",
    "write",
    "write_film",
]

Frame = UInt8[np.ndarray, "h w 3"]
Video = UInt8[np.ndarray, "t h w 3"]


# x264's AVX-512 code reads memory that nobody wrote, where macroblocks do not fill a register: the
# same frames gave other bytes, and up to 1 dB less, from run to run. AVX is what jaxlib asks for.
_X86 = platform.machine().lower() in ("x86_64", "amd64")
_REPEATABLE = {"x264-params": "asm=avx"} if _X86 else {}


class Clip(NamedTuple):
    """Pictures at a constant rate of `fps` a second."""

    frames: Video
    fps: float | int


class Extent(NamedTuple):
    """How long a video is."""

    frames: int
    fps: float


@dataclass(frozen=True, kw_only=True)
class H264:
    """How MP4 is compressed: x264, 4:2:0, BT.709.

    crf: quality, 0 (best) … 51; 17 is visually lossless. keyframe_interval: frames from one
    picture that can be decoded alone to the next; 1 makes random access cheapest. threads: 0
    takes all cores; with 1 the bytes do not depend on the machine.
    """

    crf: float | int = 17
    keyframe_interval: int = 48
    preset: str = "medium"
    threads: int = 0


@dataclass(frozen=True, kw_only=True)
class Lossless:
    """MP4 that comes back to the bit: x264 on RGB. For programs; browsers do not show it."""

    preset: str = "veryfast"


Codec = H264 | Lossless


def read(
    path: str | os.PathLike,
    *,
    start: int = 0,
    stop: int | None = None,
    size: tuple[int, int] | None = None,
    fps: float | int | None = None,
    limits: Limits | None = None,
) -> Clip:
    """Read frames start … stop - 1 of a video file or a folder of numbered PNG files.

    size: (height, width) to resize to while decoding, as `container.frames` does. fps: the constant
    rate to resample to; None keeps the file's own. Both apply to containers; pictures (GIF, WebP,
    PNG) are read as they are. Raises Refusal.
    """
    path, limits = Path(path), limits or Limits()
    kind = "folder" if path.is_dir() else sniff_file(path)
    if kind not in ("folder", GIF, WEBP):
        pictures, rate = container.collect(
            path, start=start, stop=stop, size=size, fps=fps, limits=limits
        )
        return Clip(np.stack(pictures), rate)
    if kind == "folder":
        pictures, rate = still.read_folder(path, limits)
    else:
        pictures, rate = still.read_animation(path, kind.upper(), limits)
    if start >= len(pictures):
        raise Refusal(f"{path}: ends after {len(pictures)} frames, frame {start} was asked for")
    return Clip(np.stack(pictures[start:stop]), rate)


def measure(
    path: str | os.PathLike,
    *,
    fps: float | int | None = None,
    limits: Limits | None = None,
    alive: Alive = lambda: None,
) -> Extent:
    """How many frames `read` would deliver, and their rate; containers are hardly decoded."""
    path = Path(path)
    if not path.is_dir() and sniff_file(path) not in (GIF, WEBP):
        return Extent(*container.measure(path, fps=fps, limits=limits, alive=alive))
    clip = read(path, limits=limits)
    return Extent(len(clip.frames), float(clip.fps))


def decode(data: bytes, *, start: int = 0, stop: int | None = None) -> Clip:
    """`read` for the bytes of a container, such as `encode` makes."""
    pictures, rate = container.collect(data, start=start, stop=stop)
    return Clip(np.stack(pictures), rate)


def write(
    path: str | os.PathLike, frames: Video, fps: float | int, *, codec: Codec | None = None
) -> None:
    """Write a video; the suffix picks .mp4 (H.264), .gif, .webp, or without one a PNG folder.

    An MP4 of odd height or width repeats its last row or column, since 4:2:0 colour needs even
    ones. GIF keeps time in 10 ms steps. A folder that holds anything but numbered PNG files is
    not replaced. Raises Refusal, leaving nothing behind, if the path cannot be written.
    """
    path = Path(path)
    writers: dict[str, Callable[[Path], None]] = {
        ".mp4": lambda part: _write_mp4(str(part), frames, fps, codec or H264()),
        ".gif": lambda part: still.write_animation(part, frames, fps, "GIF"),
        ".webp": lambda part: still.write_animation(part, frames, fps, "WEBP"),
        "": lambda part: still.write_folder(part, frames, fps),
    }
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise Refusal(f"{path}: cannot write {path.suffix}; use .mp4, .gif, .webp or a folder")
    if len(frames) == 0 or not 0 < fps <= 1000:
        raise Refusal(
            f"{path}: a video needs a frame and 0 < fps <= 1000, got {len(frames)}, {fps}"
        )
    _put(path, writer)


def write_film(
    path: str | os.PathLike,
    frames: Iterable[Frame],
    fps: float | int,
    *,
    sound: Sound | None = None,
    codec: Codec | None = None,
) -> int:
    """Write an MP4 of frames that come one at a time, with sound as long as they last.

    Returns how many there were. Atomic as `write` is. Raises Refusal if the path cannot be written,
    or there is no frame.
    """
    path, count = Path(path), 0
    if path.suffix.lower() != ".mp4" or not 0 < fps <= 1000:
        raise Refusal(f"{path}: a film is an .mp4 of 0 < fps <= 1000, got fps {fps}")

    def counted() -> Iterator[Frame]:
        nonlocal count
        for count, frame in enumerate(frames, start=1):  # noqa: B007
            yield frame
        if not count:
            raise Refusal(f"{path}: a film needs a frame")

    _put(path, lambda part: _write_mp4(str(part), counted(), fps, codec or H264(), sound))
    return count


def _put(path: Path, writer: Callable[[Path], None]) -> None:
    check_target(path)
    try:
        _atomically(path, writer)
    except (OSError, av.FFmpegError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Refusal(f"{path}: cannot be written: {reason}") from error


def check_target(path: Path) -> None:
    """Refuse a path that `write` could not write to: early, before there is anything to lose."""
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise Refusal(f"{path}: cannot be written: {nearest} is no folder that may be written to")
    if path.is_dir() and (path.suffix or not still.is_picture_folder(path)):
        raise Refusal(f"{path}: is a folder of other things; not replaced")


def encode(frames: Video, fps: float | int, codec: Codec) -> bytes:
    """The video as the bytes of an MP4 file."""
    buffer = BytesIO()
    _write_mp4(buffer, frames, fps, codec)
    return buffer.getvalue()


def _write_mp4(
    target: str | BytesIO,
    frames: Iterable[Frame],
    fps: float | int,
    codec: Codec,
    sound: Sound | None = None,
) -> None:
    # the index goes first, so that players start at once; a buffer cannot be reopened for that
    flags = {"movflags": "+faststart"} if isinstance(target, str) else {}
    rate = Fraction(fps).limit_denominator(1001)
    each = iter(frames)
    first = next(each)
    with av.open(target, "w", format="mp4", options=flags) as file:
        if isinstance(codec, Lossless):
            stream, picture = _lossless(file, first.shape[:2], rate, codec)
        else:
            stream, picture = _h264(file, first.shape[:2], rate, codec)
        track = None if sound is None else Track(file, sound)
        for number, frame in enumerate(chain([first], each), start=1):
            file.mux(stream.encode(picture(frame)))
            if track is not None:
                track.until(float(number / rate))
        file.mux(stream.encode())
        if track is not None:
            track.close()


def _lossless(file, size: tuple[int, int], rate: Fraction, codec: Lossless):
    """The stream, and how a frame becomes a picture of it."""
    stream = file.add_stream("libx264rgb", rate=rate)
    stream.height, stream.width = size
    stream.pix_fmt = "rgb24"
    stream.options = {"qp": "0", "preset": codec.preset, **_REPEATABLE}
    return stream, lambda frame: av.VideoFrame.from_ndarray(frame, format="rgb24")


def _h264(file, size: tuple[int, int], rate: Fraction, codec: H264):
    """The stream, and how a frame becomes a picture of it."""
    height, width = size
    odd = ((0, height % 2), (0, width % 2), (0, 0))
    stream = file.add_stream("libx264", rate=rate)
    stream.height, stream.width = height + height % 2, width + width % 2
    stream.pix_fmt = "yuv420p"
    stream.options = {"crf": str(codec.crf), "preset": codec.preset, **_REPEATABLE}
    stream.gop_size = codec.keyframe_interval
    encoder = stream.codec_context
    encoder.thread_count = codec.threads
    encoder.colorspace = encoder.color_primaries = encoder.color_trc = Colorspace.ITU709
    encoder.color_range = ColorRange.MPEG
    return stream, lambda frame: _to_yuv(
        av.VideoFrame.from_ndarray(np.pad(frame, odd, mode="edge"), format="rgb24")
    )


def _to_yuv(rgb: av.VideoFrame) -> av.VideoFrame:
    return rgb.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
    )


def _atomically(path: Path, writer: Callable[[Path], None]) -> None:
    """Write beside `path` under a temporary name, then take its place; nothing stays on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as scratch:
        part = Path(scratch) / path.name
        writer(part)
        if path.is_dir():  # a folder cannot be replaced by renaming alone
            path.rename(Path(scratch) / "replaced")
        os.replace(part, path)
