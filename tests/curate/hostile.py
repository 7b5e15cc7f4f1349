"""Files that are odd, damaged or hostile, each with what is to become of it.

Hostile ones refer to canaries, a text and a film that nothing may read, and to a port at which
nothing may call.
"""

import gzip
import io
import os
import socket
import struct
import tarfile
import zipfile
from functools import cache

import numpy as np
from curate import lists, media, odd
from curate.cases import BROKEN, CANARY, COLOUR, GOOD, NO_VIDEO, Corpus, plain
from curate.media import TABLE, TRACK, box, changed, edits, movie, put, scene, u32
from PIL import Image

ENDED = frozenset({"timed_out", "crashed"})
"""FFmpeg is not safe where memory ends: it may take its worker with it."""


def corpus(folder, outside, port, seed=0):
    """All files, in a new folder; canaries lie in it and in `outside`."""
    made = Corpus(folder, outside, port, np.random.default_rng(seed))
    film = movie(
        np.zeros((20, 48, 64, 3), np.uint8) + np.uint8(COLOUR), tags=[("title", CANARY.decode())]
    )
    for place in (outside, folder):
        place.mkdir(parents=True, exist_ok=True)
        (place / "canary.bin").write_bytes(film)
        (place / "canary.txt").write_bytes(CANARY)
    for kind in (
        neighbours, truncations, mutations, odd.codecs, odd.shapes, odd.times, odd.stamps,
        odd.durations, odd.metadata, odd.names, odd.polyglots, lists.playlists, lists.references,
        impostors, sizes, tables, bombs, animations, specials, captions,
    ):  # fmt: skip
        kind(made)
    for canary in made.canaries:
        os.utime(canary, (0, 0))  # that one was read would show
    return made


def neighbours(made):
    for number, suffix in enumerate((".mp4", ".mkv", ".webm", ".avi", ".mov")):
        frames = scene(100 + number, 24)
        codec = {".webm": "libvpx-vp9", ".avi": "mjpeg"}.get(suffix, "libx264")
        pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        made.add(
            f"neighbour{number}{suffix}",
            movie(frames, suffix, codec, pix_fmt),
            "neighbour",
            GOOD,
            frames,
        )
        (made.folder / f"neighbour{number}.txt").write_text(f"waves, number {number}\n")


def wholes():
    """(name, file) of every container that says how long it is."""
    every = (("g", "1"),)
    fragments = (("movflags", "frag_keyframe+empty_moov"),)
    return {
        "last.mp4": plain(),
        "first.mp4": plain(muxing=(("movflags", "faststart"),)),
        "intra.mp4": plain(options=every),
        "pieces.mp4": plain(options=(("g", "5"),), muxing=fragments),
        "a.mov": plain(".mov"),
        "a.mkv": plain(".mkv"),
        "a.webm": plain(".webm", "libvpx-vp9"),
        "a.avi": plain(".avi", "mpeg4"),
    }


def truncations(made):
    shares = [0.0005, 0.003, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.999]
    for name, data in wholes().items():
        for number, share in enumerate(shares):
            end = max(1, int(len(data) * share)) if number < 9 else len(data) - 1
            made.add(f"cut/{number}{name}", data[:end], "cut short", BROKEN)
    streams = {
        "a.ts": plain(".ts"),
        "b.ts": plain(".ts", "mpeg2video"),
        "a.mpg": plain(".mpg", "mpeg2video"),
        "b.mpg": plain(".m2v", "mpeg2video"),
        "live.mkv": plain(".mkv", muxing=(("live", "1"),)),
    }
    for name, data in streams.items():  # these do not say how long they are
        made.add(f"cut/{name}", data, "stream", GOOD, scene(), error=12)
        for number, share in enumerate(shares[2:]):
            end = max(1, int(len(data) * share)) if number < 7 else len(data) - 1
            made.add(
                f"cut/{number}{name}", data[:end], "cut stream", BROKEN | GOOD, scene(),
                error=12, prefix=True,
            )  # fmt: skip


