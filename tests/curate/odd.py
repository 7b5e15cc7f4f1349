"""Files that are odd and fine, and are to be kept; and some that only seem so."""

import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
from curate import media
from curate.cases import BROKEN, GOOD, NO_VIDEO, plain
from curate.media import TRACK, box, changed, movie, put, scene, u32

CODECS = """
.mp4 libx264 yuv420p10le
.mp4 libx264 yuv422p10le
.mp4 libx264 yuv444p
.mp4 libx264 gray
.mp4 libx264rgb rgb24
.mp4 libx265 yuv420p
.mp4 libx265 yuv420p12le
.mp4 libsvtav1 yuv420p
.mp4 libvpx-vp9 yuv420p
.mp4 mpeg4 yuv420p
.mp4 mjpeg yuvj420p
.mp4 mpeg2video yuv420p
.webm libvpx yuv420p
.webm libvpx-vp9 yuva420p
.mov prores_ks yuv422p10le
.mov prores_ks yuva444p10le
.mov png rgba
.mov png gray16be
.mov qtrle argb
.mov qtrle gray
.mov svq1 yuv410p
.mov jpeg2000 rgb24
.mov cinepak rgb24
.mov v210 yuv422p10le
.mov r210 gbrp10le
.mov rawvideo rgb24
.mov dxv rgba
.mov cfhd yuv422p10le
.mov tiff rgb24
.mkv ffv1 yuva420p
.mkv ffv1 gray10le
.mkv ffv1 gray16le
.mkv ffv1 bgra
.mkv ffv1 yuv444p16le
.mkv rawvideo yuv420p
.mkv snow yuv420p
.avi mpeg4 yuv420p
.avi huffyuv rgb24
.avi utvideo gbrp
.avi magicyuv gbrp
.avi msmpeg4 yuv420p
.avi msmpeg4v2 yuv420p
.avi wmv1 yuv420p
.avi wmv2 yuv420p
.avi flv yuv420p
.avi rawvideo bgr24
.avi zmbv bgr0
.avi asv1 yuv420p
.avi ffvhuff yuv420p
.avi msvideo1 rgb555le
.avi zlib bgr24
.avi flashsv bgr24
.avi amv yuvj420p
.mpg libx264 yuv420p
.ts libx265 yuv420p
"""


def codecs(made):
    for line in CODECS.split("\n")[1:-1]:
        suffix, codec, pix_fmt = line.split()
        frames = scene()
        if pix_fmt.startswith("gray"):
            frames = np.repeat(frames[..., :1], 3, -1)
        data = movie(frames, suffix, codec, pix_fmt)
        made.add(f"codec/{codec}-{pix_fmt}{suffix}", data, "codec", GOOD, frames, error=14)
    lower = (("flags", "+ildct+ilme"),)
    data = movie(scene(), ".mpg", "mpeg2video", options=lower)
    made.add("codec/interlaced.mpg", data, "codec")  # one stamp is left out, a frame repeated
    data = movie(scene(), options=(("x264-params", "interlaced=1"),))
    made.add("codec/interlaced.mp4", data, "codec", GOOD, scene())
    for bframes in ("0", "3"):
        data = movie(scene(), ".avi", options=(("bf", bframes),))
        made.add(f"codec/bframes{bframes}.avi", data, "codec", GOOD, scene())


