"""Pictures that are none, that are far larger than their files, or that are something else too."""

import struct
import zlib
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image
from serve.served import picture

PNG = b"\x89PNG\r\n\x1a\n"


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(
        ">I", zlib.crc32(kind + content)
    )  # fmt: skip


def png(width, height, *, depth=8, colour=2, extra=(), rows=None):
    """A PNG of zeros. colour: 0 gray, 2 RGB, 3 palette, 6 RGBA. rows: how many are there."""
    samples = {0: 1, 2: 3, 3: 1, 6: 4}[colour]
    row = bytes(1 + (width * samples * depth + 7) // 8)
    packed, left = zlib.compressobj(1), height if rows is None else rows
    content = b"".join(packed.compress(row) for _ in range(left)) + packed.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    palette = chunk(b"PLTE", bytes(3 * 256)) if colour == 3 else b""
    return b"".join((PNG, head, *extra, palette, chunk(b"IDAT", content), chunk(b"IEND", b"")))


@cache
def zeros(megabytes):
    """A zlib stream of so many, packed."""
    packed = zlib.compressobj(1)
    piece = bytes(1 << 20)
    return b"".join(packed.compress(piece) for _ in range(megabytes)) + packed.flush()


def jpeg(width, height):
    """A JPEG whose header says another size than it has."""
    content = bytearray(picture(16, form="JPEG"))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def webp(width, height):
    """A WebP whose header says another size than it has."""
    content = picture(16, form="WEBP")
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + size
    body = b"WEBP" + canvas + content[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def animated(form, frames=60, side=128):
    """Frames that all differ, so that a file of them is small and what it holds is not."""
    made = [Image.new("RGB", (side, side), (number % 256, 0, 0)) for number in range(frames)]
    out = BytesIO()
    made[0].save(out, form, save_all=True, append_images=made[1:], duration=10)
    return out.getvalue()


def saved(form, mode="RGB", side=32, **how):
    out = BytesIO()
    Image.new(mode, (side, side)).save(out, form, **how)
    return out.getvalue()


def refused():
    """By name; none of them may be taken."""
    small, gray = picture(), picture(32, form="JPEG")
    big_iccp = chunk(b"iCCP", b"x\0\0" + zeros(100))
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\nshowpage\n"
    return {
        "a PNG of 4 gigapixels": png(65535, 65535, depth=1, colour=0, rows=3),
        "a PNG of 400 megapixels": png(20000, 20000, depth=1, colour=0),
        "a PNG of 13 megapixels": png(4096, 3080, colour=3),
        "a PNG of two billion a side": png(2**31 - 1, 2**31 - 1, depth=1, colour=0, rows=0),
        "a PNG of none": png(0, 0, rows=0),
        "a PNG one row high and endless": png(2**31 - 1, 1, depth=1, colour=0, rows=0),
        "a WebP of 6 megapixels": saved("WEBP", side=2500, lossless=True, method=0),
        "16 bits, 100 megapixels": png(10000, 10000, depth=16, colour=0, rows=10),
        "a palette, 100 megapixels": png(10000, 10000, colour=3, rows=10),
        "a JPEG of 4 gigapixels": jpeg(65500, 65500),
        "a JPEG that ends": gray[: len(gray) // 2],
        "a WebP of 268 megapixels": webp(16383, 16383),
        "a WebP of 281 terapixels": webp(2**24, 2**24),
        "an animated GIF": animated("GIF"),
        "an SVG": svg,
        "an EPS": eps,
        "an EPS behind a PNG's mark": PNG + eps,
        "a TIFF": saved("TIFF"),
        "a PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30000, 30000, 8, 3) + bytes(99),
        "a BMP": saved("BMP"),
        "an ICO": saved("ICO"),
        "a PPM of a terapixel": b"P6 1000000 1000000 255\n",
        "a PDF": saved("PDF"),
        "a JPEG 2000": saved("JPEG2000"),
        "an AVIF by its mark": b"\0\0\0\x20ftypavif" + bytes(300),
        "an MP4 by its mark": b"\0\0\0\x20ftypisom" + bytes(300),
        "a playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "a page": b"<html><img src=http://127.0.0.1/></html>",
        "a ZIP": b"PK\x03\x04" + bytes(300),
        "zeros": bytes(1_000_000),
        "nothing but a mark": PNG,
        "a truncated PNG": small[: len(small) // 2],
        "a PNG whose sums are wrong": small.replace(b"IDAT", b"IDAT\1", 1),
        "a text chunk of 100 MB": png(8, 8, extra=[chunk(b"zTXt", b"a\0\0" + zeros(100))]),
        "an iTXt chunk of 100 MB": png(
            8, 8, extra=[chunk(b"iTXt", b"a\0\1\0\0\0" + zeros(100))]
        ),
        "many text chunks": png(8, 8, extra=[chunk(b"zTXt", b"a\0\0" + zeros(1))] * 300),
        "a profile of 100 MB, and no rows": png(8, 8, extra=[big_iccp], rows=0),
    }  # fmt: skip


def taken():
    """By name; these are pictures, and their size is allowed."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff\xff\xff\xff"
    out = BytesIO()
    Image.fromarray(noise).save(out, "JPEG", exif=exif)
    return {
        "behind it an archive": picture() + b"PK\x03\x04" + bytes(100_000),
        "behind it a page": picture(form="JPEG") + b"<script>alert(1)</script>",
        "16 bits": saved("PNG", "I;16"),
        "a palette with a hole": saved("PNG", "P", transparency=0),
        "one bit": saved("PNG", "1"),
        "ink": saved("JPEG", "CMYK"),
        "an animated WebP": animated("WEBP"),
        "an animated PNG": animated("PNG"),
        "a broken orientation": out.getvalue(),
        "all but two of its rows are not there": png(4000, 3000, rows=2),
        "a large WebP": saved("WEBP", "RGBA", side=2240, lossless=True, method=0),
        "a large JPEG": saved("JPEG", side=3500, progressive=True, subsampling=0),
        "as large as may be, of 50 KB": png(4096, 3072),
        "as large as may be, with a veil": png(4096, 3072, colour=6),
    }
