"""Listening: uvicorn, in a thread, with no patience for requests that never begin."""

import asyncio
import ipaddress
import resource
import socket
import threading
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from vdm_jax.core.refusal import Refusal
from vdm_jax.serve.api.errors import ApiError

HEADER_SECONDS = 15.0  # from the first sign of a client to the end of its headers
HEADER_BYTES = 32_768
FILES = 8192  # that may be open at once: of connections, of the store, of videos
BACKLOG = 2048


class Patient(H11Protocol):
    """HTTP/1.1, but a client is hung up on whose headers are not all there in time, or who goes on
    with a body after its answer; and what is no HTTP is told so in the shape of all errors."""

    most = 2000
    """Connections at once; more are answered 503."""
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self.app = _crowded
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE or self._idle_talk:
            self._wait()
        else:
            self._stop()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._idle_talk:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Where an answer is under way, hang up."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = ApiError(400, "bad_request", "this is no HTTP request").response
            headers = [*answer.raw_headers, (b"connection", b"close")]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None:
            self.cycle.disconnected = True
        self.transport.close()

    @property
    def _idle_talk(self) -> bool:
        """Whether what still comes belongs to a request that was answered."""
        return self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


async def _crowded(scope: Any, receive: Any, send: Any) -> None:
    answer = ApiError(503, "overloaded", "too many connections at once", wait=5).response
    answer.headers["connection"] = "close"
    await answer(scope, receive, send)


class Listener:
    """An application that is answered at a socket until it is closed."""

    def __init__(self, app: Any, sockets: list[socket.socket], connections: int) -> None:
        config = uvicorn.Config(
            app,
            http=type("Patient", (Patient,), {"most": connections}),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="error",
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=5,
            h11_max_incomplete_event_size=HEADER_BYTES,
        )
        _allow_files()
        self._server = uvicorn.Server(config)
        self._sockets = sockets
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    def close(self, patience: float = 10) -> None:
        """Answer what has begun, then hang up."""
        self._server.should_exit = True
        self._thread.join(patience)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        self._server.run(sockets=self._sockets)


def bound(host: str, port: int) -> tuple[list[socket.socket], int]:
    """Sockets that listen at every address of `host`, and the port. Raises Refusal."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise Refusal(f"--host {host}: {error.strerror}") from None
    sockets: list[socket.socket] = []
    for family, kind, _, _, address in dict.fromkeys(found):
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address[0], port, *address[2:]))
            listener.listen(BACKLOG)
        except OSError as fault:
            for each in (*sockets, listener):
                each.close()
            raise Refusal(
                f"--host {host} --port {port}: cannot listen there: {fault.strerror}"
            ) from None
        port = listener.getsockname()[1]
        sockets.append(listener)
    return sockets, port


def _allow_files() -> None:
    """As many open files as it may need, where the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FILES:
        most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def is_loopback(sockets: list[socket.socket]) -> bool:
    """Whether only this machine can reach them."""
    return all(ipaddress.ip_address(each.getsockname()[0]).is_loopback for each in sockets)
