"""`keys create|list|rotate|revoke`: who may use a server. They are made on its host alone."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.serve.config import Quota
from vdm_jax.serve.store import keys, schema
from vdm_jax.serve.store.keys import DEFAULT, Keys

PROG = "python -m vdm_jax.serve keys"


@dataclass(frozen=True, kw_only=True)
class Store:
    """Which server's keys."""

    data: str = "served"
    """The server's folder."""
    database: str = ""
    """The server's PostgreSQL address, or the environment's VDM_DATABASE."""


@dataclass(frozen=True, kw_only=True)
class Create(Store):
    """Make a key; it is shown once."""

    name: str = ""
    """Who or what will use it."""
    scopes: tuple[str, ...] = DEFAULT
    """Of videos:read, videos:write, metrics."""
    days: float | int | None = None
    """Days until it ends; None never."""
    requests_per_minute: int | None = None
    """Another bound than the server's."""
    concurrent_videos: int | None = None
    """Another bound than the server's."""
    frame_pixels_per_day: int | None = None
    """Another bound than the server's: frames times height times width of a day."""


@dataclass(frozen=True, kw_only=True)
class Listed(Store):
    """Show the keys: their ids, never their secrets."""


@dataclass(frozen=True, kw_only=True)
class Rotate(Store):
    """A new secret for the same owner and videos; the old one ends."""

    key: str = ""
    """The key's id, as `keys list` shows it."""
    hours: float | int = 0.0
    """That the old one is still good for."""


@dataclass(frozen=True, kw_only=True)
class Revoke(Store):
    """End a key, from the next request on."""

    key: str = ""
    """The key's id, as `keys list` shows it."""


def create(held: Keys, asked: Create) -> None:
    """Prints the key alone, so that `KEY=$(… keys create …)` is one."""
    quota = {
        "requests_per_minute": asked.requests_per_minute,
        "concurrent_videos": asked.concurrent_videos,
        "frame_pixels_per_day": asked.frame_pixels_per_day,
    }
    if not asked.name:
        raise Refusal("--name is missing: who or what will use the key")
    print(held.create(asked.name, asked.scopes, asked.days, quota))


def listed(held: Keys, asked: Listed) -> None:
    del asked
    form = "{:17} {:20} {:28} {:11} {:11} {}"
    print(form.format("id", "name", "scopes", "last used", "ends", "state"))
    for row in held.rows():
        ended = row.expires is not None and row.expires < time.time()
        state = "revoked" if row.revoked is not None else "expired" if ended else "good"
        days = [_day(row.used), _day(row.expires)]
        print(form.format(row.id, row.name[:20], row.scopes, *days, state))


def rotate(held: Keys, asked: Rotate) -> None:
    if not 0 <= asked.hours <= 24 * 365:
        raise Refusal(f"--hours {asked.hours}: must lie in [0, 8760]")
    print(held.rotate(_named(asked), asked.hours))


def revoke(held: Keys, asked: Revoke) -> None:
    held.revoke(_named(asked))
    print(f"{asked.key} is revoked")


COMMANDS: dict[str, tuple[Any, Callable[[Keys, Any], None]]] = {
    "create": (Create(), create),
    "list": (Listed(), listed),
    "rotate": (Rotate(), rotate),
    "revoke": (Revoke(), revoke),
}
USAGE = f"""\
usage: {PROG} COMMAND [--data DIR] [OPTIONS]

{chr(10).join(f"  {name:8}{asked.__doc__}" for name, (asked, _) in COMMANDS.items())}

{PROG} COMMAND --help lists the options of one.
"""


def main(args: Sequence[str]) -> int:
    if not args or args[0] in ("--help", "-h"):
        print(USAGE, end="")
        return 0
    if args[0] not in COMMANDS:
        raise Refusal(f"keys {args[0]}: there are {', '.join(COMMANDS)}")
    asked, does = COMMANDS[args[0]]
    asked = configs.override(asked, args[1:], prog=f"{PROG} {args[0]}")
    data = Path(asked.data)
    if args[0] != "create" and not data.is_dir():
        raise Refusal(f"--data {data}: there is no such folder")
    data.mkdir(mode=keys.OWN, parents=True, exist_ok=True)
    database = schema.opened(data, asked.database)
    try:
        does(Keys(database, keys.pepper(data), Quota()), asked)
    finally:
        database.close()
    return 0


def _named(asked: Any) -> str:
    if not asked.key:
        raise Refusal("--key is missing: the id of a key; `keys list` shows them")
    return asked.key


def _day(seconds: float | None) -> str:
    return "-" if seconds is None else time.strftime("%Y-%m-%d", time.gmtime(seconds))
