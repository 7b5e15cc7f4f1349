"""Small videos of any codec and container, and the means to spoil their bytes."""

import os
import struct
import tempfile
import zlib
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np

FPS = 12
RATE = {"b": "2000000"}
OWN = {"libsvtav1": {}, "libx265": {"x265-params": "log-level=none"}}  # instead of it
os.environ.setdefault("SVT_LOG", "1")


def scene(seed=0, frames=20, height=48, width=64):
    """Waves that go by fast enough that no frame passes for its neighbour."""
    y, x = np.mgrid[:height, :width]
    a, b, c = np.random.default_rng(seed).uniform(0.7, 1.3, 3)
    channels = lambda i: (  # noqa: E731
        127 + 100 * np.sin((x * a + 4 * i) / 15),
        127 + 100 * np.cos((y * b - 4 * i) / 13 + seed),
        127 + 90 * np.sin((x * c + y + 3 * i) / 17),
    )
    return np.stack([np.stack(channels(i), -1) for i in range(frames)]).clip(0, 255).astype("uint8")


def movie(
    frames, suffix=".mp4", codec="libx264", pix_fmt="yuv420p", *, fps=FPS, times=None, turn=None,
    options=(), muxing=(), tags=(), sound=(), before="", attached=0, stamp=None,
):  # fmt: skip
    """The bytes of a video file.

    times: of the frames, in 1/fps s. turn: (degrees, hflip). sound: codecs of sound tracks. before:
    "sound" if these come first. attached: so many files of 1 kB inside. stamp: (number, time) of
    a packet -> its time, in 1/fps s.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"made{suffix}"
        with av.open(str(path), "w", options=dict(muxing)) as file:
            file.metadata.update(dict(tags))
            tracks = [_sound(file, each) for each in sound] if before == "sound" else []
            stream = file.add_stream(codec, rate=fps, options=OWN.get(codec, RATE) | dict(options))
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = pix_fmt
            stream.codec_context.thread_count = 1
            if times is not None:
                stream.codec_context.time_base = Fraction(1, fps)
            if turn is not None:
                stream.set_display_rotation(turn[0], hflip=turn[1])
            tracks = tracks or [_sound(file, each) for each in sound]
            for number in range(attached):
                file.add_attachment(f"f{number}.ttf", "font/ttf", bytes(1000))
            packets = [p for frame in _pictures(frames, pix_fmt, fps, times)
                       for p in stream.encode(frame)]  # fmt: skip
            for number, packet in enumerate(packets + stream.encode()):
                if stamp is not None:
                    packet.pts = packet.dts = stamp(number, packet.pts)
                file.mux(packet)
            for track in tracks:
                file.mux(_silence(track, len(frames) / fps))
        return path.read_bytes()


def _pictures(frames, pix_fmt, fps, times):
    for number, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pix_fmt)
        picture.pts = number if times is None else times[number]
        picture.time_base = Fraction(1, fps)
        yield picture


def _sound(file, codec):
    stream = file.add_stream(codec, rate=48000)
    stream.codec_context.layout = "mono"
    return stream


def _silence(stream, seconds):
    packets = []
    context = stream.codec_context
    size = 1024 if context.frame_size == 0 else context.frame_size
    for start in range(0, max(1, int(seconds * 48000)), size):
        sound = av.AudioFrame(format=context.format.name, layout="mono", samples=size)
        for plane in sound.planes:
            plane.update(bytes(plane.buffer_size))
        sound.sample_rate, sound.pts = 48000, start
        packets += stream.encode(sound)
    return packets + stream.encode()


def soundtrack(suffix=".mp4", codec="aac"):
    """A file without pictures."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"made{suffix}"
        with av.open(str(path), "w") as file:
            file.mux(_silence(_sound(file, codec), 1))
        return path.read_bytes()


# MP4 -----------------------------------------------------------------------------------------

TRACK, MEDIA = "moov/trak", "moov/trak/mdia"
TABLE = f"{MEDIA}/minf/stbl"


def u32(*numbers):
    return struct.pack(f">{len(numbers)}I", *(n % 2**32 for n in numbers))


def box(kind, body):
    return u32(len(body) + 8) + kind.encode("latin-1") + body


