"""What a drawn video becomes: an MP4, a picture of it, a sheet of all its frames."""

import math
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vdm_jax.core import gallery, video
from vdm_jax.serve.store import files

THUMBNAIL, SHEET = 320, 1600  # pixels of width at most
SHOWN = 16  # frames of a sheet


def of_video(frames: UInt8[np.ndarray, "t h w 3"], fps: float) -> dict[str, bytes]:
    """The files of a video, by name."""
    return {
        files.VIDEO: _mp4(frames, fps),
        files.THUMBNAIL: thumbnail(frames),
        files.SPRITESHEET: spritesheet(frames),
    }


def of_image(frames: UInt8[np.ndarray, "1 h w 3"]) -> dict[str, bytes]:
    """The files of a picture, by name."""
    out = BytesIO()
    Image.fromarray(frames[0]).save(out, "PNG")
    return {files.IMAGE: out.getvalue()}


def thumbnail(frames: UInt8[np.ndarray, "t h w 3"]) -> bytes:
    """The frame in the middle, as WebP."""
    picture = _at_most(Image.fromarray(frames[len(frames) // 2]), THUMBNAIL)
    out = BytesIO()
    picture.save(out, "WEBP", quality=85, method=4)
    return out.getvalue()


def spritesheet(frames: UInt8[np.ndarray, "t h w 3"]) -> bytes:
    """Frames in their order, evenly chosen where there are many, as JPEG."""
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), SHOWN)).round().astype(int)
    columns = math.ceil(math.sqrt(len(chosen)))
    width = SHEET // columns - 2 * gallery.GAP
    small = np.stack([np.asarray(_at_most(Image.fromarray(frames[i]), width)) for i in chosen])
    out = BytesIO()
    sheet = gallery.grid(small[:, None], columns=columns, scale=1)[0]
    Image.fromarray(sheet).save(out, "JPEG", quality=88)
    return out.getvalue()


def _at_most(picture: Image.Image, width: int) -> Image.Image:
    if picture.width <= width:
        return picture
    height = max(1, round(picture.height * width / picture.width))
    return picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)


def _mp4(frames: UInt8[np.ndarray, "t h w 3"], fps: float) -> bytes:
    """Through a file: its index goes first, so that players start at once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / files.VIDEO
        video.write(path, frames, fps)
        return path.read_bytes()
