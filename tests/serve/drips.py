"""Clients that begin a request, and then send it by the letter."""

import socket
import time

from serve.raw import LOOPBACK, statuses

HEAD = b"POST /v1/videos HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n"
PART = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'


def slow(server):
    """How requests begin that do not end, by name."""
    key = f"Authorization: Bearer {server.key}\r\n".encode()
    return {
        "JSON": HEAD + key + b"Content-Type: application/json\r\n\r\n{",
        "form": HEAD + key + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + PART,
        "headers": HEAD,
        "nothing": b"",
        "no key": HEAD + b"\r\n",
    }


def drips(server, begin, hung_up):
    """Send a letter each second until it answers, or, if `hung_up`, hangs up: what was answered and
    how long that took."""
    begun, got = time.monotonic(), b""
    with socket.create_connection((LOOPBACK, server.port), 60) as line:
        line.sendall(begin)
        line.settimeout(1.0)
        while time.monotonic() - begun < 40 and (hung_up or not got):
            try:
                line.sendall(b" " if begin else b"")
                piece = line.recv(1 << 16)
                if not piece:
                    break
                got += piece
            except TimeoutError:
                continue
            except OSError:
                break
    return statuses(got), time.monotonic() - begun
