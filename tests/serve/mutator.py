"""Requests that a client could send, and what becomes of them when bytes are changed at random."""

import json
import re

from serve.raw import bearer, form, request
from serve.served import picture

WORDS = (
    b"\r\n", b"\r\n\r\n", b"\0", b"\n", b"\r", b" ", b"\t", b":", b"/", b"//", b"..", b"%00",
    b"%2f",
    b"%ff", b"%", b"\xff", b"\xed\xa0\x80", b"\xf0\x9f\x92\xa9", b"-1", b"0",
    b"99999999999999999999",
    b"1e999", b"NaN", b"null", b"true", b"[]", b"{}", b'"', b"\\", b"\\u0000", b"\\ud800",
    b"[" * 999,
    b"a" * 3000, b"Content-Length: 0\r\n", b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n", b"Connection: close\r\n", b"Connection: upgrade\r\n",
    b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"Host: b\r\n",
    b"Range: bytes=0-1,2-3,-5\r\n",
    b"Content-Type: application/json\r\n",
    b"Content-Type: multipart/form-data; boundary=x1y2z3\r\n",
    b"Idempotency-Key: a\r\n", b"x-stainless-retry-count: 1\r\n", b"If-Range: x\r\n", b"HTTP/1.0",
    b"HTTP/2.0", b"GET", b"POST", b"DELETE", b"HEAD", b"OPTIONS", b"PRI", b"CONNECT",
    b"--x1y2z3\r\n",
    b"--x1y2z3--\r\n", b"; charset=undefined", b"; charset=utf-7", b"?limit=", b"&after=",
    b"?variant=",
    b"input_reference[image_url]", b"data:image/png;base64,", b"5\r\nabcde\r\n", b"0\r\n\r\n",
)  # fmt: skip
LENGTH = re.compile(rb"Content-Length: [0-9]+")


def valid(server):
    """Of every route."""
    key = bearer(server.key)
    video = server.create(prompt="one to ask for")["id"]
    as_json = [*key, ("Content-Type", "application/json")]
    asked = {"prompt": "a red circle", "seed": 5, "size": "16x16", "num_frames": 4, "fps": 8.0}
    kind, body = form(
        [("prompt", "a red circle"), ("seconds", "0.5")], [("input_reference", "a.png", picture(8))]
    )
    flat = [*key, ("Content-Type", "application/x-www-form-urlencoded")]
    chunks = [*as_json, ("Transfer-Encoding", "chunked")]
    one = f"/v1/videos/{video}"
    gets = ("/v1/videos?limit=2&order=asc", f"/v1/videos?after={video}", one, "/metrics",
            f"{one}/content",
            f"{one}/content?variant=thumbnail", "/v1/models", "/v1/models/tiny", "/v1/me",
            "/openapi.json", "/health", "/ready", "/", "/page.css")  # fmt: skip
    found = [request("GET", each, [*key, ("Range", "bytes=0-9")], close=False) for each in gets]
    posts = [
        ("/v1/videos", as_json, json.dumps(asked).encode()),
        ("/v1/videos", [*key, *kind, ("Idempotency-Key", "a")], body),
        ("/v1/videos", flat, b"prompt=a+red+circle&seed=5&input_reference[image_url]=data:"),
        (f"{one}/remix", as_json, json.dumps({"prompt": "blue"}).encode()),
        ("/v1/images/generations", as_json, json.dumps({"prompt": "a", "n": 1}).encode()),
    ]
    found += [request("POST", *each, close=False) for each in posts]
    body = json.dumps(asked).encode()
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:20], body[20:])) + b"0\r\n\r\n"
    found.append(request("POST", "/v1/videos", chunks, close=False) + pieces)
    found.append(request("DELETE", f"/v1/videos/{video[:-1]}", key, close=False))
    return found


def mutated(chance, seeds):
    """One of `seeds`, changed in a few places; often its length is set right again, so that what
    was changed in a body is read."""
    content = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        at = chance.randrange(len(content) + 1)
        match chance.randrange(8):
            case 0:
                content[at:at] = chance.choice(WORDS)
            case 1:
                content[at : at + 1] = bytes([chance.randrange(256)])
            case 2:
                del content[at : at + chance.choice((1, 2, 10, 100))]
            case 3:
                end = at + chance.choice((4, 40, 400))
                content[at:at] = content[at:end]
            case 4:
                other = chance.choice(seeds)
                content[at:] = other[chance.randrange(len(other)) :]
            case 5:
                content[at : at + 4] = chance.choice(WORDS)
            case 6:
                content[at:at] = chance.randbytes(chance.choice((1, 8, 64)))
            case _:
                _in_head(content, chance)
    head, gap, body = bytes(content).partition(b"\r\n\r\n")
    if gap and chance.random() < 0.6:
        head = LENGTH.sub(b"Content-Length: %d" % len(body), head)
    return head + gap + body


def _in_head(content, chance):
    """A whole header more, or another value."""
    ends = [m.end() for m in re.finditer(b"\r\n", bytes(content[:2000]))] or [0]
    at = chance.choice(ends)
    content[at:at] = chance.choice([word for word in WORDS if word.endswith(b"\r\n")])
