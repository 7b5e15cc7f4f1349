"""Memory that goes back to the system as soon as it is free, so that one large picture, or many,
do not make a process large for good."""

import ctypes

MMAP_THRESHOLD, LARGE = -3, 1 << 20  # of glibc, which else raises it with every large block


def given_back() -> None:
    """From here on, in this process; where its C library is another, nothing changes."""
    try:
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, LARGE)
    except (OSError, AttributeError):
        return
