"""Reading and writing through Pillow: pictures, picture folders, animated GIF and WebP.

The format is pinned to the few named here, and sizes are checked before pixels are decoded.
"""

import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, PngImagePlugin

from vdm_jax.core.container import Limits
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sniff import reason

STILL_FORMATS = ("PNG", "JPEG", "WEBP")
FOLDER_FPS = 24.0  # of a picture folder that does not say
_NUMBERED = re.compile(r"\d+\.png")
STRIP = 64  # rows of a reduced picture that are made at once
_DEFAULT_MS = 100  # what browsers show a frame for whose duration is 0


def read_image(
    path: str | os.PathLike | bytes, limits: Limits | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """A PNG, JPEG or WebP picture, upright by its EXIF orientation, transparency over white.

    path: a file, or the bytes of one. Raises Refusal if it is missing, damaged, of another
    format, or over `limits.pixels`.
    """
    source = path if isinstance(path, bytes) else Path(path)
    with _opened(source, STILL_FORMATS, limits or Limits()) as image:
        return _rgb(ImageOps.exif_transpose(image))


def read_reduced(
    path: str | os.PathLike | bytes, limits: Limits, pixels: int
) -> UInt8[np.ndarray, "h w 3"]:
    """`read_image` of about `pixels` pixels at most: a larger picture is reduced by a whole factor.

    It is converted in strips, so that little more memory is taken than its own decoded pixels.
    """
    source = path if isinstance(path, bytes) else Path(path)
    return _rgb(_small(source, limits, pixels))  # by now the large one is gone


def read_animation(
    path: Path, file_format: str, limits: Limits
) -> tuple[list[UInt8[np.ndarray, "h w 3"]], float]:
    """Frames of an animated GIF or WebP, and their rate in frames per second.

    Frames of unequal duration are repeated at the rate of the shortest.
    """
    pictures, durations = [], []
    with _opened(path, (file_format,), limits) as image:
        for index in range(getattr(image, "n_frames", 1)):
            _check_count(path, index + 1, image.height * image.width, limits)
            image.seek(index)
            pictures.append(_rgb(image))
            if pictures[-1].shape != pictures[0].shape:
                raise Refusal(f"{path}: changes its size at frame {index}")
            durations.append(image.info.get("duration") or _DEFAULT_MS)
    shortest = min(durations)
    repeats = [max(1, round(duration / shortest)) for duration in durations]
    _check_count(path, sum(repeats), pictures[0].shape[0] * pictures[0].shape[1], limits)
    frames = [p for p, count in zip(pictures, repeats, strict=True) for _ in range(count)]
    return frames, 1000 / shortest


def read_folder(path: Path, limits: Limits) -> tuple[list[UInt8[np.ndarray, "h w 3"]], float]:
    """The numbered PNG files of a folder, in order of their numbers, and the rate."""
    names = sorted(
        (entry.name for entry in path.iterdir() if _NUMBERED.fullmatch(entry.name)),
        key=lambda name: int(name[:-4]),
    )
    if not names:
        raise Refusal(f"{path}: holds no numbered PNG files such as 00000.png")
    pictures, fps = [], FOLDER_FPS
    for name in names:
        with _opened(path / name, ("PNG",), limits) as image:
            _check_count(path, len(names), image.height * image.width, limits)
            if not pictures:
                fps = _stated_rate(image)
            pictures.append(_rgb(image))
        if pictures[-1].shape != pictures[0].shape:
            raise Refusal(f"{path / name}: differs in size from {names[0]}")
    return pictures, fps


def write_animation(
    path: Path, frames: UInt8[np.ndarray, "t h w 3"], fps: float | int, file_format: str
) -> None:
    """GIF (256 colours a frame, time in steps of 10 ms) or WebP (nearly lossless, 1 ms)."""
    step = 10 if file_format == "GIF" else 1
    duration = max(step, step * round(1000 / fps / step))
    first, *rest = [Image.fromarray(frame) for frame in frames]
    settings = {} if file_format == "GIF" else {"quality": 90, "method": 4}
    first.save(
        path, file_format, save_all=True, append_images=rest, duration=duration, loop=0, **settings
    )


def write_folder(path: Path, frames: UInt8[np.ndarray, "t h w 3"], fps: float | int) -> None:
    """PNG files 00000.png …, lossless; the rate is a text field of each."""
    path.mkdir()
    note = PngImagePlugin.PngInfo()
    note.add_text("fps", repr(float(fps)))
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{index:05d}.png", pnginfo=note)


def is_picture_folder(path: Path) -> bool:
    """Whether every entry of a folder is a numbered PNG (an empty folder counts)."""
    return all(_NUMBERED.fullmatch(entry.name) for entry in path.iterdir())


@contextmanager
def _opened(
    source: Path | bytes, formats: tuple[str, ...], limits: Limits
) -> Iterator[Image.Image]:
    """An open picture within the pixel limit; faults inside become a Refusal naming the file."""
    path = "picture in memory" if isinstance(source, bytes) else source
    if isinstance(source, Path) and not source.exists():
        raise Refusal(f"{path}: no such file")
    if isinstance(source, Path) and not source.is_file():
        raise Refusal(f"{path}: is not a picture file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit follows
            image = Image.open(
                BytesIO(source) if isinstance(source, bytes) else source, formats=formats
            )
        with image:
            if image.width * image.height > limits.pixels:
                raise Refusal(
                    f"{path}: {image.width}x{image.height} is over the limit of"
                    f" {limits.pixels} pixels"
                )
            yield image
    except Image.UnidentifiedImageError:
        raise Refusal(f"{path}: is not a {' or '.join(formats)} picture") from None
    except Image.DecompressionBombError:
        raise Refusal(f"{path}: is over the limit of {limits.pixels} pixels") from None
    except (OSError, ValueError, SyntaxError, EOFError, LookupError, MemoryError) as error:
        raise Refusal(f"{path}: cannot be decoded: {reason(error)}") from error


def _rgb(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode.startswith("I"):  # 16 bits a pixel: keep the upper 8
        gray = (np.asarray(image).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=-1)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return np.array(Image.alpha_composite(white, rgba).convert("RGB"))
    return np.array(image.convert("RGB"))


def _small(source: Path | bytes, limits: Limits, pixels: int) -> Image.Image:
    """A picture of its own, upright; the larger is decoded at a lower scale where it can be."""

    def factor() -> int:
        return math.ceil(math.sqrt(image.width * image.height / pixels))

    with _opened(source, STILL_FORMATS, limits) as image:
        if (least := factor()) > 1:
            image.draft(None, (image.width // least, image.height // least))
        small = _reduced(image, factor()) if factor() > 1 else ImageOps.exif_transpose(image)
        ImageOps.exif_transpose(small, in_place=True)
        return small


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    """RGB; the fields that say how it is turned come along."""
    width, height = (max(1, side // factor) for side in image.size)
    small = Image.new("RGB", (width, height))
    rows = factor * STRIP
    for top in range(0, height * factor, rows):
        bottom = min(top + rows, max(height * factor, 1), image.height)
        strip = Image.fromarray(_rgb(image.crop((0, top, image.width, bottom))))
        small.paste(strip.reduce((min(factor, image.width), min(factor, image.height))),
                    (0, top // factor))  # fmt: skip
    small.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return small


def _stated_rate(image: Image.Image) -> float:
    try:
        fps = float(str(image.info.get("fps", FOLDER_FPS)))
    except ValueError:
        return FOLDER_FPS
    return fps if math.isfinite(fps) and fps > 0 else FOLDER_FPS


def _check_count(path: Path, count: int, pixels: int, limits: Limits) -> None:
    if count > limits.frames:
        raise Refusal(f"{path}: has {count} frames or more; at most {limits.frames} are allowed")
    if count * pixels * 3 > limits.bytes:
        raise Refusal(f"{path}: decodes to more than the allowed {limits.bytes / 1e6:.0f} MB")
