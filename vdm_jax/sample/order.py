"""What a model can be asked for, one video at a time, and what of an order needs its own program.

Nothing here reads weights or compiles. Of an order only its `Shape` decides which compiled program
draws it; its prompt, its picture, its seed and every other number are inputs of the program.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.transform import centre_crop
from vdm_jax.sample.load import Described
from vdm_jax.tasks.task import Arrays, Denoising, Pictures, tuned

WHOLE = ("num_frames", "height", "width", "num_steps")
"""Settings that are whole numbers; orders that differ in one are of different shapes."""
TOLD = ("fps", "motion_bucket_id", "noise_aug_strength")
SCALES = ("guidance_scale", "min_guidance_scale", "max_guidance_scale")
SOME_SCALE = 2.0  # of a guided program: any but 1, which those of the orders replace

Numbers = Mapping[str, float | int]


@dataclass(frozen=True, kw_only=True)
class Order:
    """One video that somebody asked for.

    picture: what the video begins with; one of another shape than the video is cropped.
    settings: num_frames, height, width, num_steps, fps, guidance_scale, min_guidance_scale,
        max_guidance_scale, motion_bucket_id, noise_aug_strength: those that the model has, in
        place of its own.
    """

    prompt: str = ""
    picture: UInt8[np.ndarray, "h w 3"] | None = None
    seed: int = 0
    settings: Numbers = field(default_factory=dict)


@dataclass(frozen=True, order=True)
class Shape:
    """What orders have in common that one compiled program draws.

    guided: whether it compares with what the model answers unconditionally, at twice the cost.
    """

    num_frames: int
    height: int
    width: int
    num_steps: int
    guided: bool


class Offer:
    """What a model directory can be asked for.

    Raises Refusal for a model whose videos do not come from a prompt or from one picture.
    """

    def __init__(self, config: Described):
        self.model, task = config.model, config.task
        if not isinstance(task, Denoising):
            raise Refusal(f"{type(task).__name__} draws no videos from noise")
        self.task: Denoising = task
        if self.model.text is None and self.model.text_width is not None:
            raise Refusal("this model reads prompts, but has no text encoder")
        self.picture = self._picture()
        self.settings = self._settings()

    def _picture(self) -> Literal["required", "optional", "none"]:
        """Whether a video takes one, as what the task refuses says."""
        blank = np.zeros((self.task.video.height, self.task.video.width, 3), np.uint8)
        without, with_one = self._takes(None), self._takes([blank])
        if not (without or with_one):
            raise Refusal(
                f"{type(self.task).__name__} takes {self.task.pictures} pictures a video; what is "
                "served takes a prompt, one picture, or both"
            )
        if without and with_one:
            return "optional"
        return "none" if without else "required"

    def _takes(self, pictures: Pictures | None) -> bool:
        try:
            self.task.request(replace(self.model, text=None), [""], pictures)
        except Refusal:
            return False
        return True

    def _settings(self) -> dict[str, float | int]:
        """The settings that an order may change, as the model has them."""
        task = self.task
        owned = {}
        for part in (task.video, task.sampling, task):
            names = (*WHOLE, *TOLD, *SCALES)
            owned |= {name: getattr(part, name) for name in names if hasattr(part, name)}
        if self.model.text is None:
            owned.pop("guidance_scale", None)  # there is nothing to guide by
        if self.model.network is None or self.model.network.vec_features is None:
            owned.pop("motion_bucket_id", None)  # it is not told
        return owned

    @property
    def kind(self) -> str:
        if self.picture != "none":
            return "image-to-video"
        return "text-to-image" if self.task.video.num_frames == 1 else "text-to-video"

    @property
    def multiple(self) -> int:
        """What height and width should be multiples of, and must be where the network asks it."""
        network, vae = self.model.network, self.model.vae
        return (1 if network is None else network.stride) * (1 if vae is None else vae.stride)

    def facts(self) -> dict[str, Any]:
        """What a client must know, as JSON takes it."""
        named = {"num_steps": "num_inference_steps"}
        defaults = {named.get(name, name): value for name, value in self.settings.items()}
        vae = self.model.vae
        return {
            "kind": self.kind,
            "takes_prompt": self.model.text is not None,
            "picture": self.picture,
            "defaults": {**defaults, "seed": None},
            "multiple": self.multiple,
            "multiple_of_frames": 1 if vae is None else vae.time_stride,
        }

    def check(self, order: Order) -> None:
        """Refuse what the model cannot draw. A prompt that it does not read is no reason."""
        if not 0 <= order.seed < 2**32:
            raise Refusal(f"seed must lie in [0, 2^32), got {order.seed}")
        for name, value in order.settings.items():
            if name not in self.settings:
                raise Refusal(f"this model has no setting {name}")
            if name in WHOLE and not isinstance(value, Integral):
                raise Refusal(f"{name} must be a whole number, got {value}")
        tuned(self.task, order.settings).check(self.model)
        self._check_picture(order.picture)
        self.model.tokenize([order.prompt])

    def _check_picture(self, picture: np.ndarray | None) -> None:
        if picture is None:
            if self.picture == "required":
                raise Refusal("this model makes videos from pictures: give it one")
            return
        if self.picture == "none":
            raise Refusal("this model makes videos from captions only; it takes no picture")
        if 0 in picture.shape:
            raise Refusal("the picture is empty")

    def shape(self, order: Order) -> Shape:
        """Orders of one shape are drawn by one program, side by side."""
        whole = {name: int(self._number(order, name)) for name in WHOLE}
        return Shape(**whole, guided=any(value != 1 for value in self._scales(order).values()))

    def _scales(self, order: Order) -> dict[str, float | int]:
        return {name: self._number(order, name) for name in SCALES if name in self.settings}

    def _number(self, order: Order, name: str) -> Any:
        return order.settings.get(name, self.settings[name])

    def task_of(self, shape: Shape) -> Denoising:
        """The task that draws the orders of a shape."""
        scale = SOME_SCALE if shape.guided else 1.0
        scales = {name: scale for name in SCALES if hasattr(self.task.sampling, name)}
        whole = {name: getattr(shape, name) for name in WHOLE}
        task = tuned(self.task, {**whole, **scales})
        assert isinstance(task, Denoising)
        return task

    def arrays(self, orders: Sequence[Order]) -> Arrays:
        """What a program reads of orders of one shape: a row of each."""
        rows = [self._arrays(order) for order in orders]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def _arrays(self, order: Order) -> Arrays:
        task = tuned(self.task, order.settings)
        pictures = None
        if order.picture is not None:
            pictures = [centre_crop(order.picture, task.video.width / task.video.height)]
        arrays = task.request(self.model, [order.prompt], pictures)
        scales = self._scales(order) if self.shape(order).guided else {}
        return {**arrays, **{name: np.array([value], np.float32) for name, value in scales.items()}}

    def blank(self, shape: Shape) -> Order:
        """An order of a shape that nobody gave."""
        picture = np.zeros((shape.height, shape.width, 3), np.uint8)
        whole = {name: getattr(shape, name) for name in WHOLE}
        scale = SOME_SCALE if shape.guided else 1.0
        scales = {name: scale for name in SCALES if name in self.settings}
        given = None if self.picture == "none" else picture
        return Order(picture=given, settings={**whole, **scales})
