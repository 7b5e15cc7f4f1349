"""The routes: OpenAI's Videos API, the page, health and metrics."""

import base64
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from vdm_jax import __version__
from vdm_jax.serve.api import wire
from vdm_jax.serve.api.envelope import LOG, Audit, Envelope
from vdm_jax.serve.api.errors import AWAY, ApiError, absent, away, fault, invalid, of_status
from vdm_jax.serve.api.gate import Gate
from vdm_jax.serve.api.metrics import Metrics
from vdm_jax.serve.api.service import Service
from vdm_jax.serve.store import files
from vdm_jax.serve.store.keys import Caller

PAGE = Path(__file__).parents[1] / "page"
KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
PUBLIC = ("/", "/health", "/ready", *(f"/{p.name}" for p in sorted(PAGE.glob("*.*"))))
VARIANTS = {
    "video": (files.VIDEO, "video/mp4"),
    "thumbnail": (files.THUMBNAIL, "image/webp"),
    "spritesheet": (files.SPRITESHEET, "image/jpeg"),
    "reference": (files.REFERENCE, "image/png"),
}
COLAB = (".googleusercontent.com", ".colab.dev", ".prod.colab.dev")
"""Names under which Colab shows a notebook's own ports to its user."""


class Opened(FileResponse):
    """What an open file holds, by ranges too; it is closed once it is sent."""

    def __init__(self, file: BinaryIO, media_type: str, filename: str) -> None:
        self._file, stat = file, os.fstat(file.fileno())
        path = f"/dev/fd/{file.fileno()}"  # the file itself, even where its name is gone
        super().__init__(path, media_type=media_type, filename=filename, stat_result=stat)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


def needs(scope: str) -> Any:
    """Who asks, with the right to `scope`."""

    def caller(request: Request) -> Caller:
        found = request.scope["state"]["caller"]
        if scope not in found.scopes:
            raise ApiError(403, "insufficient_scope", f"this key has no scope {scope}")
        return found

    return Depends(caller)


Reader = Annotated[Caller, needs("videos:read")]
Writer = Annotated[Caller, needs("videos:write")]
Watcher = Annotated[Caller, needs("metrics")]


def body_of(*kinds: str, model: Any) -> dict[str, Any]:
    """The description of a body that is read by hand."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    content = {kind: {"schema": schema} for kind in kinds}
    return {"requestBody": {"required": True, "content": content}}


FORM_OR_JSON = ("multipart/form-data", "application/x-www-form-urlencoded", "application/json")
JSON = ("application/json",)


def build(service: Service, audit: Audit) -> Any:
    """The application: an ASGI callable."""
    app = FastAPI(
        title="vdm_jax", version=__version__, docs_url=None, redoc_url=None, openapi_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    metrics = Metrics(service.jobs.counts, lambda: len(service.alive()))
    _videos(app, service)
    _images(app, service)
    _about(app, service, metrics)
    _page(app)
    for kind in AWAY:
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(ApiError, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(Exception, _faulty)
    in_colab = "COLAB_RELEASE_TAG" in os.environ
    config = service.config
    gate = Gate(
        app,
        keys=service.keys,
        quota=config.quota,
        bounds=config.bounds,
        public=PUBLIC,
        hosts=(*config.allowed_hosts, *(COLAB if in_colab else ())),
    )
    ancestors = (
        "https://colab.research.google.com https://*.googleusercontent.com https://*.colab.dev"
    )
    return Envelope(
        gate,
        metrics=metrics,
        audit=audit,
        ancestors=ancestors if in_colab else "'none'",
        stopping=service.stopping,
        refused=service.refused,
    )


async def _refused(request: Request, error: Exception) -> Response:
    del request
    if isinstance(error, AWAY):
        LOG.warning("the job store: %s", type(error).__name__)
        error = away()
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        name = str(first["loc"][-1])
        error = invalid(f"{name}: {first['msg']}", name)
    if isinstance(error, HTTPException):
        error = of_status(error.status_code, error.detail)
    assert isinstance(error, ApiError)
    return error.response


async def _faulty(request: Request, error: Exception) -> Response:
    del error  # it is raised again, and logged
    return fault(request.scope["state"]["number"]).response


def _videos(app: FastAPI, service: Service) -> None:
    most = int(service.config.bounds.upload_mb * 5e5)

    @app.post("/v1/videos", openapi_extra=body_of(*FORM_OR_JSON, model=wire.Create))
    async def create(request: Request, caller: Writer) -> JSONResponse:
        """A new video; it is stored when this is answered."""
        return JSONResponse(await service.create(request, caller, most))

    @app.get("/v1/videos")
    def page(
        caller: Reader,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        after: Annotated[str | None, Query(max_length=64)] = None,
        order: Annotated[str, Query(pattern="^(asc|desc)$")] = "desc",
    ) -> JSONResponse:
        """The key's own videos, the newest first."""
        return JSONResponse(service.page(caller, limit, after, ascending=order == "asc"))

    @app.post("/v1/videos/edits")
    @app.post("/v1/videos/extensions")
    @app.post("/v1/videos/characters")
    def unsupported(caller: Writer) -> JSONResponse:
        """What OpenAI has and this server has not."""
        del caller
        raise ApiError(404, "not_supported", "this server makes and remixes videos, no more")

    @app.get("/v1/videos/{video_id}")
    def retrieve(video_id: str, caller: Reader) -> JSONResponse:
        """A video, and how far it is."""
        said = service.told(service.owned(caller, video_id))
        return JSONResponse(said, headers={"openai-poll-after-ms": _poll(said)})

    @app.delete("/v1/videos/{video_id}")
    def delete(request: Request, video_id: str, caller: Writer) -> JSONResponse:
        """Delete a video; one that is being drawn stops between two steps."""
        service.delete(caller, video_id)
        request.scope["state"]["job"] = video_id
        return JSONResponse({"id": video_id, "object": "video.deleted", "deleted": True})

    @app.get("/v1/videos/{video_id}/content")
    def content(
        video_id: str,
        caller: Reader,
        variant: Annotated[str, Query(max_length=20)] = "video",
    ) -> FileResponse:
        """The video, one of its frames, all of them on a sheet, or the picture it was made of."""
        if variant not in VARIANTS:
            raise invalid(f"variant must be one of {', '.join(VARIANTS)}", "variant")
        name, kind = VARIANTS[variant]
        filename = f"{video_id}{Path(name).suffix}"
        return Opened(service.content(caller, video_id, name), kind, filename)

    @app.post("/v1/videos/{video_id}/remix", openapi_extra=body_of(*JSON, model=wire.Remix))
    async def remix(request: Request, video_id: str, caller: Writer) -> JSONResponse:
        """The same video with another prompt, or other settings."""
        return JSONResponse(await service.remix(request, caller, video_id, most))