def changed(data, path, change):
    """An MP4 file with the payload of a box replaced by `change(payload)`; sizes are put right.

    Its moov must be at the end: otherwise the offsets of the samples would be wrong.
    """
    wanted, _, rest = path.partition("/")
    out, at = b"", 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        size, kind = size or len(data) - at, kind.decode("latin-1")
        body = data[at + 8 : at + size]
        if kind == wanted:
            body = changed(body, rest, change) if rest else change(body)
        out, at = out + box(kind, body), at + size
    return out


def put(at, new):
    """A change that writes `new` over a payload from `at` on."""
    return lambda body: body[:at] + new + body[at + len(new) :]


def references(entry):
    """The payload of a dref box with this one entry."""
    return bytes(4) + u32(1) + entry


def address(url):
    return box("url ", bytes(4) + url.encode() + b"\0")


def alias(path):
    """A Mac alias to a file, by its absolute path and by the one from a folder to it."""
    name = Path(path).name.encode()[:63]
    body = bytes(4) + bytes(10) + b"\x01v".ljust(28, b"\0") + bytes(12)
    body += bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16)
    body += struct.pack(">hh", 1, 1) + bytes(16)
    for kind, value in ((2, str(path).encode()), (0, str(Path(path).parent).encode())):
        body += struct.pack(">hH", kind, len(value)) + value + b"\0" * (len(value) % 2)
    return box("alis", (body + struct.pack(">hh", -1, 0)).ljust(200, b"\0"))


def edits(*entries):
    """The payload of an edts box; entries: (duration, from when in the media)."""
    return box("elst", bytes(4) + u32(len(entries)) + b"".join(
        u32(length, start, 0x10000) for length, start in entries))  # fmt: skip


def sps(width, height):
    """A sequence header of H.264 (7.3.2.1.1) for pictures of this size; both in 16 pixels."""
    bits = "1" * 3 + _ue(0) + _ue(1) + "0" + _ue(width - 1) + _ue(height - 1) + "11001"
    # ids and lengths: seq_parameter_set_id, log2_max_frame_num, pic_order_cnt_type are all 0
    bits += "0" * (-len(bits) % 8)
    raw = bytes([66, 0xC0, 62]) + int(bits, 2).to_bytes(len(bits) // 8, "big")
    return b"\x67" + raw.replace(b"\0\0\0", b"\0\0\3\0").replace(b"\0\0\1", b"\0\0\3\1")


def _ue(value):
    """Exp-Golomb."""
    digits = f"{value + 1:b}"
    return "0" * (len(digits) - 1) + digits


def avcc(header):
    """The payload of an avcC box with this sequence header."""
    picture = b"\x68\xce\x38\x80"
    return (
        b"\x01\x42\xc0\x3e\xff\xe1" + struct.pack(">H", len(header)) + header
        + b"\x01" + struct.pack(">H", len(picture)) + picture
    )  # fmt: skip


@cache
def zeros(megabytes):
    """So much of nothing, compressed by zlib to a thousandth."""
    packer = zlib.compressobj(9)
    head = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    count = megabytes * 2**20
    end = b"\x03\0" + struct.pack(">I", (count % 65521) << 16 | 1)
    return head + block * (megabytes - 1) + end


def compressed_head(data, packed=None, size=None):
    """An MP4 file whose moov is compressed, as QuickTime had it."""
    at = data.index(b"moov") - 4
    moov = data[at:]
    packed = zlib.compress(moov) if packed is None else packed
    size = len(moov) if size is None else size
    inside = box("dcom", b"zlib") + box("cmvd", u32(size) + packed)
    return data[:at] + box("moov", box("cmov", inside))


def png_chunk(kind, body):
    return u32(len(body)) + kind + body + u32(zlib.crc32(kind + body))


def large_png(data, side):
    """PNG pictures in some file, each now said to be side x side."""
    out = data
    at = out.find(b"IHDR")
    while at > 0:
        body = u32(side, side) + out[at + 12 : at + 17]
        out = out[: at - 4] + png_chunk(b"IHDR", body) + out[at + 21 :]
        at = out.find(b"IHDR", at + 4)
    return out


def large_jpeg(data, side):
    """Likewise, of baseline JPEG."""
    return _after(data, b"\xff\xc0\x00\x11\x08", struct.pack(">HH", side, side))


def _after(data, mark, new):
    at = data.find(mark)
    assert at > 0, mark
    while at > 0:
        begin = at + len(mark)
        data = data[:begin] + new + data[begin + len(new) :]
        at = data.find(mark, begin)
    return data
