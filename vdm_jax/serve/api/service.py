"""What the routes do: from a request to a stored job, from a stored job to what is told of it."""

import asyncio
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from vdm_jax.serve.api import body, wire
from vdm_jax.serve.api.errors import ApiError, absent, invalid
from vdm_jax.serve.api.pictures import FIELD, Pictures
from vdm_jax.serve.api.queue import Queue
from vdm_jax.serve.api.refused import Refused
from vdm_jax.serve.config import ServeConfig
from vdm_jax.serve.shape import Shape
from vdm_jax.serve.store import files, jobs
from vdm_jax.serve.store.files import Files
from vdm_jax.serve.store.jobs import Denied, Job, Jobs, New
from vdm_jax.serve.store.keys import Caller, Keys
from vdm_jax.serve.store.schema import Database
from vdm_jax.serve.store.workers import FAILED, Workers

FRESH = 0.5  # seconds that what is known of the models may be old
IMAGE_SECONDS = 600.0  # that a request for pictures waits
IDEMPOTENCY = re.compile(r"[\x20-\x7e]{1,255}")
STATUS = {"idempotency": 422}


class Service:
    """One server's answers. Methods that wait for nothing may be called from any thread."""

    def __init__(
        self, config: ServeConfig, database: Database, keys: Keys, stopping: Callable[[], bool]
    ) -> None:
        self.config, self.keys, self.stopping = config, keys, stopping
        self.jobs, self.workers = Jobs(database, config.bounds), Workers(database)
        self.files = Files(Path(config.data))
        self._queue = Queue(self.jobs, self.workers, config.lease)
        self._pictures, self._room = Pictures(config.bounds.image_pixels), body.Room()
        self._lock, self._seen = threading.Lock(), 0.0
        self._served: dict[str, tuple[wire.Model, Any]] = {}
        self._alive: list[Any] = []
        self.refused = Refused()

    def close(self) -> None:
        self._pictures.close()

    # ---- Videos ----------------------------------------------------------------------------------

    async def create(self, request: Request, caller: Caller, most: int) -> dict[str, Any]:
        model, resolved, digest, picture = await self._asked(request, most)
        new = self._new(request, caller, model, resolved, digest)
        return await run_in_threadpool(self._added, request, new, caller, picture)

    async def _asked(self, request: Request, most: int) -> tuple[wire.Model, Any, str, Any]:
        """The model, every setting, a digest of the request, and its picture as it is kept."""
        async with body.read(request, most, self._room) as fields:
            digest = body.digest(fields, "create")
            content = fields.pop(FIELD, None)
            asked = wire.parsed(wire.Create, fields)
            model = await run_in_threadpool(self._model, asked.model)
            if model.kind == "text-to-image":
                raise invalid("this model makes pictures; see /v1/images/generations", "model")
            resolved = model.resolved(asked, picture=content is not None)
            picture = None if content is None else await self._pictures.kept(content)
        return model, resolved, digest, picture

    async def remix(
        self, request: Request, caller: Caller, video: str, most: int
    ) -> dict[str, Any]:
        source = await run_in_threadpool(self.owned, caller, video)
        async with body.read(request, most, self._room) as fields:
            digest = body.digest(fields, f"remix {video}")
            asked = wire.parsed(wire.Remix, fields)
        model = await run_in_threadpool(self._model, source.model)
        before = dict(source.asked)
        if not model.facts["takes_prompt"]:
            before.pop("seed")  # with it, nothing would differ
        given = {name: value for name, value in asked if value is not None}
        whole = wire.parsed(wire.Create, {**before, **given})
        resolved = model.resolved(whole, picture=source.reference)
        picture = None
        if source.reference:
            picture = await run_in_threadpool(self._reference, video)
        new = self._new(request, caller, model, resolved, digest, parent=video)
        return await run_in_threadpool(self._added, request, new, caller, picture)

    def page(
        self, caller: Caller, limit: int, after: str | None, *, ascending: bool
    ) -> dict[str, Any]:
        found = None
        if after is None or files.ID.fullmatch(after):
            found = self.jobs.page(caller.owner, limit, after, ascending=ascending)
        if found is None:
            raise invalid("there is no such video to go on behind", "after")
        rows, more = found
        data = [self.told(row) for row in rows]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {
            "first_id": None, "last_id": None}  # fmt: skip
        return {"object": "list", "data": data, "has_more": more, **ends}

    def owned(self, caller: Caller, video: str) -> Job:
        """The caller's own; raises ApiError alike for all that is not."""
        job = self.jobs.get(caller.owner, video) if files.ID.fullmatch(video) else None
        if job is None:
            raise absent()
        return job

    def told(self, job: Job) -> dict[str, Any]:
        return wire.told(job, self._queue.place(job))

    def delete(self, caller: Caller, video: str) -> None:
        self.owned(caller, video)
        if self.jobs.delete(caller.owner, video) is None:
            raise absent()
        self.files.remove(video)

    def content(self, caller: Caller, video: str, name: str) -> BinaryIO:
        """A file of a video, open: what is deleted meanwhile can still be read to its end.

        Raises ApiError where it is not there, or not yet.
        """
        job = self.owned(caller, video)
        if name == files.REFERENCE and not job.reference:
            raise ApiError(404, "not_found", "this video was made without a picture")
        if name != files.REFERENCE and job.status != jobs.COMPLETED:
            raise ApiError(404, "not_ready", f"this video is {job.status.replace('_', ' ')}")
        try:
            return self.files.path(video, name).open("rb")
        except FileNotFoundError:
            raise ApiError(404, "not_found", "the file is gone") from None

    # ---- Pictures --------------------------------------------------------------------------------

    async def images(self, request: Request, caller: Caller) -> tuple[int, list[bytes]]:
        """PNG of each. Waits until they are done; what nobody waits for any more is deleted."""
        async with body.read(request, 1 << 20, self._room) as fields:
            digest = body.digest(fields, "image")
            asked = wire.parsed(wire.CreateImage, fields)
        model = await run_in_threadpool(self._model, asked.model, "text-to-image")
        if asked.response_format != "b64_json":
            raise invalid("response_format must be b64_json", "response_format")
        if asked.size == "auto":
            asked = asked.model_copy(update={"size": None})
        first, waiting = model.resolved(asked, picture=False), []
        try:
            for number in range(asked.n):
                one = {**first, "seed": (first["seed"] + number) % wire.SEEDS}
                new = self._new(request, caller, model, one, f"{digest} {number}", kind="image")
                waiting.append(
                    (await run_in_threadpool(self._added, request, new, caller, None))["id"]
                )
            return int(time.time()), [await self._drawn(request, caller, job) for job in waiting]
        finally:
            for job in waiting:
                await run_in_threadpool(self.jobs.delete, caller.owner, job)
                self.files.remove(job)

    async def _drawn(self, request: Request, caller: Caller, image: str) -> bytes:
        ends = time.monotonic() + IMAGE_SECONDS
        while time.monotonic() < ends and not await request.is_disconnected():
            job = await run_in_threadpool(self.jobs.get, caller.owner, image)
            if job is None:
                break
            if job.status == jobs.COMPLETED:
                with await run_in_threadpool(self.content, caller, image, files.IMAGE) as file:
                    return file.read()
            if job.status == jobs.FAILED:
                raise ApiError(500, job.error_code, job.error_message)
            await asyncio.sleep(0.1)
        raise ApiError(503, "timeout", "the picture was not done in time", wait=10)

    # ---- Models ----------------------------------------------------------------------------------

    def models(self) -> list[dict[str, Any]]:
        """What is served, as it is told; the default first."""
        programs = self.workers.programs()
        alive = {worker.name for worker in self._look()[1]}
        return [
            {
                "id": model.name, "object": "model", "created": int(model.created),
                "owned_by": "vdm_jax", "kind": model.kind,
                "takes_prompt": model.facts["takes_prompt"], "picture": model.facts["picture"],
                "defaults": {**model.defaults, "seed": None}, "limits": model.limits,
                "sizes": model.sizes, "state": row.state if row.worker in alive else "offline",
                "message": row.message,
                "programs": [
                    _program(p) for p in programs if p.model == model.name and p.worker in alive
                ],
            }
            for model, row in self._look()[0].values()
        ]  # fmt: skip

    def alive(self) -> list[Any]:
        return self._look()[1]

    def unready(self) -> str | None:
        """Why no video is taken; None where they are."""
        if self.stopping():
            return "the server stops"
        _, alive = self._look(0)
        if not alive:
            return "no worker is heard of"
        named = {row.name for row in self.workers.models()}
        if missing := [name for name in self.config.models if name not in named]:
            return f"no worker has said yet what {' and '.join(missing)} can draw"
        served, _ = self._look()
        if all(row.state == FAILED for _, row in served.values()):
            return "no model can be loaded; see the server's log"
        return None

    def _model(self, name: str | None, kind: str | None = None) -> wire.Model:
        served, _ = self._look()
        rows = [row for row in served.values() if kind is None or row[0].kind == kind]
        if not served:
            why = self.unready() or "the server is starting"
            raise ApiError(503, "not_ready", why, wait=2)
        if not rows:
            raise invalid("no model of this server makes pictures of prompts", "model")
        chosen = next((row for row in rows if name is None or row[0].name == name), None)
        if chosen is None:
            names = ", ".join(model.name for model, _ in rows)
            raise invalid(f"there is no such model; there are {names}", "model", "model_not_found")
        if chosen[1].state == FAILED:
            raise ApiError(503, "model_failed", chosen[1].message or "the model cannot be loaded")
        return chosen[0]

    def _look(self, fresh: float = FRESH) -> tuple[dict[str, tuple[wire.Model, Any]], list[Any]]:
        """The models by name with how they are, where several have one the one that lives, and the
        workers that live; as they were `fresh` seconds ago."""
        with self._lock:
            if time.monotonic() - self._seen <= fresh and self._served:
                return self._served, self._alive
            alive = self.workers.alive(self.config.lease)
            names = {worker.name for worker in alive}
            rows = sorted(self.workers.models(), key=lambda row: row.worker not in names)
            order = list(self.config.models)
            known = [row for row in rows if row.name in order]
            known.sort(key=lambda row: order.index(row.name))
            served: dict[str, tuple[wire.Model, Any]] = {}
            for row in known:
                model = wire.Model(
                    name=row.name, facts=row.facts, bounds=self.config.bounds, created=row.created
                )
                if row.facts:
                    served.setdefault(row.name, (model, row))
            self._served, self._alive, self._seen = served, alive, time.monotonic()
            return served, alive

    # ---- Jobs ------------------------------------------------------------------------------------

    def _new(
        self,
        request: Request,
        caller: Caller,
        model: wire.Model,
        asked: Mapping[str, Any],
        digest: str,
        *,
        parent: str | None = None,
        kind: str = "video",
    ) -> New:
        idempotency = request.headers.get("idempotency-key")
        if idempotency is not None and not IDEMPOTENCY.fullmatch(idempotency):
            raise invalid("Idempotency-Key: 1 to 255 signs", "Idempotency-Key")
        if idempotency is not None and kind == "image":
            raise invalid("pictures take no Idempotency-Key: they are not kept", "Idempotency-Key")
        retry = request.headers.get("x-stainless-retry-count", "0")
        return New(
            owner=caller.owner,
            kind=kind,
            model=model.name,
            shape=str(Shape.of(model.name, asked)),
            asked=asked,
            reference=False,
            parent=parent,
            cost=asked["num_frames"] * asked["height"] * asked["width"],
            steps=asked["num_inference_steps"],
            body=digest,
            idempotency=idempotency,
            retry=int(retry) if retry.isascii() and retry.isdigit() and len(retry) < 3 else 0,
        )

    def _added(
        self, request: Request, new: New, caller: Caller, picture: bytes | None
    ) -> dict[str, Any]:
        """Store a job, its picture first. Raises ApiError where it is not taken."""
        if new.retry and self.refused.take(new.owner):
            new = replace(new, retry=0)  # what it repeats was not taken
        job, new = self.jobs.new_id(), replace(new, reference=picture is not None)
        try:
            if picture is not None:
                self.files.put(job, {files.REFERENCE: picture})
            row, fresh = self.jobs.add(new, job, caller.quota)
        except Denied as denied:
            self.files.remove(job)
            status = STATUS.get(denied.code, 429)
            raise ApiError(status, denied.code, str(denied), wait=denied.wait) from None
        except OSError as fault:
            self.files.remove(job)
            raise ApiError(503, "storage", f"the disk: {fault.strerror}", wait=30) from fault
        if not fresh:
            self.files.remove(job)
        request.scope["state"]["job"] = row.id
        return self.told(row)

    def _reference(self, video: str) -> bytes:
        try:
            return self.files.path(video, files.REFERENCE).read_bytes()
        except OSError:
            raise ApiError(404, "not_found", "the picture of this video is gone") from None


def _program(row: Any) -> dict[str, Any]:
    shape = Shape.parsed(row.shape)
    return {
        "size": f"{shape.width}x{shape.height}",
        "num_frames": shape.num_frames,
        "num_inference_steps": shape.num_steps,
        "guided": shape.guided,
        "state": row.state,
        "seconds": row.compiling,
        "inference_time_s": row.drawing,
    }
