"""API keys: shown once, kept as a digest that says nothing without the server's own secret.

A key is `vdm_<id>_<secret>`: its id finds the row, its 256 bits of secret are compared as a keyed
hash, in constant time. What a key makes belongs to its owner; a key that is rotated has the same.
"""

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from vdm_jax.core.refusal import Refusal, Unavailable
from vdm_jax.serve.config import Quota
from vdm_jax.serve.store.schema import KEYS, Database

SCOPES = ("videos:read", "videos:write", "metrics")
DEFAULT = ("videos:read", "videos:write")
LOCAL = "local"
"""The owner of what is made while there is no key, and of the first key."""
SECRET = "secret"
OWN = 0o700  # of a server's folder: prompts and pictures are nobody else's
_KEY = re.compile(r"vdm_([0-9a-f]{16})_([0-9a-f]{64})")
_USED = 60.0  # seconds that "last used" may be behind


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks. key: the id of the key; None while the server has none."""

    key: str | None
    owner: str
    name: str
    scopes: frozenset[str]
    quota: Quota
    expires: float | None = None


class Keys:
    """The keys of a database. `pepper` is the secret that their digests are made with."""

    def __init__(self, database: Database, pepper: bytes, quota: Quota) -> None:
        self._database, self._pepper, self._quota = database, pepper, quota
        self._any = False

    def any(self) -> bool:
        """Whether there ever was a key: from then on nobody is let in without one."""
        if not self._any:
            with self._database.reading() as connection:
                self._any = connection.execute(sa.select(KEYS.c.id).limit(1)).first() is not None
        return self._any

    def create(
        self, name: str, scopes: Sequence[str], days: float | None, quota: dict[str, Any]
    ) -> str:
        """A new key, which is not to be had again. Raises Refusal for a scope that is none."""
        for scope in scopes:
            if scope not in SCOPES:
                raise Refusal(f"--scopes {scope}: there are {', '.join(SCOPES)}")
        if not scopes or (days is not None and not 0 < days <= 36500):
            raise Refusal("a key needs a scope, and days from now at which it ends, above 0")
        if len(name) > 100 or not name.isprintable():
            raise Refusal("--name: up to 100 letters, digits and signs")
        given = {n: v for n, v in quota.items() if v is not None}
        Quota(**given)  # refuses what cannot be
        expires = None if days is None else time.time() + 86400 * days
        owner = None if self.any() else LOCAL  # what was made before there was a key is the first's
        return self._add(owner, name, ",".join(sorted(set(scopes))), expires, given)

    def rotate(self, key: str, hours: float) -> str:
        """A new secret with the rights and the videos of key `key`, which ends in `hours`."""
        row = self._row(key)
        if row.revoked is not None:
            raise Refusal(f"key {key} is revoked; create another")
        if row.expires is not None and row.expires <= time.time():
            raise Refusal(f"key {key} has ended; create another")
        fresh = self._add(row.owner, row.name, row.scopes, row.expires, row.quota)
        ends = time.time() + 3600 * hours
        with self._database.writing() as connection:
            last = ends if row.expires is None else min(ends, row.expires)
            connection.execute(sa.update(KEYS).where(KEYS.c.id == key).values(expires=last))
        return fresh

    def revoke(self, key: str) -> None:
        """From the next request on it is no key."""
        self._row(key)
        gone = sa.update(KEYS).where(KEYS.c.id == key, KEYS.c.revoked.is_(None))
        with self._database.writing() as connection:
            connection.execute(gone.values(revoked=time.time()))

    def rows(self) -> list[Any]:
        with self._database.reading() as connection:
            return list(connection.execute(sa.select(KEYS).order_by(KEYS.c.created)))

    def caller(self, presented: str) -> Caller | None:
        """Who presents this key; None for one that is none, or no longer."""
        match = _KEY.fullmatch(presented)
        key, secret = match.groups() if match else ("", "")
        with self._database.reading() as connection:
            row = connection.execute(sa.select(KEYS).where(KEYS.c.id == key)).first()
        expected = self._digest("", "") if row is None else row.digest
        same = hmac.compare_digest(self._digest(key, secret), expected)
        now = time.time()
        if not same or row is None or row.revoked is not None:
            return None
        if row.expires is not None and row.expires <= now:
            return None
        if row.used is None or row.used < now - _USED:
            with self._database.writing() as connection:
                connection.execute(sa.update(KEYS).where(KEYS.c.id == key).values(used=now))
        quota = replace(self._quota, **row.quota)
        scopes = frozenset(row.scopes.split(","))
        return Caller(key=key, owner=row.owner, name=row.name, scopes=scopes, quota=quota,
                      expires=row.expires)  # fmt: skip

    def _row(self, key: str) -> Any:
        with self._database.reading() as connection:
            row = connection.execute(sa.select(KEYS).where(KEYS.c.id == key)).first()
        if row is None:
            raise Refusal(f"there is no key {key!r}; `keys list` shows their ids")
        return row

    def _add(
        self, owner: str | None, name: str, scopes: str, expires: float | None, quota: Any
    ) -> str:
        key, secret = secrets.token_hex(8), secrets.token_hex(32)
        row = {
            "id": key,
            "owner": owner or key,
            "name": name,
            "scopes": scopes,
            "quota": quota,
            "digest": self._digest(key, secret),
            "created": time.time(),
            "expires": expires,
        }
        with self._database.writing() as connection:
            connection.execute(sa.insert(KEYS).values(row))
        return f"vdm_{key}_{secret}"

    def _digest(self, key: str, secret: str) -> str:
        return hmac.new(self._pepper, f"{key}_{secret}".encode(), hashlib.sha256).hexdigest()


def pepper(data: Path) -> bytes:
    """The server's secret, a file that only its user may read; made where there is none."""
    path = data / SECRET
    try:
        part = path.with_name(f".{SECRET}.{os.getpid()}")
        if not path.exists():
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(part, path)  # the first one stays
            except FileExistsError:
                pass
            finally:
                part.unlink()
        secret = path.read_bytes()
    except OSError as fault:
        raise Unavailable(f"{path}: {fault.strerror}") from fault
    if len(secret) < 32:
        raise Refusal(f"{path}: is damaged; keys made with it are lost if it is replaced")
    return secret
