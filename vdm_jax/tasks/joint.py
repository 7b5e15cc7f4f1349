"""Pictures that are trained on beside videos (Ho et al. 2022, arXiv:2204.03458, section 3).

A sample of a video then also holds "pictures" (`data.joint`). They are videos of one frame that
pass the layers over time by, and are told nothing but a caption; each frame, of a video or alone,
counts alike in the loss. The paper joins them to the frames of the video and masks attention over
time; apart from it they are computed alike, and no layer can let one see the other.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vdm_jax.conditioning.drop import drop
from vdm_jax.models.cond import Cond
from vdm_jax.tasks import denoising, space
from vdm_jax.tasks.task import Arrays, Denoising, ModelConfig, VideoModel, VideoShape

ALONE = "picture_"
"""Before the names of the arrays of pictures that are trained on beside videos."""


@runtime_checkable
class Captioned(Denoising, Protocol):
    """A task whose videos are made from captions."""

    @property
    def video(self) -> VideoShape: ...

    @property
    def caption_drop(self) -> float: ...


def prepared(model: ModelConfig, video: VideoShape, batch: Mapping[str, Any]) -> Arrays:
    """Arrays "b k ..." of the k pictures beside each video; none where there are none."""
    if "pictures" not in batch:
        return {}
    pictures = batch["pictures"]
    captions = np.asarray(pictures["caption"])
    flat = {
        name: np.reshape(values, (-1, *np.shape(values)[2:]))
        for name, values in pictures.items()
        if name != "caption"
    }
    arrays = space.prepared(model, replace(video, num_frames=1), flat)
    arrays |= denoising.captioned(model, {**flat, "caption": captions.ravel().tolist()})
    return {ALONE + n: a.reshape(*captions.shape, *a.shape[1:]) for n, a in arrays.items()}


def loss(
    task: Captioned, model: VideoModel, arrays: Arrays, key: Array
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """That of the videos, or with pictures beside them the mean over all frames, and both apart."""
    alone = {n.removeprefix(ALONE): a for n, a in arrays.items() if n.startswith(ALONE)}
    if not alone:
        return _priced(task, model, arrays, task.condition(model, arrays), key), {}
    video_key, picture_key = jax.random.split(key)
    frames, pictures = task.video.num_frames, next(iter(alone.values())).shape[1]
    alone = {name: rows.reshape(-1, *rows.shape[2:]) for name, rows in alone.items()}
    video = _priced(task, model, arrays, task.condition(model, arrays), video_key)
    picture = _priced(task, model, alone, _still(model, alone), picture_key)
    both = (frames * video + pictures * picture) / (frames + pictures)
    return both, {"video_loss": video, "picture_loss": picture}


def _priced(
    task: Captioned, model: VideoModel, arrays: Arrays, cond: Cond, key: Array
) -> Float[Array, ""]:
    drop_key, loss_key = jax.random.split(key)
    cond = drop(cond, drop_key, {"tokens": task.caption_drop})
    return task.price(task.answer(model), task.clean(model, arrays), cond, loss_key)


def _still(model: VideoModel, arrays: Arrays) -> Cond:
    """The ports of pictures: a caption, no numbers, and no other frame."""
    cond = denoising.encode_text(model, arrays)
    count = len(next(iter(arrays.values())))
    return replace(cond, image_only=jnp.ones((count, 1), bool))
