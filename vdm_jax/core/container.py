"""Reading video containers (MP4, MOV, WebM, MKV, AVI, MPEG) that may be broken or hostile.

FFmpeg guesses a file's format from its text, and some formats are lists of other files to open: a
playlist renamed clip.mp4 would make it read a neighbour's video. So the first bytes are checked
here, the demuxer is pinned to what they say, and only plain local files are opened. What the
header claims is held against `Limits` before a frame is decoded, and what comes out, after.

Frames come at a constant rate: of pictures stamped unevenly, each output frame shows the one whose
time has come. Rotation and mirroring by metadata are applied; stored pixels are taken as square.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import heappop, heappush
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from jaxtyping import UInt8

from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sniff import AVI, GIF, MATROSKA, MOV, WEBP, reason, sniff_file, sniff_open
from vdm_jax.core.upright import Upright

Frame = UInt8[np.ndarray, "h w 3"]

_INDEXED = (MOV, MATROSKA, AVI)  # the others are sought in by reading from the start
_PASSED = 10_000  # packets of a group of pictures that an edit begins in


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest video that is opened.

    pixels: of one picture. seconds, fps: of the file. streams: of pictures and sound in it. frames,
    bytes: of what is read into memory, decoded, at the size asked for (streaming with `frames` is
    free of these two).
    """

    pixels: int = 4096 * 4096
    seconds: float | int = 4 * 3600
    fps: float | int = 240
    streams: int = 16
    frames: int = 10_000
    bytes: int = 2**30


@dataclass(frozen=True, kw_only=True)
class Info:
    """What a file's header claims. height and width are as stored, before any rotation.

    pixels: FFmpeg's name of how a pixel is stored, such as yuv420p.
    """

    format: str
    codec: str
    pixels: str
    height: int
    width: int
    fps: float | int
    frames: int | None
    seconds: float | None


Alive = Callable[[], None]
"""Called before each packet of a file is read, for whoever watches that it goes on."""


class _Opened(NamedTuple):
    name: str
    container: InputContainer
    stream: VideoStream
    info: Info


def probe(path: str | os.PathLike | bytes, limits: Limits | None = None) -> Info:
    """What the header of a container file says, held against `limits`. Raises Refusal."""
    with _opened(path, limits or Limits()) as opened:
        return opened.info


def measure(
    path: str | os.PathLike | bytes,
    *,
    fps: float | int | None = None,
    limits: Limits | None = None,
    alive: Alive = lambda: None,
) -> tuple[int, float]:
    """(frames, rate) of a file as `frames` would deliver it, without decoding more than the first.

    Reads the whole file, so truncation and marked damage are found. Raises Refusal.
    """
    limits = limits or Limits()
    with _opened(path, limits) as opened:
        rate = float(fps or opened.info.fps)
        begin, pictures, last, seen = _begin(opened.stream), 0, -1, False
        for packet in _packets(opened, alive):
            if packet.is_corrupt:
                raise ValueError(f"it breaks off or is damaged after frame {last}")
            if packet.size and not packet.is_discard:
                pictures += 1
                time = _time(packet, opened.info.format)
                if time is None or begin is None:
                    last = max(last, pictures - 1)
                else:
                    last = max(last, round((time - begin) * rate))
            seen = seen or bool(packet.decode())
        if not seen or last < 0:
            raise ValueError("it holds no pictures")
        if (last + 1) / rate > limits.seconds:
            raise Refusal(f"{opened.name}: lasts longer than {limits.seconds:g} s")
        return last + 1, rate


def frames(
    path: str | os.PathLike | bytes,
    *,
    start: int = 0,
    stop: int | None = None,
    size: tuple[int, int] | None = None,
    fps: float | int | None = None,
    limits: Limits | None = None,
    alive: Alive = lambda: None,
) -> Iterator[Frame]:
    """Decode frames start … stop - 1, one at a time, seeking to the first.

    path: a file, or the bytes of one. size: (height, width) to resize each frame to, antialiased:
    bicubic, or where that is half the size or less, by the means of areas, in half the time. fps:
    the constant rate that frames are numbered at; None is the file's own.
    Raises Refusal if the file cannot be read, is damaged, or ends before `start`; it may end
    before `stop`.
    """
    limits = limits or Limits()
    with _opened(path, limits) as opened:
        rate = float(fps or opened.info.fps)
        yield from _decoded(opened, start, stop, size, rate, limits, alive)


