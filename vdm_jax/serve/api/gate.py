"""The first thing that every request meets: who asks, how often, and how much may be sent.

Nothing is answered without a key but what `PUBLIC` names, whatever the rest of the program does.
While the server has no key it answers this machine alone: by the name under which it is called, so
that a page elsewhere cannot reach it by a name of its own that leads here, and by where the browser
says that a request comes from.
"""

import asyncio
import re
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers

from vdm_jax.serve.api.errors import ApiError
from vdm_jax.serve.config import Bounds, Quota
from vdm_jax.serve.store.keys import LOCAL, SCOPES, Caller, Keys

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
BURST = 0.25  # of a minute's requests, taken at once
FAILURES = 30  # keys that are none, from one address in a minute
REMEMBERED = 10_000  # addresses and keys whose rate is known
BEARER = re.compile(r"Bearer +(\S+)", re.IGNORECASE)

Send = Callable[[Any], Awaitable[None]]


class Rates:
    """A bucket of requests for each name: it fills evenly, and holds a share of a minute's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, name: str, per_minute: int, share: float = BURST) -> float:
        """0 where a request may pass, else seconds until one may."""
        rate, most = per_minute / 60, max(1.0, per_minute * share)
        now = time.monotonic()
        with self._lock:
            level, at = self._levels.pop(name, (most, now))
            level = min(most, level + (now - at) * rate)
            wait = 0.0 if level >= 1 else (1 - level) / rate
            self._levels[name] = (level - 1 if not wait else level, now)
            if len(self._levels) > REMEMBERED:
                self._levels.pop(next(iter(self._levels)))
            return wait


class Gate:
    """ASGI: lets a request through with scope["state"]["caller"], or raises ApiError.

    public: exact paths that need no key. hosts: names under which the server without a key may be
    called.
    """

    def __init__(
        self,
        app: Any,
        *,
        keys: Keys,
        quota: Quota,
        bounds: Bounds,
        public: Sequence[str],
        hosts: Sequence[str],
    ) -> None:
        self._app, self._keys, self._bounds = app, keys, bounds
        self._public = frozenset(public)
        self._hosts = tuple(host.lower() for host in hosts)
        scopes = frozenset(SCOPES)
        self._local = Caller(key=None, owner=LOCAL, name="this machine", scopes=scopes, quota=quota)
        self._rates, self._failures = Rates(), Rates()

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        client = (scope.get("client") or ("", 0))[0]
        scope.setdefault("state", {})["caller"] = None
        open_path = scope["path"] in self._public and scope["method"] in ("GET", "HEAD")
        caller = await self._caller(headers, client, needed=not open_path)
        if caller is not None:
            scope["state"]["caller"] = caller
            wait = self._rates.take(caller.owner, caller.quota.requests_per_minute)
            if wait:
                most = f"{caller.quota.requests_per_minute} requests a minute"
                raise ApiError(429, "rate_limit_exceeded", f"this key has {most}", wait=wait)
        await self._app(scope, self._bounded(receive, headers), send)

    async def _caller(self, headers: Headers, client: str, *, needed: bool) -> Caller | None:
        given = headers.getlist("authorization")
        if not needed:
            return None
        if not await run_in_threadpool(self._keys.any):
            self._check_local(headers)  # clients that must send a key may send any
            return self._local
        match = BEARER.fullmatch(given[0].strip()) if len(given) == 1 else None
        caller = None
        if match is not None:
            caller = await run_in_threadpool(self._keys.caller, match[1])
        if caller is not None:
            return caller
        wait = self._failures.take(client, FAILURES, 1.0)
        if wait:
            raise ApiError(429, "rate_limit_exceeded", "too many keys that are none", wait=wait)
        what = "this key is none, or no longer" if given else "a key is needed"
        raise ApiError(401, "invalid_api_key", f"{what}; send Authorization: Bearer vdm_…")

    def _check_local(self, headers: Headers) -> None:
        """Only this machine's own pages and programs."""
        names = headers.getlist("host")
        if len(names) != 1 or not _among(names[0], (*LOOPBACK, *self._hosts)):
            raise ApiError(
                403, "host_not_allowed",
                "without a key only this machine is answered; create one (serve keys create), or "
                "name this host with --allowed-hosts",
            )  # fmt: skip
        if not self._hosts and any(name in headers for name in FORWARDED):
            raise ApiError(
                403, "host_not_allowed", "without a key no proxy is answered; create one"
            )
        origins = [each.partition("://")[2] for each in headers.getlist("origin")]
        foreign = [o for o in origins if o != names[0] and not _among(o, self._hosts)]
        site = headers.get("sec-fetch-site", "same-origin")
        if foreign or site not in ("same-origin", "none"):
            raise ApiError(403, "origin_not_allowed", "pages of other sites are not answered")

    def _bounded(self, receive: Any, headers: Headers) -> Any:
        """What is received, up to a size and within a time."""
        most = int(self._bounds.upload_mb * 1e6)
        told = headers.get("content-length", "0")
        too_large = ApiError(413, "too_large", f"a request may have {most} bytes")
        if not told.isascii() or not told.isdigit() or int(told[:20]) > most:
            raise too_large
        ends = time.monotonic() + self._bounds.upload_seconds
        got, whole = 0, False

        async def bounded() -> Any:
            nonlocal got, whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.01, ends - time.monotonic()))
            except TimeoutError:
                raise ApiError(408, "timeout", "the request came too slowly") from None
            got += len(message.get("body", b""))
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            if got > most:
                raise too_large
            return message

        return bounded


def _among(host: str, names: Sequence[str]) -> bool:
    """Whether a host, with or without its port, is one of `names`; ".x" is every name below x."""
    name = re.sub(r":[0-9]{1,5}$", "", host.lower())
    return any(name == each or (each.startswith(".") and name.endswith(each)) for each in names)