def shapes(made):
    for turn in (0, 90, 180, 270):
        for flip in (False, True):
            for suffix in (".mp4", ".mov"):
                frames = scene(7)
                data = movie(frames, suffix, turn=(turn, flip))
                upright = np.rot90(frames, turn // 90, axes=(1, 2))
                upright = upright[:, :, ::-1] if flip else upright
                made.add(f"shape/turn{turn}{'f' * flip}{suffix}", data, "rotation", GOOD, upright)
    for height, width in ((48, 66), (49, 64), (47, 63), (16, 400), (400, 16), (33, 35), (2, 64)):
        frames = scene(8, 20, height, width)
        data = movie(frames, ".mkv", "ffv1", "yuv444p")
        even = frames if height % 2 == width % 2 == 0 else None
        allowed = GOOD if height > 2 else GOOD | {"too_small"}  # there is no flow in two rows
        made.add(f"shape/{height}x{width}.mkv", data, "odd size", allowed, even)
    for number, sides in enumerate([(48, 64), (64, 96)] * 2):
        made.add(
            f"shape/part{number}.mpg", movie(scene(3, 12, *sides), ".m2v", "mpeg2video"), "stream"
        )
    joined = b"".join(
        movie(scene(3, 12, *sides), ".m2v", "mpeg2video") for sides in ((48, 64), (64, 96))
    )
    made.add("shape/grows.mpg", joined, "size changes", GOOD | BROKEN)


def times(made):
    uneven = [0, 1, 2, 3, 4, 9, 10, 11, 12, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24]
    for suffix in (".mkv", ".mp4"):
        made.add(f"time/uneven{suffix}", movie(scene(), suffix, times=uneven), "variable rate")
        late = movie(scene(), suffix, times=[1000 + n for n in range(20)])
        made.add(f"time/late{suffix}", late, "starts late", GOOD, scene())
    for fps in (1, 5, 60, 120, 240):
        made.add(f"time/{fps}fps.mp4", movie(scene(), fps=fps), "frame rate", GOOD, scene())
    for fps in (500, 10_000):
        made.add(f"time/{fps}fps.mp4", movie(scene(), fps=fps), "frame rate", {"over_limits"})
    for count in (1, 2, 15):
        for suffix in (".mp4", ".mkv", ".avi"):
            data = movie(scene(9, count), suffix, "mpeg4" if suffix == ".avi" else "libx264")
            made.add(
                f"time/{count}frames{suffix}", data, "few frames", GOOD, scene(9, count), error=14
            )
    for kind, sound in (
        ("mp4", "aac"),
        ("mkv", "pcm_s16le"),
        ("avi", "pcm_s16le"),
        ("mov", "pcm_s16le"),
    ):
        made.add(f"time/sound.{kind}", media.soundtrack(f".{kind}", sound), "sound only", NO_VIDEO)


def stamps(made):
    once = (("bf", "0"),)
    last = {"hours.mkv": 5 * 3600, "far.mkv": 2**32, "farther.mkv": 2**48, "hours.ts": 20 * 3600}
    for name, seconds in last.items():
        stamp = lambda n, pts, s=seconds: pts + (n == 19) * s * media.FPS  # noqa: E731
        data = movie(scene(), Path(name).suffix, options=once, stamp=stamp)
        made.add(f"time/{name}", data, "far stamp", {"over_limits", "damaged"})
    data = movie(scene(), ".mkv", options=once, stamp=lambda n, pts: pts + (n == 19) * 480)
    made.add("time/gap.mkv", data, "variable rate")


def durations(made):
    """Headers that say how long a file is, and are wrong."""
    for name, at, new in (
        ("none", 16, u32(0)),
        ("long", 16, u32(2**32 - 1)),
        ("ticks", 12, u32(1)),
    ):
        made.add(
            f"time/{name}.mp4",
            changed(plain(), "moov/mvhd", put(at, new)),
            "wrong duration",
            GOOD | BROKEN,
        )
    wrong = changed(plain(), f"{TRACK}/tkhd", put(20, u32(2**31)))
    made.add("time/track.mp4", wrong, "wrong duration", GOOD | BROKEN)
    for number, ticks in enumerate((0, 1, 2**31, 2**32 - 1)):
        wrong = changed(plain(), f"{media.MEDIA}/mdhd", put(12, u32(ticks)))
        made.add(f"time/scale{number}.mp4", wrong, "wrong duration", GOOD | BROKEN)
    mkv, at = plain(".mkv"), plain(".mkv").index(b"\x44\x89\x88")
    for name, seconds in (("short", 0.1), ("zero", 0.0), ("minus", -5.0), ("hour", 3600.0)):
        wrong = mkv[: at + 3] + struct.pack(">d", seconds * 1000) + mkv[at + 11 :]
        made.add(f"time/{name}.mkv", wrong, "wrong duration", GOOD, scene())
    for name, seconds in (("nan", float("nan")), ("inf", float("inf")), ("year", 3e7)):
        wrong = mkv[: at + 3] + struct.pack(">d", seconds * 1000) + mkv[at + 11 :]
        made.add(f"time/{name}.mkv", wrong, "wrong duration", GOOD | BROKEN)
    avi = plain(".avi", "mpeg4")
    for number, (rate, scale) in enumerate(((0, 1), (1, 0), (2**32 - 1, 1), (1, 2**31))):
        at = avi.index(b"strh") + 8 + 20
        wrong = avi[:at] + struct.pack("<II", scale, rate) + avi[at + 8 :]
        made.add(f"time/rate{number}.avi", wrong, "wrong duration", GOOD | BROKEN)
    at = avi.index(b"avih") + 8 + 16
    made.add(
        "time/count.avi",
        avi[:at] + b"\xff\xff\xff\x7f" + avi[at + 4 :],
        "wrong duration",
        GOOD,
        scene(),
        error=14,
    )


def metadata(made):
    strange = [
        ("title", "a\x1b[2J\x07\r\n\tb"),
        ("comment", "\u202e<script>alert(1)</script>\x00x"[:-2]),
    ]
    for suffix, codec in (
        (".mp4", "libx264"),
        (".mkv", "libx264"),
        (".webm", "libvpx-vp9"),
        (".avi", "mpeg4"),
    ):
        data = movie(scene(), suffix, codec, tags=strange)
        made.add(f"tags/strange{suffix}", data, "metadata", GOOD, scene(), error=14)
        data = movie(scene(), suffix, codec, tags=[("title", "x" * 300_000)])
        made.add(f"tags/large{suffix}", data, "metadata", GOOD, scene(), error=14)
    many = movie(scene(), ".mkv", tags=[(f"tag{n}", "y" * 20) for n in range(5000)])
    made.add("tags/many.mkv", many, "metadata", GOOD, scene())
    named = movie(scene(), ".mkv", tags=[("title", "caf\xe9" * 20)])
    made.add(
        "tags/latin.mkv", named.replace("\xe9".encode(), b"\xff\xfe"), "metadata", GOOD, scene()
    )
    for count in (1, 20, 100):
        data = movie(scene(), ".mkv", attached=count)
        made.add(f"tags/fonts{count}.mkv", data, "attachments", GOOD, scene())
    for suffix, sound in (
        (".mp4", ("aac",)),
        (".mkv", ("pcm_s16le", "aac", "aac")),
        (".mov", ("pcm_s16le",)),
    ):
        for before in ("sound", ""):
            data = movie(scene(), suffix, sound=sound, before=before)
            made.add(f"tags/sound{before}{suffix}", data, "several streams", GOOD, scene())
    for count in (12, 40):
        data = movie(scene(), ".mkv", sound=("pcm_u8",) * count)
        made.add(
            f"tags/sounds{count}.mkv",
            data,
            "several streams",
            GOOD if count < 16 else {"over_limits"},
        )
    handler = changed(
        plain(), f"{media.MEDIA}/hdlr", lambda body: body[:24] + b"\xff\xfe\x00\x1b[31m" * 9
    )
    made.add("tags/handler.mp4", handler, "metadata", GOOD, scene())
    user = plain() + box("udta", b"\xff" * 100_000)
    made.add("tags/user.mp4", user, "metadata", GOOD, scene())


NAMES = [
    "käse.mp4", "ka\u0308se2.mp4", "影片.mp4", "🎬.mp4", "\u202egpj.mp4", "a\nb.mp4", "a\tb.mp4",
    "-rf.mp4", "--input.mp4", " lead.mp4", "trail .mp4", "%03d.mp4", "%s%n.mp4", "'quote'.mp4",
    '"double".mp4', "<script>alert(1)<!--.mp4", "a&amp;b.mp4", "concat:a|b.mp4", "file:x.mp4",
    "http:/127.0.0.1/x.mp4", "pipe:0.mp4", "back\\slash.mp4", "UPPER.MP4", "Mixed.MkV",
    "a..mp4.mp4",
    "a;b.mp4", "$(touch x).mp4", "`id`.mp4", "\x1b[31mred.mp4", "*.mp4", "[a-z].mp4", "~.mp4",
    "a:0.mp4", "x.mp4.mp4", "nul\x7f.mp4", "d/e/e/p/e/r/f.mp4", "n" * 251 + ".mp4",
    "n" * 252 + ".ts",
]  # fmt: skip


def names(made):
    for name in NAMES:
        suffix = Path(name).suffix.lower()
        made.add(f"name/{name}", plain(suffix), "name", GOOD, scene())
    made.add(os.fsdecode(b"name/\xff\xfe.mp4"), plain(), "name", {"name"})


def polyglots(made):
    held = io.BytesIO(plain())
    held.seek(0, 2)
    with zipfile.ZipFile(held, "a") as file:
        file.writestr("x.txt", "hello")
    script = f"<script src=http://127.0.0.1:{made.port}/></script><!--".encode()
    whole = plain(muxing=(("movflags", "faststart"),))
    good = {
        "zip.mp4": held.getvalue(),
        "html.mp4": plain() + script,
        "free.mp4": plain() + box("free", b"%PDF-1.7\n" + script),
        "uuid.mp4": plain() + box("uuid", bytes(16) + script),
        "playlist.mp4": plain() + b"\n#EXTM3U\nhttp://127.0.0.1/x.ts\n",
        "list.mkv": plain(".mkv") + b"\nffconcat version 1.0\nfile canary.bin\n",
        "pdf.avi": plain(".avi", "mpeg4") + b"\n%PDF-1.7\n",
        "shell.ts": plain(".ts") + b"#!/bin/sh\n".ljust(188, b"\0"),
    }
    for name, data in good.items():
        made.add(f"poly/{name}", data, "polyglot", GOOD, scene(), error=14)
    bad = {
        "png.mp4": b"\x89PNG\r\n\x1a\n" + whole,
        "pdf.mp4": b"%PDF-1.7\n" + whole,
        "gif.mp4": b"GIF89a" + whole,
        "text.mp4": b"#EXTM3U\n" + whole,
    }
    for name, data in bad.items():
        made.add(f"poly/{name}", data, "polyglot", NO_VIDEO | {"animation"})
