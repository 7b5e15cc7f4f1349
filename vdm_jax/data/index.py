"""What one pass over large files found, kept for the next time that they are opened.

An index is a JSON file in `folder()`, or where the user says. It is named by the paths, sizes and
modification times of the files it was made of and by what was asked of them: where any of these
changes, it is made anew. One that is damaged is made anew too, and where none can be written the
pass is simply made each time.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from vdm_jax.core.refusal import Refusal
from vdm_jax.core.sniff import reason
from vdm_jax.data.clips import digest

Item = TypeVar("Item")
Found = TypeVar("Found")

INDEX_VERSION = 1  # goes up when the same files give another index
THREADS = 8


def folder() -> Path:
    """Where indexes are kept unless the user says: vdm_jax/index in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME", "")  # to be ignored unless absolute
    root = Path(cache) if os.path.isabs(cache) else Path.home() / ".cache"
    return root / "vdm_jax" / "index"


def remembered(
    files: Sequence[Path], asked: Any, make: Callable[[], Any], cache: Path | None
) -> Any:
    """What `make()` returns, which JSON can say, made once for these files and what is `asked`.

    cache: the folder of indexes; None is `folder()`. Raises Refusal if a file is missing.
    """
    name = digest({"version": INDEX_VERSION, "asked": asked, "files": [_stamp(f) for f in files]})
    path = (cache or folder()) / f"{name}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["name"] == name:
            return kept["index"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass  # not there, or damaged
    made = make()
    _keep(path, json.dumps({"name": name, "index": made}))
    return made


def each(
    work: Callable[[Item], Found], items: Iterable[Item], total: int, told: str
) -> list[Found]:
    """`work` of every item, in order, by several threads; a terminal shows how far it is."""
    with ThreadPoolExecutor(THREADS) as pool:
        done = pool.map(work, items)
        try:
            return list(tqdm(done, total=total, desc=told, disable=None, leave=False))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _stamp(file: Path) -> list[Any]:
    try:
        status = file.stat()
    except OSError as error:
        raise Refusal(f"{file}: cannot be read: {reason(error)}") from error
    return [os.path.abspath(file), status.st_size, status.st_mtime_ns]


def _keep(path: Path, text: str) -> None:
    """Write it whole or not at all, whoever else does the same."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".index-", dir=path.parent) as scratch:
            part = Path(scratch) / path.name
            part.write_text(text, encoding="utf-8")
            part.replace(path)
    except OSError:
        pass
