"""The body of a request as fields: of a form, or of JSON.

A body is kept on the disk until all of it is there; what is large is in memory for a few requests
at once, so that neither many uploads nor slow ones take the memory, or the turn, of others.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from tempfile import SpooledTemporaryFile
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from vdm_jax.serve.api.errors import ApiError, invalid
from vdm_jax.serve.api.pictures import FIELD, of_data_url

MULTIPART = "multipart/form-data"
FORMS = MULTIPART, "application/x-www-form-urlencoded"
NESTED = re.compile(r"(\w{1,40})\[(\w{1,40})\]")
HELD = 1  # large bodies that are in memory at once: they are decoded one by one anyway
WAITING = 32  # that wait for it; more are told to come back
MOST_FIELDS = 40
FIELD_BYTES = 1 << 16
MOST_SIGNS = 50_000  # commas and brackets of a JSON body: each may be a value, of many bytes


class Room:
    """Memory for large bodies: who finds none waits for it."""

    def __init__(self) -> None:
        self._free, self._asking = asyncio.Semaphore(HELD), 0

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Raises ApiError where too many wait."""
        if self._asking >= HELD + WAITING:
            raise ApiError(429, "queue_full", "many pictures are being read; come back", wait=2)
        self._asking += 1
        try:
            async with self._free:
                yield
        finally:
            self._asking -= 1


@asynccontextmanager
async def read(request: Request, most: int, room: Room) -> AsyncIterator[dict[str, Any]]:
    """The fields; a file, or a picture as a data URL, becomes its bytes. Raises ApiError.

    most: bytes of a JSON body. room: is held while the fields are, where they are large.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    async with AsyncExitStack() as stack:
        try:
            if kind in FORMS:
                form = await _form(request, kind)
                stack.push_async_callback(form.close)
                fields = await _fields(form, room, stack)
            elif kind == "application/json":
                fields = await _json(request, most, room, stack)
            else:
                takes = f"send {', '.join(FORMS)} or application/json"
                raise ApiError(415, "unsupported_media_type", takes)
        except ClientDisconnect:
            raise ApiError(400, "bad_request", "the request broke off") from None
        yield _with_picture(fields)


def digest(fields: dict[str, Any], of: str) -> str:
    """A name for a request to do `of`: the same fields give the same."""
    total = hashlib.sha256(of.encode())
    for name, value in sorted(fields.items()):
        content = value if isinstance(value, bytes) else _dumped(value)
        total.update(f"\0{name}\0{len(content)}\0".encode("utf-8", "replace") + content)
    return total.hexdigest()


def _dumped(value: Any) -> bytes:
    try:
        return json.dumps(value, sort_keys=True).encode()
    except RecursionError:
        raise invalid("the body is nested too deeply") from None


async def _json(request: Request, most: int, room: Room, stack: AsyncExitStack) -> dict[str, Any]:
    with SpooledTemporaryFile(FIELD_BYTES) as spooled:
        async for piece in request.stream():
            spooled.write(piece)
            if spooled.tell() > most:
                raise ApiError(413, "too_large", f"a JSON body may have {most} bytes; send a form")
        if spooled.tell() > FIELD_BYTES:
            await stack.enter_async_context(room.held())
        spooled.seek(0)
        content = spooled.read()
    if sum(content.count(sign) for sign in (b",", b"[", b"{")) > MOST_SIGNS:
        raise invalid("the body holds more values than a request can have")
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        raise invalid("the body is no JSON") from None
    if not isinstance(fields, dict):
        raise invalid("the body must be a JSON object")
    return fields


class _Spooled(MultiPartParser):
    spool_max_size = FIELD_BYTES
    whole = False

    def on_end(self) -> None:
        self.whole = True


async def _form(request: Request, kind: str) -> FormData:
    """What was sent, its file on the disk."""
    bounds = {"max_fields": MOST_FIELDS, "max_part_size": FIELD_BYTES}
    try:
        if kind == MULTIPART:
            parser = _Spooled(request.headers, request.stream(), max_files=1, **bounds)
            form = await parser.parse()
            if parser.whole:
                return form
            await form.close()
            raise MultiPartException("The form has no end.")
        return await FormParser(request.headers, request.stream(), **bounds).parse()
    except MultiPartException as error:
        raise ApiError(400, "bad_request", error.message) from None
    except ValueError:  # a charset of the client's may raise any of them
        raise ApiError(400, "bad_request", "the form cannot be read") from None


async def _fields(form: FormData, room: Room, stack: AsyncExitStack) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != FIELD:
                raise invalid(f"a file is sent as {FIELD}")
            await stack.enter_async_context(room.held())
            value = await value.read()
        match = NESTED.fullmatch(name)
        if match is not None:
            outer = fields.setdefault(match[1], {})
            if not isinstance(outer, dict) or match[2] in outer:
                raise invalid(f"{match[1]} is given twice", match[1])
            outer[match[2]] = value
            continue
        if name in fields:
            raise invalid("a field is given twice")
        fields[name] = value
    return fields


def _with_picture(fields: dict[str, Any]) -> dict[str, Any]:
    given = fields.get(FIELD)
    if given is None or isinstance(given, bytes):
        if given == b"":
            raise invalid("the picture is empty", FIELD, "invalid_image")
        return {name: value for name, value in fields.items() if value is not None}
    if isinstance(given, dict):
        if set(given) != {"image_url"}:
            raise invalid(f"{FIELD} holds image_url and nothing else", FIELD)
        given = given["image_url"]
        given = given.get("url") if isinstance(given, dict) else given
    if not isinstance(given, str):
        raise invalid(f"{FIELD} must be a file or a data URL", FIELD)
    return {**fields, FIELD: of_data_url(given)}