def collect(
    path: str | os.PathLike | bytes,
    *,
    start: int = 0,
    stop: int | None = None,
    size: tuple[int, int] | None = None,
    fps: float | int | None = None,
    limits: Limits | None = None,
) -> tuple[list[Frame], float]:
    """`frames` as a list within `limits.frames` and `limits.bytes`, and their rate."""
    limits, name = limits or Limits(), _name(path)
    pictures: list[Frame] = []
    with _opened(path, limits) as opened:
        info = opened.info
        rate = float(fps or info.fps)
        height, width = size or (info.height, info.width)
        if info.frames is not None:
            promised = math.ceil(info.frames * rate / info.fps)
            _check_total(name, min(promised, stop or promised) - start, height, width, limits)
        for frame in _decoded(opened, start, stop, size, rate, limits):
            pictures.append(frame)
            _check_total(name, len(pictures), frame.shape[0], frame.shape[1], limits)
    return pictures, rate


def _check_total(name: str, count: int, height: int, width: int, limits: Limits) -> None:
    if count > limits.frames:
        raise Refusal(f"{name}: has {count} frames or more; at most {limits.frames} are read")
    if count * height * width * 3 > limits.bytes:
        raise Refusal(f"{name}: decodes to more than the allowed {limits.bytes / 1e6:.0f} MB")


def _decoded(
    opened: _Opened,
    start: int,
    stop: int | None,
    size: tuple[int, int] | None,
    rate: float,
    limits: Limits,
    alive: Alive = lambda: None,
) -> Iterator[Frame]:
    shown, shape = -1, None
    upright = Upright(size)
    for number, picture in _timeline(opened, rate, start, alive):
        if stop is not None and number >= stop:
            return
        if number > limits.seconds * rate:
            raise Refusal(f"{opened.name}: lasts longer than {limits.seconds:g} s")
        if picture.width * picture.height > limits.pixels:  # the header need not tell the truth
            told = f"{picture.width}x{picture.height}"
            raise Refusal(f"{opened.name}: a picture of {told} is over the limit")
        shown = number
        if number >= start:
            frame = upright(picture)
            if shape not in (None, frame.shape):
                raise Refusal(f"{opened.name}: changes its size at frame {number}")
            shape = frame.shape
            yield frame
    if shown < start:
        raise Refusal(f"{opened.name}: ends after {shown + 1} frames, frame {start} was asked for")


def _name(path: str | os.PathLike | bytes) -> str:
    return "video in memory" if isinstance(path, bytes) else str(path)


def _checked_source(path: str | os.PathLike | bytes) -> tuple[str | BytesIO, str]:
    if isinstance(path, bytes):
        found = sniff_open(BytesIO(path), len(path), _name(path))
        return BytesIO(path), found
    return os.path.abspath(path), sniff_file(Path(path))  # an absolute path is never a protocol


@contextmanager
def _opened(path: str | os.PathLike | bytes, limits: Limits) -> Iterator[_Opened]:
    """The file within `limits`. Any fault of FFmpeg inside becomes a Refusal naming the file."""
    name = _name(path)
    file, demuxer = _checked_source(path)
    if demuxer in (GIF, WEBP):
        raise Refusal(f"{name}: is an animated picture, not a video container")
    options = {"protocol_whitelist": "file", "max_pixels": str(2 * limits.pixels)}
    try:
        with av.open(file, "r", demuxer, options=options, metadata_errors="replace") as opened:
            count = len(opened.streams.video) + len(opened.streams.audio)
            if count > limits.streams:
                raise Refusal(f"{name}: has {count} streams, over {limits.streams}")
            stream = _video_stream(opened)
            if stream is None:
                raise Refusal(f"{name}: has no video stream")
            stream.codec_context.options = {"max_pixels": str(limits.pixels)}
            yield _Opened(name, opened, stream, _inspect(name, opened, stream, demuxer, limits))
    except (av.FFmpegError, OSError, ValueError, OverflowError, MemoryError) as error:
        raise Refusal(f"{name}: cannot be decoded: {reason(error)}") from error


