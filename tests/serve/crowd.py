"""Many clients of a server at once: each keeps a connection, and goes on whatever becomes of it."""

import asyncio
import contextlib
import itertools
import json
import random
import time
from dataclasses import dataclass, field

PATIENCE = 60.0  # seconds for an answer
DONE = 600.0  # seconds for a video


class Broken(Exception):  # noqa: N818 - of a connection
    """The server is not there, or went away before it answered."""


class Client:
    """One keep-alive connection with one key."""

    def __init__(self, port, key):
        self._port, self._key = port, key
        self._streams = None

    async def call(self, method, path, body=None, **headers):
        """(status, headers, content). Raises Broken, on a connection that was made for this."""
        content = b"" if body is None else json.dumps(body).encode()
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: 127.0.0.1:{self._port}",
            f"Authorization: Bearer {self._key}",
            f"Content-Length: {len(content)}",
        ]
        if body is not None:
            lines.append("Content-Type: application/json")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        sent = "\r\n".join([*lines, "", ""]).encode() + content
        if self._streams is not None:  # the server may have hung up on it by now
            try:
                return await self._in_time(sent)
            except (OSError, EOFError):
                await self.close()
        try:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            return await self._in_time(sent)
        except (OSError, EOFError) as error:
            await self.close()
            raise Broken(repr(error)) from None

    async def _in_time(self, sent):
        try:
            return await asyncio.wait_for(self._asked(sent), PATIENCE)
        except TimeoutError:
            await self.close()
            raise Broken(f"no answer in {PATIENCE:.0f} s") from None

    async def _asked(self, sent):
        reader, writer = self._streams
        writer.write(sent)
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        content = await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            await self.close()
        return int(lines[0].split()[1]), headers, content

    async def close(self):
        if self._streams is None:
            return
        (_, writer), self._streams = self._streams, None
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@dataclass
class Record:
    """What a crowd was told. accepted: the video of each (key, idempotency key).

    faults: (seconds, what) of each answer that was none, or a fault of the server's. seconds: how
    long each status request took.
    """

    accepted: dict = field(default_factory=dict)
    done: dict = field(default_factory=dict)
    wrong: list = field(default_factory=list)
    faults: list = field(default_factory=list)
    denied: int = 0
    seconds: list = field(default_factory=list)


class Crowd:
    """`clients` clients of each key, who ask for videos and wait for what they got."""

    def __init__(self, port, keys, clients, *, seed, think=1.0, **fields):
        self._port, self._think, self._fields = port, think, fields
        self.record = Record()
        self._clients = [
            (key, f"{number}-{index}", random.Random(f"{seed} {number} {index}"))
            for number, key in enumerate(keys)
            for index in range(clients)
        ]

    async def run(self, over):
        """Ask until the event `over`; then wait for what was accepted."""
        await asyncio.gather(*(self._one(*each, over) for each in self._clients))

    async def _one(self, key, name, rng, over):
        client = Client(self._port, key)
        await asyncio.sleep(rng.random() * self._think)
        try:
            for number in itertools.count():
                if over.is_set():
                    return
                video = await self._created(client, key, f"{name}-{number}", rng, over)
                if video is not None:
                    await self._followed(client, video, rng)
        finally:
            await client.close()

    async def _created(self, client, key, name, rng, over):
        """Asked for until it is answered; sometimes once more, as a client that lost the answer."""
        body = {"prompt": "a red circle", "seed": rng.randrange(8)} | self._fields
        again = 1 + (rng.random() < 0.3)
        while again:
            status, _, said = await self._asked(
                client, rng, "POST", "/v1/videos", body, Idempotency_Key=name
            )
            if status == 429:
                self.record.denied += 1
                if over.is_set() and (key, name) not in self.record.accepted:
                    return None
                await asyncio.sleep(self._think * (0.5 + rng.random()))
                continue
            if status != 200:
                self.record.wrong.append((status, said))
                return None
            again -= 1
            if self.record.accepted.setdefault((key, name), said["id"]) != said["id"]:
                self.record.wrong.append(("another video", name, said["id"]))
        return said["id"]

    async def _followed(self, client, video, rng):
        last = time.monotonic() + DONE
        while time.monotonic() < last:
            await asyncio.sleep(self._think * (0.5 + rng.random()))
            begun = time.monotonic()
            status, _, said = await self._asked(client, rng, "GET", f"/v1/videos/{video}")
            self.record.seconds.append(time.monotonic() - begun)
            if status != 200:
                self.record.wrong.append((status, said))
                return
            if said["status"] in ("completed", "failed"):
                self.record.done[video] = said
                return
        self.record.wrong.append(("not done", video, said))

    async def _asked(self, client, rng, *args, **headers):
        """Until the server answers anything that is not its own fault."""
        while True:
            try:
                status, given, content = await client.call(*args, **headers)
            except Broken as error:
                self.record.faults.append((time.monotonic(), str(error)))
            else:
                if status < 500:
                    return status, given, json.loads(content)
                self.record.faults.append((time.monotonic(), f"{status} {content[:200]}"))
            await asyncio.sleep(0.2 + 0.3 * rng.random())


async def listed(port, key):
    """Every video of a key."""
    client, videos, after = Client(port, key), [], ""
    while True:
        _, _, content = await client.call("GET", f"/v1/videos?limit=100{after}")
        page = json.loads(content)
        videos += page["data"]
        if not page["has_more"]:
            await client.close()
            return videos
        after = f"&after={page['last_id']}"
