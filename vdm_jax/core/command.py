"""How every command ends: the user's mistakes in one line, our own with a traceback."""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from vdm_jax.core.refusal import Refusal, Unavailable

STORAGE = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this process may write",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
}


def run(main: Callable[[Sequence[str]], int | None], args: Sequence[str] | None = None) -> NoReturn:
    """Call a verb's main with the shell's arguments and exit with its code (None is 0).

    Refusals and full, read-only or forbidden disks print `error: …` on stderr and exit 2, what is
    unavailable for now 75, Ctrl-C exits 130, a reader that went away (`vdm … | head`) exits 141.
    Anything else is a bug of ours and keeps its traceback.
    """
    try:
        code = main(sys.argv[1:] if args is None else args)
        sys.stdout.flush()
    except Unavailable as refusal:
        code = _stopped(f"error: {refusal}", os.EX_TEMPFAIL)
    except Refusal as refusal:
        code = _stopped(f"error: {refusal}", 2)
    except KeyboardInterrupt:
        code = _stopped("interrupted", 130)
    except BrokenPipeError:
        # Python flushes stdout once more at exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        place = "" if error.filename is None else f": {os.fsdecode(error.filename)}"
        code = _stopped(f"error: {STORAGE[error.errno]}{place}", 2)
    sys.exit(code)


def _stopped(message: str, code: int) -> int:
    print(" ".join(message.split()), file=sys.stderr, flush=True)
    return code