def _inspect(
    name: str, opened: InputContainer, stream: VideoStream, demuxer: str, limits: Limits
) -> Info:
    codec = stream.codec_context
    if codec.width < 1 or codec.height < 1:
        raise Refusal(f"{name}: states no picture size, or one far over {limits.pixels} pixels")
    if codec.width * codec.height > limits.pixels:
        raise Refusal(
            f"{name}: pictures of {codec.width}x{codec.height} are over the limit of"
            f" {limits.pixels} pixels"
        )
    fps = _frame_rate(stream)
    if fps is None or not 0 < fps <= limits.fps:
        raise Refusal(f"{name}: frame rate {fps} is not between 0 and {limits.fps:g}")
    seconds = None if opened.duration is None else opened.duration / av.time_base
    if seconds is not None and seconds > limits.seconds:
        raise Refusal(f"{name}: lasts {seconds:.0f} s; at most {limits.seconds:g} s are allowed")
    return Info(
        format=demuxer,
        codec=codec.name,
        pixels=codec.pix_fmt or "",
        height=codec.height,
        width=codec.width,
        fps=fps,
        frames=stream.frames or None,
        seconds=seconds,
    )


def _video_stream(opened: InputContainer) -> VideoStream | None:
    """The first video stream that is decodable and not a cover picture."""
    for stream in opened.streams.video:
        cover = stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails)
        if stream.codec_context is not None and not cover:
            return stream
    return None


def _frame_rate(stream: VideoStream) -> float | None:
    """The nominal rate; the average where stamps are so uneven that the two disagree."""
    nominal, average = stream.guessed_rate, stream.average_rate
    if nominal and average and not 0.95 < nominal / average < 1.05:
        return float(average)
    rate = nominal or average
    return float(rate) if rate else None


def _timeline(
    opened: _Opened, rate: float, start: int, alive: Alive
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, picture) at a constant rate, from the key picture before `start` or earlier."""
    stream, begin, tick = opened.stream, opened.stream.start_time, opened.stream.time_base
    indexed = opened.info.format in _INDEXED
    if start > 0 and indexed and begin is not None and tick is not None:
        target = begin + math.floor(start / rate / tick)
        opened.container.seek(target, stream=stream)
        pictures = _numbered(opened, rate, alive)
        first = next(pictures, None)
        if first is not None and first[0] <= start and first[1].time is not None:
            return _filled(chain([first], pictures), first[0])
        opened.container.seek(begin, stream=stream)  # landed too late: read from the start
    return _filled(_numbered(opened, rate, alive), 0)


def _numbered(opened: _Opened, rate: float, alive: Alive) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decoded pictures with their place on the time line; counted where they have no time.

    Raises ValueError at damage.
    """
    number = -1
    begin = _begin(opened.stream)
    coming: list[float] = []  # AVI: times of pictures, of which the earliest is shown next
    for packet in _packets(opened, alive):
        if packet.is_corrupt:
            raise ValueError(f"it breaks off or is damaged after frame {number}")
        time = _time(packet, opened.info.format)
        if opened.info.format == AVI and packet.size and time is not None:
            heappush(coming, time)
        for picture in packet.decode():
            if picture.is_corrupt:
                raise ValueError(f"frame {number + 1} is damaged")
            time = heappop(coming) if coming else picture.time
            if time is None or begin is None:
                number += 1
            else:
                number = max(number, round((time - begin) * rate), 0)
            yield number, picture
    if number < 0:
        raise ValueError("it holds no pictures")


def _packets(opened: _Opened, alive: Alive) -> Iterator[av.Packet]:
    """All packets. Raises ValueError where an edit list passes over too many in a row."""
    packets, passed = opened.container.demux(opened.stream), 0
    while True:
        alive()
        packet = next(packets, None)
        if packet is None:
            return
        passed = passed + 1 if packet.is_discard else 0
        if passed > _PASSED:
            raise ValueError(f"over {_PASSED} packets in a row are not to be shown")
        yield packet


def _time(packet: av.Packet, demuxer: str) -> float | None:
    """When a packet is shown, in seconds; AVI only says when it is decoded."""
    stamp = packet.dts if packet.pts is None or demuxer == AVI else packet.pts
    if stamp is None or packet.time_base is None:
        return None
    return float(stamp * packet.time_base)


def _begin(stream: VideoStream) -> float | None:
    """When the stream starts, in seconds; None if it does not say."""
    if stream.start_time is None or stream.time_base is None:
        return None
    return float(stream.start_time * stream.time_base)


def _filled(
    numbered: Iterator[tuple[int, av.VideoFrame]], first: int
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Repeat pictures over numbers that were skipped; of several with one number keep the last."""
    held, due, number = None, first, first
    for number, picture in numbered:
        while held is not None and due < number:
            yield due, held
            due += 1
        held = picture
    while held is not None and due <= number:
        yield due, held
        due += 1