def mutations(made):
    """Bytes that changed: what becomes of these is open, but that nothing else suffers is not."""
    for name, data in [
        *wholes().items(),
        ("a.ts", plain(".ts")),
        ("a.mpg", plain(".mpg", "mpeg2video")),
    ]:
        for number in range(4):
            mutant = bytearray(data)
            for at in made.rng.integers(0, len(data), 12):
                mutant[at] = made.rng.integers(256)
            made.add(f"flip/{number}{name}", bytes(mutant), "mutation", BROKEN | GOOD)


def impostors(made):
    """What is no video, under the name of one."""
    picture = Image.fromarray(scene()[0])
    files = {
        "empty": b"",
        "one": b"\0",
        "four": b"ftyp",
        "zeros": bytes(5000),
        "noise": made.rng.bytes(5000),
    }
    for form in ("PNG", "JPEG", "TIFF", "BMP", "ICO", "PPM"):
        held = io.BytesIO()
        picture.save(held, form)
        files[form.lower()] = held.getvalue()
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as file:
        file.writestr("clip.mp4", plain())
    files["zip"] = held.getvalue()
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as file:
        entry = tarfile.TarInfo("clip.mp4")
        entry.size = len(plain())
        file.addfile(entry, io.BytesIO(plain()))
    files["tar"] = held.getvalue()
    files |= {
        "gz": gzip.compress(plain()),
        "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj<</Type/Catalog>>endobj\n%%EOF",
        "html": f"<html><video src='http://127.0.0.1:{made.port}/x'></html>".encode(),
        "sh": f"#!/bin/sh\ntouch {made.outside}/ran\n".encode(),
        "py": f"import os; os.mknod('{made.outside}/ran')\n".encode(),
        "elf": b"\x7fELF\x02\x01\x01" + bytes(600),
        "exr": b"\x76\x2f\x31\x01\x02\0\0\0" + bytes(300),
        "pickle": b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.",
        "wav": b"RIFF$\0\0\0WAVEfmt " + bytes(28),
        "flv": movie(scene(), ".flv", "flv"),
        "wmv": movie(scene(), ".wmv", "wmv2"),
        "ogg": b"OggS" + bytes(300),
        "mxf": bytes.fromhex("060e2b34020501010d01020101020400") + bytes(300),
        "nsv": b"NSVf" + bytes(300),
        "swf": b"FWS\x09" + bytes(300),
        "y4m": movie(scene(), ".y4m", "rawvideo"),
        "srt": b"1\n00:00:00,000 --> 00:00:01,000\nhello\n",
        "text": b"hello, world " * 100,
        "sqlite": b"SQLite format 3\0" + bytes(500),
    }
    for number, (name, data) in enumerate(files.items()):
        suffix = (".mp4", ".mkv", ".webm", ".avi", ".ts")[number % 5]
        allowed = {"empty"} if not data else NO_VIDEO
        made.add(f"no/{name}{suffix}", data, "no video", allowed)


