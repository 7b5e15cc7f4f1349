"""What surrounds every answer: a number, safe headers, one line for a fault, counts, the audit."""

import json
import logging
import secrets
import time
from collections.abc import Callable, MutableMapping
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from vdm_jax.serve.api.errors import AWAY, ApiError, away, fault
from vdm_jax.serve.api.metrics import Metrics
from vdm_jax.serve.api.refused import Refused

LOG = logging.getLogger("vdm_jax.serve")
AUDIT_BYTES, AUDIT_FILES = 10_000_000, 5
CHANGING = ("POST", "DELETE", "PUT", "PATCH")
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors {ancestors}"
    ),
}


class Audit:
    """A line of JSON for each request that changes something, or is not let in.

    It names the key by its id; it holds no secret, no prompt and no picture.
    """

    def __init__(self, path: Path) -> None:
        handler = RotatingFileHandler(
            path, maxBytes=AUDIT_BYTES, backupCount=AUDIT_FILES, delay=True
        )
        handler.setFormatter(logging.Formatter("%(message)s"))
        self._log = logging.Logger("audit")
        self._log.addHandler(handler)

    def write(self, **said: Any) -> None:
        self._log.info(json.dumps({"time": round(time.time(), 3), **said}))


class Envelope:
    """ASGI: the outermost layer. ancestors: sites that may show the page in a frame of theirs."""

    def __init__(
        self,
        app: Any,
        *,
        metrics: Metrics,
        audit: Audit,
        ancestors: str,
        stopping: Callable[[], bool],
        refused: Refused,
    ) -> None:
        self._app, self._metrics, self._audit, self._stopping = app, metrics, audit, stopping
        self._refused = refused
        policy = {"ancestors": ancestors}
        self._headers = [
            (name.encode(), value.format(**policy).encode()) for name, value in HEADERS.items()
        ]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        number, begun = f"req_{secrets.token_hex(12)}", time.perf_counter()
        status = 0
        scope.setdefault("state", {})["number"] = number

        async def sent(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *self._own(message, number)]
            await send(message)

        try:
            self._check_open(scope)
            await self._app(scope, receive, sent)
        except Exception as error:
            refusal = _refusal(error, number)
            if not status:
                await refusal.response(scope, receive, sent)
        finally:
            self._count(scope, status, time.perf_counter() - begun, number)

    def _check_open(self, scope: Any) -> None:
        if self._stopping() and scope["method"] in CHANGING:
            raise ApiError(503, "stopping", "the server stops; it will be back", wait=10)

    def _own(self, message: Any, number: str) -> list[tuple[bytes, bytes]]:
        given = {name.lower() for name, _ in message["headers"]}
        own = [*self._headers, (b"x-request-id", number.encode()), (b"cache-control", b"no-store")]
        if self._stopping():
            own.append((b"connection", b"close"))
        return [(name, value) for name, value in own if name not in given]

    def _count(self, scope: Any, status: int, seconds: float, number: str) -> None:
        route = getattr(scope.get("route"), "path", "none")
        self._metrics.request(scope["method"], route, status, seconds)
        caller = scope.get("state", {}).get("caller")
        if scope["method"] == "POST" and caller is not None:
            self._refused.note(caller.owner, status)
        if scope["method"] in CHANGING or status in (401, 403):
            self._audit.write(
                request=number,
                key=None if caller is None else caller.key or "none",
                client=(scope.get("client") or ("",))[0],
                method=scope["method"]
                if scope["method"] in (*CHANGING, "GET", "HEAD")
                else "other",
                route=route,
                job=scope.get("state", {}).get("job"),
                status=status,
            )


def _refusal(error: Exception, number: str) -> ApiError:
    """What is said of an error; of one that nobody thought of, only where to look for it."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, AWAY):
        LOG.warning("%s: the job store: %s", number, type(error).__name__)
        return away()
    LOG.error("%s: a fault of the server", number, exc_info=error)
    return fault(number)
