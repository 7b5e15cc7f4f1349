"""What has been done: one SQLite file, from which a killed curation goes on.

A result is written once its files are on the disk; what has none is done again.
"""

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vdm_jax.core.refusal import Refusal
from vdm_jax.curate.stage import Row

FILE = "ledger.sqlite"


class Ledger:
    """Results of tasks by their keys. identity: what they depend on; another one is refused."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]):
        folder.mkdir(parents=True, exist_ok=True)
        self._base = sqlite3.connect(folder / FILE, isolation_level=None)
        try:
            self._open(folder, json.dumps(identity, sort_keys=True))
        except sqlite3.DatabaseError as error:
            raise Refusal(
                f"{folder / FILE}: is damaged ({error}); delete {folder} and begin again"
            ) from error

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
        return {
            key: json.loads(result)
            for key, result in self._base.execute("SELECT key, result FROM done")
        }

    def add(self, key: str, result: Row) -> None:
        self._base.execute("INSERT OR REPLACE INTO done VALUES (?, ?)", (key, json.dumps(result)))

    def close(self) -> None:
        self._base.close()


def _difference(old: str, new: str) -> str:
    a, b = json.loads(old), json.loads(new)
    return ", ".join(name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name))
