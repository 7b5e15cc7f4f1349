"""What a request asks for, checked against what the model can do, and how a job is told.

The format is that of OpenAI's Videos API; the fields beyond it are named as other open servers of
video models name them. Numbers may come as texts, which is what a form makes of them.
"""

import math
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from vdm_jax.serve.api.errors import invalid
from vdm_jax.serve.config import Bounds
from vdm_jax.serve.shape import GUIDANCE

SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
SEEDS = 2**32
OWN = (*GUIDANCE, "motion_bucket_id", "noise_aug_strength")
"""Settings that only some models have."""
RANGES = {
    "guidance_scale": (0, 100), "min_guidance_scale": (0, 100), "max_guidance_scale": (0, 100),
    "motion_bucket_id": (0, 1023), "noise_aug_strength": (0, 10),
}  # fmt: skip

Picture = Annotated[
    str | dict[str, str] | None,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "description": "data:image/png;base64,…"},
                {"type": "object", "properties": {"image_url": {"type": "string"}}},
            ]
        }
    ),
]


class Settings(BaseModel):
    """How a video is drawn; what is not said is the model's own."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    num_frames: int | None = Field(None, ge=1, le=100_000)
    fps: float | None = Field(None, ge=1, le=240)
    seed: int | None = Field(None, ge=0, lt=SEEDS)
    num_inference_steps: int | None = Field(None, ge=1, le=10_000)
    guidance_scale: float | None = None
    min_guidance_scale: float | None = None
    max_guidance_scale: float | None = None
    motion_bucket_id: float | None = None
    noise_aug_strength: float | None = None


class Remix(Settings):
    """The same video with other words, or other settings."""

    prompt: str


class Create(Settings):
    """A video to be made. input_reference: a picture, as a file of a form or as a data URL."""

    prompt: str = ""
    model: str | None = None
    seconds: float | None = Field(None, gt=0, le=100_000)
    size: str | None = None
    width: int | None = Field(None, ge=1, le=100_000)
    height: int | None = Field(None, ge=1, le=100_000)
    input_reference: Picture = None


class CreateImage(BaseModel):
    """A picture to be made of a prompt."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    prompt: str
    model: str | None = None
    n: int = Field(1, ge=1, le=10)
    size: str | None = None
    response_format: str = "b64_json"
    seed: int | None = Field(None, ge=0, lt=SEEDS)
    num_inference_steps: int | None = Field(None, ge=1, le=10_000)
    guidance_scale: float | None = None
    user: str | None = None