def sizes(made):
    """Pictures said to be huge, or nothing, in the header or only in the stream."""
    description = f"{TABLE}/stsd"
    for number, (width, height) in enumerate(((65535, 65535), (16384, 16384), (1, 65535), (0, 0))):
        wrong = changed(plain(), description, put(8 + 32, struct.pack(">HH", width, height)))
        wrong = changed(wrong, f"{TRACK}/tkhd", put(76, u32(width << 16, height << 16)))
        made.add(f"size/head{number}.mp4", wrong, "huge size", GOOD | BROKEN)
    at = plain().index(b"avcC")
    for number, (width, height) in enumerate(
        ((1024, 1024), (1200, 900), (4096, 64), (65535, 65535))
    ):
        body = media.avcc(media.sps(width, height))
        data = changed(plain(), description, lambda old, new=body: _with_avcc(old, new))
        made.add(f"size/sps{number}.mp4", data, "huge size", BROKEN)
    assert at
    for side in (5000, 20_000, 65_500):
        png, jpeg = plain_png(), movie(scene(), ".avi", "mjpeg", "yuvj420p")
        made.add(f"size/png{side}.mov", media.large_png(png, side), "huge size", BROKEN)
        made.add(f"size/jpeg{side}.avi", media.large_jpeg(jpeg, side), "huge size", BROKEN)
    late = plain_png()
    half = late.index(b"IHDR", len(late) // 2) - 4
    made.add(
        "size/late.mov", late[:half] + media.large_png(late[half:], 30_000), "huge size", BROKEN
    )
    vp9 = plain(".webm", "libvpx-vp9")
    for mark, number in ((b"\xb0", 0), (b"\xba", 1)):
        at = vp9.index(mark + b"\x81")  # PixelWidth, PixelHeight in one byte
        wrong = vp9[:at] + mark + b"\x81\x00" + vp9[at + 3 :]
        made.add(f"size/none{number}.webm", wrong, "huge size", GOOD | BROKEN)


@cache
def plain_png():
    return movie(scene(), ".mov", "png", "rgb24")


def _with_avcc(description, body):
    """stsd with another avcC; all else in its entry goes."""
    entry = description[8 + 8 : 8 + 8 + 78] + box("avcC", body)
    return description[:8] + box("avc1", entry)


def tables(made):
    """Sample tables, boxes and indices that do not tell the truth."""
    data = plain()
    wrong = {
        "stsz-count": (f"{TABLE}/stsz", put(8, u32(2**31))),
        "stsz-most": (f"{TABLE}/stsz", put(8, u32(2**32 - 1))),
        "stsz-size": (f"{TABLE}/stsz", put(12, u32(2**31 - 1) * 5)),
        "stsz-none": (f"{TABLE}/stsz", lambda _: bytes(12)),
        "stsz-one": (f"{TABLE}/stsz", lambda _: bytes(4) + u32(1, 2**27)),
        "stts-huge": (f"{TABLE}/stts", lambda _: bytes(4) + u32(1, 20, 2**31 - 1)),
        "stts-zero": (f"{TABLE}/stts", lambda _: bytes(4) + u32(1, 20, 0)),
        "stts-count": (f"{TABLE}/stts", lambda _: bytes(4) + u32(1, 2**31, 1024)),
        "stco-beyond": (f"{TABLE}/stco", lambda body: body[:8] + u32(2**31) * (len(body) // 4 - 2)),
        "stco-zero": (f"{TABLE}/stco", lambda body: body[:8] + u32(0) * (len(body) // 4 - 2)),
        "stsc-huge": (f"{TABLE}/stsc", lambda _: bytes(4) + u32(1, 1, 2**31, 1)),
        "stsc-none": (f"{TABLE}/stsc", lambda _: bytes(8)),
        "stss-none": (f"{TABLE}/stss", lambda _: bytes(8)),
        "ctts-minus": (f"{TABLE}/ctts", lambda _: bytes(4) + u32(1, 20, -(2**30))),
        "elst-long": (f"{TRACK}/edts", lambda _: edits((2**31, 0))),
        "elst-wait": (f"{TRACK}/edts", lambda _: edits((2**31 - 1, -1), (2000, 0))),
        "elst-beyond": (f"{TRACK}/edts", lambda _: edits((2000, 2**31 - 1))),
        "elst-zero": (f"{TRACK}/edts", lambda _: edits((0, 0))),
        "elst-many": (f"{TRACK}/edts", lambda _: edits(*[(1, 0)] * 50_000)),
        "trex": (
            "moov",
            lambda body: body + box("mvex", box("trex", bytes(4) + u32(9, 9, 9, 9, 9))),
        ),
        "deep": ("moov", lambda body: body + _nested(2000)),
        "tracks": ("moov", lambda body: body + 900 * box("trak", box("mdia", b""))),
        "moov-empty": ("moov", lambda _: b""),
        "no-track": ("moov", lambda body: body[: body.index(b"trak") - 4]),
        "stsd-none": (f"{TABLE}/stsd", lambda _: bytes(8)),
        "stsd-codec": (f"{TABLE}/stsd", put(12, b"zzzz")),
        "stsd-text": (f"{TABLE}/stsd", put(12, b"text")),
    }
    for name, (path, change) in wrong.items():
        made.add(f"table/{name}.mp4", changed(data, path, change), "wrong table", GOOD | BROKEN)
    at = data.index(b"mdat") - 4
    head, rest = data[:at], data[at + 8 :]
    for number, size in enumerate((2**63, 2**64 - 1, 2**62, 17)):
        lied = head + u32(1) + b"mdat" + struct.pack(">Q", size) + rest
        made.add(f"table/mdat{number}.mp4", lied, "wrong table", BROKEN)
    for number, size in enumerate((0, 3, 2**31, 2**32 - 1)):
        made.add(
            f"table/mdat-{number}.mp4",
            head + u32(size) + b"mdat" + rest,
            "wrong table",
            GOOD | BROKEN,
        )
    avi = plain(".avi", "mpeg4")
    index = avi.index(b"idx1")
    made.add(
        "table/index.avi",
        avi[: index + 8] + made.rng.bytes(len(avi) - index - 8),
        "wrong table",
        GOOD | BROKEN,
    )
    zero = avi[: index + 8] + bytes(len(avi) - index - 8)
    made.add("table/zeros.avi", zero, "wrong table", GOOD | BROKEN)
    made.add("table/riff.avi", avi[:4] + b"\0\0\0\0" + avi[8:], "wrong table", GOOD | BROKEN)
    mkv = plain(".mkv")
    cues = mkv.rindex(b"\x1c\x53\xbb\x6b")
    made.add(
        "table/cues.mkv",
        mkv[: cues + 6] + made.rng.bytes(len(mkv) - cues - 6),
        "wrong table",
        GOOD | BROKEN,
    )
    made.add(
        "table/sizes.mkv",
        mkv.replace(b"\x1f\x43\xb6\x75", b"\x1f\x43\xb6\x75\x01" + b"\xff" * 7),
        "wrong table",
        GOOD | BROKEN,
    )
    made.add("table/nested.mkv", mkv[:60] + b"\x18\x53\x80\x67\x88" * 5000, "wrong table", BROKEN)


def _nested(depth):
    body = b""
    for _ in range(depth):
        body = box("trak", body)
    return body


def bombs(made):
    """Little that becomes much: to wait for, or to hold in memory."""
    constant = {
        f"{TABLE}/stsz": lambda _: bytes(4) + u32(1, 400_000),
        f"{TABLE}/stts": lambda _: bytes(4) + u32(1, 400_000, 512),
        f"{TABLE}/stsc": lambda _: bytes(4) + u32(1, 1, 400_000, 1),
        f"{TABLE}/stco": lambda body: body[:4] + u32(1) + body[8:12],
        f"{TABLE}/ctts": lambda _: bytes(4) + u32(1, 400_000, 0),
    }
    held = plain() + b""
    at = held.index(b"mdat") - 4
    size = int.from_bytes(held[at : at + 4], "big")
    moov = held[at + size :]
    held = held[:at] + box("mdat", bytes(400_100)) + moov
    for path, change in constant.items():
        held = changed(held, path, change)
    made.add("bomb/samples.mp4", held, "bomb", BROKEN | GOOD)
    whole = [(2**30, 0)] * 50_000
    made.add(
        "bomb/edits.mp4",
        changed(held, f"{TRACK}/edts", lambda _: edits(*whole)),
        "bomb",
        BROKEN | ENDED,
    )
    back = [(100, n % 7 * 1000) for n in range(100_000)]
    made.add(
        "bomb/edits2.mp4",
        changed(held, f"{TRACK}/edts", lambda _: edits(*back)),
        "bomb",
        BROKEN | GOOD | ENDED,
    )
    many = changed(plain(), f"{TABLE}/stsz", lambda _: bytes(4) + u32(1, 2**28))
    many = changed(many, f"{TABLE}/stts", lambda _: bytes(4) + u32(1, 2**28, 1))
    many = changed(many, f"{TABLE}/stsc", lambda _: bytes(4) + u32(1, 1, 2**28, 1))
    made.add("bomb/index.mp4", many, "bomb", BROKEN)
    made.add(
        "bomb/packed.mov", media.compressed_head(plain(".mov")), "packed header", GOOD, scene()
    )
    huge = media.compressed_head(plain(".mov"), media.zeros(1500), 2**32 - 1)
    made.add("bomb/zlib.mov", huge, "bomb", BROKEN)
    made.add(
        "bomb/claim.mov",
        media.compressed_head(plain(".mov"), size=2**32 - 1),
        "bomb",
        BROKEN | GOOD,
    )
    heads = {
        **lists.MAGIC,
        "ts": plain(".ts"),
        "raw": plain(".m2v", "mpeg2video"),
        "nothing": b"",
        "mkv": plain(".mkv", muxing=(("live", "1"),)),
        "mp4": plain(),
    }
    for name, magic in heads.items():
        suffix = ".mpg" if name in ("raw", "mpeg") else ".mp4"
        made.add(f"bomb/hole-{name}{suffix}", magic, "hole of 1 TB", BROKEN | GOOD | ENDED)
        os.truncate(made.folder / f"bomb/hole-{name}{suffix}", 2**40)
    black = np.zeros((1000, 16, 16, 3), np.uint8)
    made.add("bomb/black.mp4", movie(black, fps=240), "many frames")
    wide = movie(np.zeros((3, 4096, 4096, 3), np.uint8), options=(("preset", "ultrafast"),))
    made.add("bomb/wide.mp4", wide, "huge size", GOOD)


def animations(made):
    pictures = [Image.fromarray(frame) for frame in scene(4, 12)]
    files = {}
    for form in ("GIF", "WEBP", "PNG"):
        held = io.BytesIO()
        pictures[0].save(held, form, save_all=True, append_images=pictures[1:], duration=80, loop=0)
        files[form.lower()] = held.getvalue()
    gif, webp = files["gif"], files["webp"]
    animated = {
        "a.gif": gif, "a.webp": webp, "gif.mp4": gif, "webp.mp4": webp,
        "screen.gif": gif[:6] + b"\xff\xff\xff\xff" + gif[10:],
        "cut.gif": gif[: len(gif) // 2], "head.gif": gif[:10],
        "long.gif": gif[:-1] * 2 + b";",
        "canvas.webp": webp[:24] + b"\xff\x3f\0" * 2 + webp[30:],
    }  # fmt: skip
    for name, data in animated.items():
        made.add(f"gif/{name}", data, "animated picture", {"animation"})
    made.add("gif/cut.webp", webp[: len(webp) // 2], "animated picture", {"cut_short"})
    png = files["png"]
    made.add("gif/apng.mp4", png, "animated picture", NO_VIDEO)
    made.add("gif/bomb.mp4", media.large_png(png, 60_000), "animated picture", NO_VIDEO)


def specials(made):
    """What is no file."""
    folder = made.folder / "special"
    folder.mkdir()
    links = {
        "neighbour.mp4": "../neighbour0.mp4", "near.mp4": "../canary.bin",
        "far.mp4": made.outside / "canary.bin", "nowhere.mp4": "missing.mp4",
        "itself.mp4": "itself.mp4", "zero.mp4": "/dev/zero", "random.mp4": "/dev/random",
        "folder.mp4": made.outside, "passwd.mp4": "/etc/passwd", "memory.mp4": "/proc/self/mem",
        "input.mp4": "/dev/stdin",
    }  # fmt: skip
    for name, target in links.items():
        (folder / name).symlink_to(target)
        made.told(f"special/{name}", "link", {"link"})
    for name in ("pipe.mp4", "pipe.mkv"):
        os.mkfifo(folder / name)
        made.told(f"special/{name}", "not a file", {"not_regular"})
    with socket.socket(socket.AF_UNIX) as heard:
        here = os.open(folder, os.O_RDONLY)
        heard.bind(f"/proc/self/fd/{here}/socket.mp4")
        os.close(here)
    made.told("special/socket.mp4", "not a file", {"not_regular"})
    (folder / "empty.mp4").mkdir()  # a folder by such a name is looked into as any other
    (folder / "full.mp4").mkdir()
    made.add("special/full.mp4/inside.mp4", plain(), "name", GOOD, scene())


def captions(made):
    """Captions lie in a text beside a video; what is no text must not be taken for one."""
    texts = {"latin": b"caf\xe9 \xff", "huge": b"word " * 2_000_000}
    for name, text in texts.items():
        made.add(f"said/{name}.mp4", plain(), "caption", {"caption"})
        (made.folder / f"said/{name}.txt").write_bytes(text)
    for name in ("link", "pipe", "folder", "control"):
        made.add(f"said/{name}.mp4", plain(), "caption", GOOD, scene())
    (made.folder / "said/link.txt").symlink_to(made.outside / "canary.txt")
    os.mkfifo(made.folder / "said/pipe.txt")
    (made.folder / "said/folder.txt").mkdir()
    (made.folder / "said/control.txt").write_bytes(b"a\x1b[2J\x00b\xe2\x80\xae")
