"""What kind of video a file is, by its first bytes: names never decide how a file is opened."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

from vdm_jax.core.refusal import Refusal

MOV, MATROSKA, AVI, MPEG, MPEG_TS, MPEG_RAW = (
    "mp4",
    "matroska",
    "avi",
    "mpeg",
    "mpegts",
    "mpegvideo",
)
GIF, WEBP = "gif", "webp"
WAV, FLAC, OGG, MP3 = "wav", "flac", "ogg", "mp3"
_MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")
_LATER_BOXES = (b"moof", b"mfra", b"sidx", b"styp", b"uuid", b"udta", b"meta")


def sniff(head: bytes) -> str | None:
    """The demuxer for a file that begins with `head` (12 bytes or more); None if not a video."""
    if head[4:8] in _MOV_BOXES:
        return MOV
    if head[:4] == b"\x1a\x45\xdf\xa3":
        return MATROSKA
    if head[:4] == b"RIFF" and head[8:12] in (b"AVI ", b"WEBP"):
        return AVI if head[8:12] == b"AVI " else WEBP
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return GIF
    if head[:4] == b"\x00\x00\x01\xba":
        return MPEG
    if head[:4] == b"\x00\x00\x01\xb3":
        return MPEG_RAW
    if head[:1] == b"\x47" and head[188:189] == b"\x47":
        return MPEG_TS
    return None


def sniff_sound(head: bytes) -> str | None:
    """The same for files of sound alone; None if it is none of them."""
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return WAV
    if head[:4] in (b"fLaC", b"OggS"):
        return FLAC if head[:4] == b"fLaC" else OGG
    frame = head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE0 == 0xE0
    layer = frame and head[1] & 0x06 != 0  # 0 is AAC's own framing
    return MP3 if head[:3] == b"ID3" or layer else None


def sniff_file(path: Path) -> str:
    """`sniff` of a regular, non-empty local file. Raises Refusal if it is anything else."""
    with _regular(path, "a video file") as file:
        return sniff_open(file, os.fstat(file.fileno()).st_size, str(path))


def sniff_sound_file(path: Path) -> str:
    """The demuxer for a regular local file of sound, or of a video. Raises Refusal."""
    with _regular(path, "a file of sound") as file:
        head = file.read(256)
        if not head:
            raise Refusal(f"{path}: is empty")
        if found := sniff_sound(head):
            return found
        if sniff(head) in (None, GIF, WEBP):
            raise Refusal(
                f"{path}: is neither sound nor a video by its contents; readable are wav, flac, "
                "ogg, mp3, m4a, mp4, mov, webm, mkv, avi and mpg"
            )
        file.seek(0)
        return sniff_open(file, os.fstat(file.fileno()).st_size, str(path))


@contextmanager
def _regular(path: Path, what: str) -> Iterator[BufferedIOBase]:
    """The file, open. Raises Refusal if it is no regular one, or cannot be read."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise Refusal(f"{path}: is a folder, not {what}")
        if not stat.S_ISREG(mode):
            raise Refusal(f"{path}: is not a regular file")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise Refusal(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise Refusal(f"{path}: cannot be read: {reason(error)}") from error


def sniff_open(file: BufferedIOBase, length: int, name: str) -> str:
    """`sniff` of an open file of `length` bytes. Raises Refusal if it is empty or cut short."""
    head = file.read(256)
    found = sniff(head)
    stated = _mov_length(file, length) if found == MOV else _stated_length(head, found)
    if not head:
        raise Refusal(f"{name}: is empty")
    if found is None:
        raise Refusal(
            f"{name}: is not a video by its contents;"
            " readable are mp4, mov, webm, mkv, avi, mpg, gif, webp and folders of png"
        )
    if stated is not None and length < stated:
        raise Refusal(f"{name}: is cut short: {length} of {stated} bytes are there")
    return found


def _mov_length(file: BufferedIOBase, length: int) -> int:
    """Where the last of the boxes that make up an MP4 or MOV file says it ends."""
    end = 0
    for _ in range(100_000):  # fragmented files have two boxes a fragment
        if end >= length:
            break
        file.seek(end)
        header = file.read(16)
        if header[4:8] not in _MOV_BOXES + _LATER_BOXES:  # the end, or something appended
            break
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8:  # 0: it reaches to the end of the file
            break
        end += size
    return end


def _stated_length(head: bytes, demuxer: str | None) -> int | None:
    """Bytes that a RIFF or Matroska file says it has; None if it does not say."""
    if demuxer in (AVI, WEBP):
        return 8 + int.from_bytes(head[4:8], "little")
    if demuxer != MATROSKA:
        return None
    header = _ebml_size(head, 4)
    if header is None:
        return None
    segment = header.end + header.size
    if head[segment : segment + 4] != b"\x18\x53\x80\x67":
        return None
    body = _ebml_size(head, segment + 4)
    return None if body is None else body.end + body.size


class _Ebml(NamedTuple):
    size: int
    end: int  # where the size field itself ends


def _ebml_size(head: bytes, at: int) -> _Ebml | None:
    """A variable-length size field (RFC 8794, section 4); None if unknown or out of sight."""
    if at >= len(head) or head[at] == 0:
        return None
    length = 9 - head[at].bit_length()
    value = int.from_bytes(head[at : at + length], "big") & ((1 << 7 * length) - 1)
    unknown = value == (1 << 7 * length) - 1
    return None if unknown or at + length > len(head) else _Ebml(value, at + length)


def reason(error: BaseException) -> str:
    """An error's own words, on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
