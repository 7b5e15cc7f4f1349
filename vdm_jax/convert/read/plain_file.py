"""Regular local files, read at checked offsets: no links, no pipes, no devices."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sniff import reason

_CHUNK = 1 << 22
_PLAIN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class PlainFile:
    """An open regular file of known size. Use as a context manager, or call close().

    Raises Refusal if the path leads to anything else. Reads may come from any thread.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._descriptor = _opened(self.path)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes. Raises Refusal if the file does not have them."""
        if count < 0 or offset < 0 or offset + count > self.size:
            raise Refusal(
                f"{self.path}: is cut short: it has {self.size} bytes, {offset + count} are needed"
            )
        buffer = bytearray(count)
        self.fill(offset, memoryview(buffer))
        return bytes(buffer)

    def fill(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (of bytes) with what stands at `offset`. Raises Refusal if too little."""
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            except OSError as error:
                raise Refusal(f"{self.path}: cannot be read: {reason(error)}") from error
            if count == 0:
                raise Refusal(f"{self.path}: ends at byte {offset + done}; it was longer before")
            done += count

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> "PlainFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _opened(path: Path) -> int:
    try:
        descriptor = os.open(path, _PLAIN)
    except FileNotFoundError:
        raise Refusal(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ELOOP:
            raise Refusal(f"{path}: is a symbolic link; give the file that it leads to") from None
        raise Refusal(f"{path}: cannot be opened: {reason(error)}") from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise Refusal(f"{path}: is {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'}")


def sha256(
    path: str | os.PathLike, progress: Callable[[int, int], None] = lambda done, total: None
) -> str:
    """The SHA-256 of a file, in hexadecimal. progress: called with (bytes done, bytes in all)."""
    digest = hashlib.sha256()
    with PlainFile(path) as file:
        buffer = memoryview(bytearray(_CHUNK))
        for begin in range(0, file.size, _CHUNK):
            part = buffer[: min(_CHUNK, file.size - begin)]
            file.fill(begin, part)
            digest.update(part)
            progress(begin + len(part), file.size)
    return digest.hexdigest()


def check_sha256(
    path: str | os.PathLike,
    expected: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Raises Refusal unless the SHA-256 of the file is `expected` (64 hexadecimal digits)."""
    if len(expected) != 64 or not set(expected.lower()) <= set("0123456789abcdef"):
        raise Refusal(f"a SHA-256 has 64 hexadecimal digits, got {expected!r}")
    actual = sha256(path, progress)
    if actual != expected.lower():
        raise Refusal(f"{path}: its SHA-256 is {actual}, not {expected.lower()}")
