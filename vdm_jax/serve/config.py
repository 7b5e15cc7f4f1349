"""What a server is told: its models, where it keeps things, and how much it gives to whom."""

import re
from dataclasses import dataclass, fields
from pathlib import Path

from vdm_jax.core.refusal import Refusal

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Quota:
    """What one key may ask for; a key may be created with another. None is no bound."""

    requests_per_minute: int = 600
    """Requests of any kind; a burst of a quarter of them is taken at once."""
    concurrent_videos: int = 16
    """Videos that wait or are being drawn at one time."""
    frame_pixels_per_day: int | None = None
    """Frames times height times width of all videos asked for in a day (UTC)."""

    def __post_init__(self) -> None:
        if min(self.requests_per_minute, self.concurrent_videos) < 1:
            raise Refusal("requests_per_minute and concurrent_videos must be at least 1")
        if self.frame_pixels_per_day is not None and self.frame_pixels_per_day < 1:
            raise Refusal("frame_pixels_per_day must be at least 1, or None")


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How large a request may be, and how much is kept."""

    queue: int = 256
    """Videos that wait, of all keys together; more are told to come back (429)."""
    connections: int = 2000
    """Open at one time; more are told to come back (503)."""
    upload_mb: float | int = 20.0
    """Of one request's body; a JSON body, which is read into memory, may have half."""
    upload_seconds: float | int = 60.0
    """That sending a request may take."""
    image_pixels: int = 4096 * 3072
    """Of a picture, as its header says, before it is decoded."""
    prompt_letters: int = 4000
    """Of a prompt."""
    num_frames: int | None = None
    """Frames of a video at most; None is as many as the model was trained on."""
    pixels: int | None = None
    """Height times width at most; None is as many as the model was trained on."""
    num_inference_steps: int = 100
    """Denoising steps at most."""
    keep_hours: float | int = 168.0
    """That a video is kept after it is done; then its files and all that was said of it go."""
    disk_gb: float | int = 50.0
    """Of all that is kept; while it is used up no new video is taken."""
    attempts: int = 3
    """How often a video is begun whose drawing took the worker down, until it is given up."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise Refusal(f"{field.name} must be above 0, got {value}")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Serve trained or converted models over HTTP."""

    model: tuple[str, ...] = ()
    """[NAME=]DIR of each model or run; a request names it, the first is the default."""
    data: str = "served"
    """Folder of the job store, the videos and the logs; several hosts share one."""
    database: str = ""
    """Address of a PostgreSQL database that several hosts share, or the environment's VDM_DATABASE;
    otherwise SQLite in --data."""
    host: str = "127.0.0.1"
    """Address to listen at; one that others can reach is refused until there is a key."""
    port: int = 8000
    """Port to listen at; 0 takes a free one."""
    allowed_hosts: tuple[str, ...] = ()
    """While there is no key, names (as in a browser's address bar) beside this machine's own under
    which the server may be called."""
    workers: int = 1
    """Processes on this host that draw: 1, or 0 where other hosts do (`serve worker`)."""
    batch_size: int = 4
    """Videos of the same shape that are drawn at once, where memory allows."""
    dtype: str = ""
    """float32 or bfloat16; empty is float32 on CPU, bfloat16 elsewhere."""
    grace: float | int = 30.0
    """Seconds from SIGTERM until the server is gone; what it could not draw by then is put back
    into the queue."""
    lease: float | int = 30.0
    """Seconds after which a worker that says nothing is taken for dead."""
    quota: Quota = Quota()
    bounds: Bounds = Bounds()

    def check(self) -> None:
        """Refuse what cannot be served, before anything starts."""
        if not self.model:
            raise Refusal(
                "--model is missing: [NAME=]DIR of a model or run, e.g. --model runs/quickstart"
            )
        if not 0 <= self.port < 65536:
            raise Refusal(f"--port {self.port}: ports are 0 to 65535")
        if self.workers not in (0, 1) or self.batch_size < 1:
            raise Refusal("--workers must be 1 or 0, and --batch-size at least 1")
        if self.dtype not in ("", "float32", "bfloat16"):
            raise Refusal(f"--dtype {self.dtype}: float32 or bfloat16")
        if not self.lease >= 5 or not self.grace > 0:
            raise Refusal("--lease must be at least 5 seconds and --grace above 0")
        for name, folder in self.models.items():
            if not (folder / "config.json").is_file():
                raise Refusal(
                    f"--model {name}: {folder} holds no config.json; give the directory of a run "
                    "or of a converted model"
                )

    @property
    def models(self) -> dict[str, Path]:
        """The directory of each, by the name that requests give. Raises Refusal for names that
        cannot be, or that are given twice."""
        named: dict[str, Path] = {}
        for each in self.model:
            name, equals, folder = each.partition("=")
            if not equals:
                name, folder = Path(each).resolve().name, each
            if not NAME.fullmatch(name):
                raise Refusal(
                    f"--model {each}: {name!r} is no name (letters, digits, dots and dashes); "
                    "write --model NAME=DIR"
                )
            if name in named:
                raise Refusal(f"--model {each}: there is another {name}; write --model NAME=DIR")
            named[name] = Path(folder)
        return named
