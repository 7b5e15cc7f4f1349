"""Ask a server for a video from the shell, watch it being drawn, and write the file."""

import base64
import json
import os
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vdm_jax.core import config as configs
from vdm_jax.core import page
from vdm_jax.core.refusal import Refusal, Unavailable

PROG = "python -m vdm_jax.serve client"
KEY = "VDM_API_KEY"
TRIES = 5  # of a request that a server cannot take for the moment
PATIENCE = 60.0  # seconds for one answer
LARGEST = 7_000_000  # bytes of a picture, which is sent within JSON
LONGEST = 120.0  # seconds that are waited for a server that is full
KINDS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
SUFFIXES = {"video": ".mp4", "thumbnail": ".webp", "spritesheet": ".jpg"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Ask a server for a video and write it. The key is read from the environment: VDM_API_KEY."""

    url: str = "http://127.0.0.1:8000"
    """Address of the server."""
    output: str = "out.mp4"
    """File to write: .mp4; .webp writes one of its frames, .jpg a sheet of them."""
    video: str = ""
    """In place of a new one, the id of a video that was asked for before."""
    model: str | None = None
    """Name of one of the server's models; None is its first."""
    prompt: str = ""
    """What should happen."""
    image: str = ""
    """Picture that the video begins with: PNG, JPEG or WebP."""
    size: str | None = None
    """WIDTHxHEIGHT."""
    seconds: float | int | None = None
    """How long the video is."""
    num_frames: int | None = None
    """How many frames it has, in place of --seconds."""
    fps: float | int | None = None
    """Frames a second."""
    seed: int | None = None
    """The same request with the same seed gives the same video."""
    num_inference_steps: int | None = None
    """Denoising steps."""
    guidance_scale: float | int | None = None
    """How hard the prompt is followed."""
    min_guidance_scale: float | int | None = None
    """How hard the picture is followed in the first frame (Stable Video Diffusion)."""
    max_guidance_scale: float | int | None = None
    """How hard the picture is followed in the last frame (Stable Video Diffusion)."""
    motion_bucket_id: float | int | None = None
    """How much moves, 0 to 255 (Stable Video Diffusion)."""
    noise_aug_strength: float | int | None = None
    """Noise on the picture (Stable Video Diffusion)."""


OURS = "url", "output", "video", "image"


def main(args: Sequence[str]) -> int:
    asked = configs.override(Asked(), args, prog=PROG)
    output = Path(asked.output)
    variant = next((v for v, suffix in SUFFIXES.items() if suffix == output.suffix.lower()), None)
    if variant is None:
        raise Refusal(f"--output {output}: write .mp4, or .webp or .jpg for pictures of it")
    if not output.absolute().parent.is_dir():
        raise Refusal(f"--output {output}: {output.parent} is no folder")
    server = Server(asked.url, os.environ.get(KEY, ""))
    video = (
        server.get(f"/v1/videos/{_quoted(asked.video)}") if asked.video else _asked(server, asked)
    )
    try:
        video = _drawn(server, video)
    except KeyboardInterrupt:
        print(f"\n{video['id']} goes on; fetch it: {PROG} --url {asked.url} --video {video['id']}")
        raise
    content = server.call("GET", f"/v1/videos/{video['id']}/content?variant={variant}")
    page.replace(output, content)
    took = video["inference_time_s"]
    print(
        f"{output}: {video['num_frames']} frames of {video['size']} at {video['fps']:g} frames/s, "
        f"seed {video['seed']}, drawn in {took:g} s ({video['id']})"
    )
    return 0


class Server:
    """One server, asked until it can answer."""

    def __init__(self, url: str, key: str) -> None:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise Refusal(f"--url {url}: write http://HOST:PORT or https://…")
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def get(self, path: str) -> dict[str, Any]:
        return json.loads(self.call("GET", path))

    def call(self, method: str, path: str, fields: dict[str, Any] | None = None) -> bytes:
        """The answer; asks again while the server is full, starting or out of reach.

        Raises Refusal with the server's own words, Unavailable where it does not answer.
        """
        headers = dict(self._headers)
        if fields is not None:
            headers |= {
                "Content-Type": "application/json",
                "Idempotency-Key": secrets.token_hex(16),
            }
        data = None if fields is None else json.dumps(fields).encode()
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        for left in range(TRIES - 1, -1, -1):
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                    return answer.read()
            except urllib.error.HTTPError as error:
                told, words = error.headers.get("retry-after", "1"), _words(error)
                wait = int(told) if told.isdecimal() else 1
                if error.code not in (429, 503) or not left or wait > LONGEST:
                    raise Refusal(f"{self._url}: {words}") from None
                time.sleep(min(30, wait))
            except (urllib.error.URLError, OSError) as error:
                if not left:
                    why = getattr(error, "reason", error)
                    raise Unavailable(f"{self._url} does not answer: {why}") from None
                time.sleep(1)
        raise AssertionError


def _asked(server: Server, asked: Asked) -> dict[str, Any]:
    """Ask for a new video."""
    given = {f.name: getattr(asked, f.name) for f in fields(asked) if f.name not in OURS}
    given = {name: value for name, value in given.items() if value is not None}
    if asked.image:
        given["input_reference"] = {"image_url": _picture(Path(asked.image))}
    return json.loads(server.call("POST", "/v1/videos", given))


def _picture(path: Path) -> str:
    kind = KINDS.get(path.suffix.lower())
    if kind is None or not path.is_file():
        raise Refusal(f"--image {path}: is no file that ends in {', '.join(KINDS)}")
    if path.stat().st_size > LARGEST:
        raise Refusal(f"--image {path}: has more than {LARGEST / 1e6:g} MB; make it smaller")
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _drawn(server: Server, video: dict[str, Any]) -> dict[str, Any]:
    """Wait until it is done. Raises Refusal where it failed."""
    with tqdm(total=video["steps"], unit="step", desc="waiting", leave=False, disable=None) as bar:
        while video["status"] in ("queued", "in_progress"):
            place = video["queue_position"]
            bar.set_description("drawing" if place is None else f"number {place} in the queue")
            bar.update(video["step"] - bar.n)
            time.sleep(min(5.0, max(0.2, (video["eta_seconds"] or 2) / 10)))
            video = server.get(f"/v1/videos/{video['id']}")
    if video["status"] == "failed":
        raise Refusal(f"the video failed: {video['error']['message']} ({video['id']})")
    return video


def _words(error: urllib.error.HTTPError) -> str:
    try:
        return json.loads(error.read())["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return f"answered {error.code}"


def _quoted(video: str) -> str:
    return urllib.parse.quote(video, safe="")
