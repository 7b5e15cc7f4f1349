"""What has been done: one SQLite file, from which a killed curation goes on.

A result is written once its files are on the disk; what has none is done again.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vdm_jax.core.refusal import Refusal, Unavailable
from vdm_jax.curate.stage import Row

FILE = "ledger.sqlite"


class Ledger:
    """Results of tasks by their keys. identity: what they depend on; another one is refused."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._base = sqlite3.connect(folder / FILE, isolation_level=None)
        with self._used():
            self._open(folder, json.dumps(identity, sort_keys=True))

    def _open(self, folder: Path, identity: str) -> None:
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=FULL")
        self._base.execute("CREATE TABLE IF NOT EXISTS done (key TEXT PRIMARY KEY, result TEXT)")
        self._base.execute("CREATE TABLE IF NOT EXISTS identity (text TEXT)")
        found = self._base.execute("SELECT text FROM identity").fetchone()
        if found is None:
            self._base.execute("INSERT INTO identity VALUES (?)", (identity,))
        elif found[0] != identity:
            raise Refusal(
                f"{folder.parent} was begun with other {_difference(found[0], identity)}; go on "
                f"with those, choose another --output, or delete {folder}"
            )

    def results(self) -> dict[str, Row]:
        """All that is done, by key."""
        with self._used():
            return {
                key: json.loads(result)
                for key, result in self._base.execute("SELECT key, result FROM done")
            }

    def add(self, key: str, result: Row) -> None:
        line = (key, json.dumps(result))
        with self._used():
            self._base.execute("INSERT OR REPLACE INTO done VALUES (?, ?)", line)

    @contextmanager
    def _used(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # a full disk, most of the time
            raise Unavailable(
                f"{self._folder / FILE}: {error}; the same command goes on once it is usable"
            ) from error
        except sqlite3.DatabaseError as error:
            raise Refusal(
                f"{self._folder / FILE}: is damaged ({error}); delete {self._folder} and begin "
                "again"
            ) from error

    def close(self) -> None:
        self._base.close()


def _difference(old: str, new: str) -> str:
    a, b = json.loads(old), json.loads(new)
    return ", ".join(name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name))