def _images(app: FastAPI, service: Service) -> None:
    @app.post("/v1/images/generations", openapi_extra=body_of(*JSON, model=wire.CreateImage))
    async def generate(request: Request, caller: Writer) -> JSONResponse:
        """Pictures of a prompt, where a model makes such; answers when they are done."""
        created, images = await service.images(request, caller)
        data = [{"b64_json": base64.b64encode(each).decode()} for each in images]
        return JSONResponse({"created": created, "data": data})


def _about(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.get("/v1/models")
    def models(caller: Reader) -> JSONResponse:
        """What is served, what it takes, and what is compiled."""
        del caller
        return JSONResponse({"object": "list", "data": service.models()})

    @app.get("/v1/models/{model_id}")
    def model(model_id: str, caller: Reader) -> JSONResponse:
        """One of them."""
        del caller
        found = next((each for each in service.models() if each["id"] == model_id), None)
        if found is None:
            raise absent("model")
        return JSONResponse(found)

    @app.get("/v1/me")
    def me(caller: Reader) -> JSONResponse:
        """Whose key this is, what it may do, and what it used."""
        active, spent = service.jobs.used(caller.owner)
        key = None
        if caller.key is not None:
            key = {"id": caller.key, "name": caller.name, "scopes": sorted(caller.scopes),
                   "expires_at": caller.expires}  # fmt: skip
        return JSONResponse(
            {
                "authentication": "none" if key is None else "key",
                "key": key,
                "limits": asdict(caller.quota),
                "usage": {"active_videos": active, "frame_pixels_today": spent},
            }
        )

    @app.get("/openapi.json")
    def describe(caller: Reader) -> JSONResponse:
        """These routes, for programs."""
        del caller
        return JSONResponse(app.openapi())

    @app.get("/metrics")
    def numbers(caller: Watcher) -> Response:
        """For Prometheus."""
        del caller
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    def health() -> JSONResponse:
        """Whether this process answers, and whether it wants a key."""
        wants = "key" if service.keys.any() else "none"
        return JSONResponse({"status": "ok", "authentication": wants})

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready")
    def ready() -> JSONResponse:
        """Whether videos are taken: a worker lives and has said what it draws."""
        why = service.unready()
        return JSONResponse({"ready": why is None, "why": why}, 200 if why is None else 503)


def _page(app: FastAPI) -> None:
    def served(path: Path) -> Callable[[], FileResponse]:
        return lambda: FileResponse(
            path, media_type=KINDS[path.suffix], headers={"cache-control": "no-cache"}
        )

    for path in sorted(PAGE.glob("*.*")):
        app.add_api_route(
            f"/{path.name}", served(path), methods=["GET", "HEAD"], include_in_schema=False
        )
    home = served(PAGE / "index.html")
    app.add_api_route("/", home, methods=["GET", "HEAD"], include_in_schema=False)


def _poll(said: Mapping[str, Any]) -> str:
    """Milliseconds until it is worth asking again."""
    left = said["eta_seconds"]
    return str(1000 if left is None else int(min(5000, max(250, 250 * left))))