def parsed(kind: type[BaseModel], fields: Any) -> Any:
    """`fields` as a `kind`; raises ApiError naming the first that is wrong."""
    if not isinstance(fields, dict):
        raise invalid("the body must be a JSON object")
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else None
        if first["type"] == "extra_forbidden":
            known = ", ".join(kind.model_fields)
            what = f"{_short(name)} is not known here; there are {known}"
            raise invalid(what, _short(name), "unknown_parameter") from None
        if first["type"] == "missing":
            raise invalid(f"{name} is missing", name, "missing_required_parameter") from None
        if name is None:
            raise invalid("a field has a name that is no text") from None
        raise invalid(f"{name}: {first['msg']}", name) from None


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that is served. facts: as `sample.studio` tells them."""

    name: str
    facts: Mapping[str, Any]
    bounds: Bounds
    created: float

    @property
    def kind(self) -> str:
        return self.facts["kind"]

    @property
    def defaults(self) -> Mapping[str, Any]:
        return self.facts["defaults"]

    @property
    def limits(self) -> dict[str, Any]:
        own = self.defaults
        return {
            "multiple": self.facts["multiple"],
            "multiple_of_frames": self.facts["multiple_of_frames"],
            "max_pixels": self.bounds.pixels or own["height"] * own["width"],
            "max_num_frames": self.bounds.num_frames or own["num_frames"],
            "max_num_inference_steps": self.bounds.num_inference_steps,
            "max_prompt_letters": self.bounds.prompt_letters,
        }

    @property
    def sizes(self) -> list[str]:
        width, height = self.defaults["width"], self.defaults["height"]
        both = [f"{width}x{height}"] + ([f"{height}x{width}"] if width != height else [])
        square = int(math.sqrt(width * height)) // self._step * self._step
        return both + ([f"{square}x{square}"] if width != height and square else [])

    @property
    def _step(self) -> int:
        return math.lcm(self.facts["multiple"], 1 if max(self._native) < 256 else 64)

    @property
    def _native(self) -> tuple[int, int]:
        return self.defaults["height"], self.defaults["width"]

    def resolved(self, asked: Settings | CreateImage, *, picture: bool) -> dict[str, Any]:
        """The whole of what is to be drawn: every setting with its value. Raises ApiError."""
        prompt = self._prompt(asked)
        if picture and self.facts["picture"] == "none":
            raise invalid("this model makes videos of prompts alone", "input_reference")
        if not picture and self.facts["picture"] == "required":
            raise invalid(
                "this model makes videos of pictures: send one", "input_reference",
                "missing_required_parameter",
            )  # fmt: skip
        own, limits = self.defaults, self.limits
        height, width = self._size(asked)
        fps = getattr(asked, "fps", None) or own["fps"]
        steps = asked.num_inference_steps or own["num_inference_steps"]
        if steps > limits["max_num_inference_steps"]:
            most = limits["max_num_inference_steps"]
            raise invalid(f"num_inference_steps is {steps}; at most {most}", "num_inference_steps")
        seed = secrets.randbelow(SEEDS) if asked.seed is None else asked.seed
        return {
            "prompt": prompt,
            "num_frames": self._frames(asked, fps),
            "height": height,
            "width": width,
            "fps": fps,
            "num_inference_steps": steps,
            "seed": seed,
            **self._own(asked),
        }

    def _prompt(self, asked: Any) -> str:
        prompt = getattr(asked, "prompt", "")
        if len(prompt) > self.bounds.prompt_letters:
            raise invalid(
                f"prompt has {len(prompt)} letters; at most {self.bounds.prompt_letters}", "prompt"
            )
        if any(ord(letter) < 32 and letter not in "\t\n\r" for letter in prompt):
            raise invalid("prompt has letters that cannot be printed", "prompt")
        if not prompt.isascii():
            try:
                prompt.encode()
            except UnicodeEncodeError:
                raise invalid("prompt is no text", "prompt") from None
        if (
            self.facts["takes_prompt"]
            and self.facts["picture"] != "optional"
            and not prompt.strip()
        ):
            raise invalid("prompt is missing", "prompt", "missing_required_parameter")
        return prompt

    def _size(self, asked: Any) -> tuple[int, int]:
        own, limits = self.defaults, self.limits
        height, width = own["height"], own["width"]
        given = getattr(asked, "height", None), getattr(asked, "width", None)
        if (size := getattr(asked, "size", None)) is not None:
            match = SIZE.fullmatch(size)
            if match is None:
                raise invalid(f"size must be WIDTHxHEIGHT, such as {width}x{height}", "size")
            width, height = int(match[1]), int(match[2])
        if any(given) and not all(given):
            raise invalid("height and width go together", "width" if given[0] else "height")
        if all(given):
            if size is not None and given != (height, width):
                raise invalid("size and width, height say different things", "size")
            height, width = given
        step = limits["multiple"]
        if not height or not width or height % step or width % step:
            raise invalid(f"{width}x{height}: this model takes multiples of {step}", "size")
        if height * width > limits["max_pixels"]:
            most = f"{limits['max_pixels']} pixels, such as {' or '.join(self.sizes)}"
            raise invalid(f"{width}x{height} is too large: at most {most}", "size")
        return height, width

    def _frames(self, asked: Any, fps: float) -> int:
        count, seconds = getattr(asked, "num_frames", None), getattr(asked, "seconds", None)
        name, most = "num_frames", self.limits["max_num_frames"]
        if seconds is not None:
            by_time = max(1, round(seconds * fps))
            if count is not None and abs(count - by_time) > 1:
                raise invalid(f"{count} frames at {fps:g} fps are not {seconds:g} seconds", name)
            count, name = count or by_time, "seconds"
        count = self.defaults["num_frames"] if count is None else count
        if count > most:
            longest = f"{most} frames, {most / fps:.3g} seconds at {fps:g} fps"
            raise invalid(f"{count} frames are too many: at most {longest}", name)
        step = self.facts["multiple_of_frames"]
        if count % step:
            raise invalid(f"{count} frames: this model takes multiples of {step}", name)
        return count

    def _own(self, asked: Any) -> dict[str, float]:
        own = {name: value for name, value in self.defaults.items() if name in OWN}
        for name in OWN:
            value = getattr(asked, name, None)
            if value is None:
                continue
            low, high = RANGES[name]
            if name not in own:
                has = ", ".join(own) or "none of these"
                raise invalid(f"this model has no {name}; it has {has}", name)
            if not low <= value <= high:
                raise invalid(f"{name} must lie in [{low}, {high}], got {value:g}", name)
            own[name] = value
        return own


def told(job: Any, place: Mapping[str, Any]) -> dict[str, Any]:
    """A job as a Video object. place: queue_position and eta_seconds, while it is not done."""
    asked = job.asked
    error = None
    if job.error_code is not None:
        error = {"code": job.error_code, "message": job.error_message}
    settings = {name: value for name, value in asked.items() if name != "prompt"}
    return {
        "id": job.id,
        "object": "video",
        "created_at": int(job.created),
        "started_at": _second(job.started),
        "completed_at": _second(job.finished) if job.status == "completed" else None,
        "expires_at": _second(job.expires),
        "status": job.status,
        "progress": 100
        if job.status == "completed"
        else min(99, 100 * job.step // max(1, job.steps)),
        "step": job.step,
        "steps": job.steps,
        "model": job.model,
        "prompt": asked["prompt"],
        "seconds": f"{asked['num_frames'] / asked['fps']:.4g}",
        "size": f"{asked['width']}x{asked['height']}",
        "remixed_from_video_id": job.parent,
        "error": error,
        **settings,
        "has_input_reference": job.reference,
        "queue_position": place.get("queue_position"),
        "eta_seconds": place.get("eta_seconds"),
        "inference_time_s": job.seconds,
    }


def _second(time: float | None) -> int | None:
    return None if time is None else int(time)


def _short(name: str | None) -> str:
    """What a client calls a field, as far as it is shown."""
    text = "".join(c if c.isprintable() else "?" for c in str(name))
    return text[:40]
