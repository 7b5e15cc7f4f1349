"""Pictures that clients send: decoded in a process of their own, kept as plain PNG.

A picture is data of whoever sent it. Its format is told by its contents and is one of three, its
size is checked before a pixel is decoded, a decoder that breaks or stalls is ended, and what is
kept is encoded anew: no name, no byte and no metadata of the file that was sent.
"""

import asyncio
import base64
import binascii
import multiprocessing
import re
from concurrent.futures import TimeoutError as TooLong
from io import BytesIO
from typing import Any

from pebble import ProcessExpired, ProcessPool

from vdm_jax.serve.api import memory
from vdm_jax.serve.api.errors import invalid

PATIENCE = 20.0  # seconds for one picture
MEMORY = 1 << 30  # bytes of address space beyond what the process begins with
RENEWED = 200  # pictures after which the process is replaced
KEPT_PIXELS = 2048 * 2048  # larger pictures are made about this small, of the same shape
WEBP_SHARE = 0.4  # of the pixels of others: its decoder holds each three times
DATA_URL = re.compile(r"data:image/(?:png|jpeg|jpg|webp);base64,", re.IGNORECASE)
FIELD = "input_reference"


class Pictures:
    """Turns what clients send into PNG. pixels: the most that a picture may have."""

    def __init__(self, pixels: int) -> None:
        self._pixels = pixels
        self._pool = ProcessPool(
            max_workers=1,
            max_tasks=RENEWED,
            initializer=_confined,
            context=multiprocessing.get_context("spawn"),
        )
        self._pool.schedule(_ready)  # the first picture need not wait for the process

    async def kept(self, content: bytes) -> bytes:
        """The picture as PNG. Raises ApiError where it is none, or too large."""
        try:
            future = self._pool.schedule(_kept, (content, self._pixels), timeout=PATIENCE)
            made = await asyncio.wrap_future(future)
        except (TooLong, ProcessExpired, MemoryError):
            raise invalid("the picture cannot be read", FIELD, "invalid_image") from None
        if isinstance(made, str):
            raise invalid(made, FIELD, "invalid_image")
        return made

    def close(self) -> None:
        self._pool.stop()
        self._pool.join()


def of_data_url(text: str) -> bytes:
    """The bytes that a data URL holds; addresses are never fetched."""
    match = DATA_URL.match(text[:64])
    if match is None:
        raise invalid(
            "send the picture itself, as a file or as data:image/png;base64,… (PNG, JPEG or WebP); "
            "addresses are not fetched",
            FIELD,
        )
    try:
        return base64.b64decode(text[match.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise invalid("the data URL is not base64", FIELD, "invalid_image") from None


def _confined() -> None:
    import resource

    memory.given_back()

    with open("/proc/self/statm") as file:
        begun = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (begun + MEMORY, begun + MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _ready() -> None:
    from vdm_jax.core import still

    del still


def _kept(content: bytes, pixels: int) -> Any:
    """In the process: PNG, or a line that says what is wrong."""
    from PIL import Image

    from vdm_jax.core.container import Limits
    from vdm_jax.core.refusal import Refusal
    from vdm_jax.core.still import read_reduced

    most = int(WEBP_SHARE * pixels) if content[8:12] == b"WEBP" else pixels
    try:
        picture = Image.fromarray(read_reduced(content, Limits(pixels=most), KEPT_PIXELS))
        out = BytesIO()
        picture.save(out, "PNG", compress_level=3)
    except Refusal as refusal:
        return str(refusal).replace("picture in memory", "the picture")
    except Exception as error:  # whatever a decoder makes of what it was given
        return f"the picture cannot be read: {type(error).__name__}"
    return out.getvalue()
