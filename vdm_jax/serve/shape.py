"""What a program is compiled for: jobs of one shape are drawn together."""

from collections.abc import Mapping
from typing import Any, NamedTuple

GUIDANCE = "guidance_scale", "min_guidance_scale", "max_guidance_scale"


class Shape(NamedTuple):
    """Of a video of a model. guided: whether each step asks the network twice."""

    model: str
    width: int
    height: int
    num_frames: int
    num_steps: int
    guided: bool

    @classmethod
    def of(cls, model: str, asked: Mapping[str, Any]) -> "Shape":
        """asked: every setting of a job, by the names of the API."""
        guided = any(asked[name] != 1 for name in GUIDANCE if name in asked)
        sizes = asked["width"], asked["height"], asked["num_frames"]
        return cls(model, *sizes, asked["num_inference_steps"], guided)

    @classmethod
    def parsed(cls, text: str) -> "Shape":
        """What `str` made."""
        model, size, steps, guided = text.rsplit("/", 3)
        width, height, frames = map(int, size.split("x"))
        return cls(model, width, height, frames, int(steps), guided == "guided")

    def __str__(self) -> str:
        size = f"{self.width}x{self.height}x{self.num_frames}"
        return f"{self.model}/{size}/{self.num_steps}/{'guided' if self.guided else 'plain'}"
