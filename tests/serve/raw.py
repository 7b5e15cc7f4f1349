"""HTTP by hand: the bytes that a client would never send, and the answers as they came."""

import json
import re
import socket
from contextlib import suppress
from typing import NamedTuple

STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3})[^\r\n]*\r\n")
LOOPBACK = "127.0.0.1"


class Answer(NamedTuple):
    """headers: as they came, names in lower case; those that change with each answer are not in."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def error(self):
        return json.loads(self.body)["error"]


def request(method, target, headers=(), body=b"", *, host=LOOPBACK, close=True):
    """The bytes of a request. headers: (name, value) pairs, beside Host and Content-Length."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += [f"Content-Length: {len(body)}"] if body else []
    lines += ["Connection: close"] if close else []
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body


def bearer(key):
    return [("Authorization", f"Bearer {key}")]


def form(fields, files=(), boundary="x1y2z3"):
    """(headers, body) of a multipart form. files: (field, filename, content)."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        + (value if isinstance(value, bytes) else str(value).encode())
        for name, value in fields
    ]
    parts += [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
        "Content-Type: image/png\r\n\r\n".encode()
        + content
        for name, filename, content in files
    ]
    body = b"\r\n".join([*parts, f"--{boundary}--\r\n".encode()])
    return [("Content-Type", f"multipart/form-data; boundary={boundary}")], body


def exchange(port, content, seconds=10.0):
    """All that is answered to these bytes until it hangs up, or is silent for so long."""
    with socket.create_connection((LOOPBACK, port), seconds) as line:
        return said(line, content)


def said(line, content=b""):
    """Send over an open line; what comes until it is hung up, or silent."""
    got = bytearray()
    with suppress(OSError):  # it may not want the rest: what it says follows
        line.sendall(content)
    with suppress(OSError):
        while piece := line.recv(1 << 16):
            got += piece
    return bytes(got)


def statuses(content):
    """Of all the answers in it."""
    return [int(each) for each in STATUS.findall(content)]


def parsed(content):
    """The first answer."""
    head, _, body = content.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    kept = [(name.lower(), value) for name, value in pairs if name.lower() != "x-request-id"]
    return Answer(int(first.split()[1]), tuple(kept), body)


def ask(port, content, seconds=10.0):
    """The first answer to these bytes; fails where there is none."""
    got = exchange(port, content, seconds)
    assert got, f"no answer to {content[:200]!r}"
    return parsed(got)


class Line:
    """A connection that is kept: many requests, one after another."""

    def __init__(self, port):
        self._socket = socket.create_connection((LOOPBACK, port), 30)
        self._file = self._socket.makefile("rb")

    def ask(self, method, target, headers=(), body=b""):
        self._socket.sendall(request(method, target, headers, body, close=False))
        head = bytearray()
        while (row := self._file.readline()) not in (b"\r\n", b""):
            head += row
        assert head, f"hung up at {method} {target}"
        answer = parsed(bytes(head) + b"\r\n")
        length = 0 if method == "HEAD" else int(dict(answer.headers).get("content-length", 0))
        return answer._replace(body=self._file.read(length))

    def close(self):
        self._file.close()
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()
