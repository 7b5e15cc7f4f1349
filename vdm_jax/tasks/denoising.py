"""What every denoising task does alike: price the recovery of a noised video, and sample one."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vdm_jax.conditioning.drop import null
from vdm_jax.conditioning.text import given_tokens
from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.denoiser import Denoiser
from vdm_jax.diffusion.guidance import cfg
from vdm_jax.diffusion.level import Level
from vdm_jax.diffusion.loss import denoising_loss
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.sampler import invert
from vdm_jax.models.cond import Cond
from vdm_jax.tasks import space
from vdm_jax.tasks.task import Around, Arrays, Denoising, ModelConfig, Sampling, VideoModel

NOISE = "latents"
"""The name of the unit noise that a request brings, in the space that the network works in."""

START = "start"
"""The name of clean videos to begin with, in the space that the network works in."""

KNOWN = "known"
"""The name, in the arrays of a request, of which frames are known: "b t"."""
GIVEN = "given"
"""The name of the known frames themselves, in the space that the network works in."""

GUIDANCE = "guidance_scale"
"""The name, in the arrays of a request, of the guidance scale of each video: "b"."""

EMBEDDED = "text_embedding"
"""The name, in samples and in the arrays of a task, of captions that were embedded before: by the
model's own text encoder (`data.latents`), or by anything that its network was trained on."""


def captioned(model: ModelConfig, batch: Mapping[str, Any]) -> Arrays:
    """What `encode_text` reads, of samples with a "caption" or with its embedding."""
    if model.text_width is not None and EMBEDDED in batch:
        return {EMBEDDED: batch[EMBEDDED]}
    return model.tokenize(batch["caption"])


def encode_text(model: VideoModel, arrays: Arrays) -> Cond:
    """The token port from the arrays of `captioned`; empty where nothing was said."""
    if EMBEDDED in arrays:
        return Cond(tokens={"text": given_tokens(arrays[EMBEDDED])})
    if model.text is None:
        return Cond()
    return Cond(tokens={"text": model.text(arrays["text"])})


def check_embedded(model: ModelConfig, embedding: np.ndarray, count: int) -> None:
    """Refuse what is no embedding of `count` captions that the network of `model` can read."""
    width, got = model.text_width, list(embedding.shape)
    if width is None:
        raise Refusal(f"{EMBEDDED}: this model reads no text")
    if len(got) not in (3, 4) or 0 in got or (got[0], got[-1]) != (count, width):
        raise Refusal(
            f"{EMBEDDED} has the shape {got}; it must be [{count}, tokens, {width}], or [{count}, "
            f"frames, tokens, {width}], for {count} videos and the {width} features of a token "
            "that this model reads"
        )
    if not jnp.issubdtype(embedding.dtype, jnp.floating) or not np.isfinite(embedding).all():
        raise Refusal(f"{EMBEDDED} must hold finite floating-point numbers")


def loss(
    process: Process,
    denoise: Denoiser,
    x0: Float[Array, "b t h w c"],
    cond: Cond,
    key: Array,
    *,
    known: Bool[Array, "b t"] | None = None,
    counts: Float[Array, "b t"] | None = None,
) -> Float[Array, ""]:
    """Weighted squared error of `denoise` at random levels, one level a video.

    Frames marked `known` enter clean and are not priced. counts: how much each frame counts.
    """
    level_key, noise_key = jax.random.split(key)
    drawn = process.density.sample(level_key, (x0.shape[0], 1))
    level = Level(*(jnp.broadcast_to(part, x0.shape[:2]) for part in drawn))
    if known is not None:
        level = level.clean_where(known)
        counts = 1.0 - known.astype(jnp.float32)
    return denoising_loss(
        denoise, x0, level, cond, noise_key, weight=process.weight, counts=counts
    ).value


class Walk(NamedTuple):
    """The randomness of a drawing: of the noise it starts from, of its steps."""

    start: Array
    steps: Array


def walk(
    task: Denoising,
    model: VideoModel,
    denoise: Denoiser,
    arrays: Arrays,
    cond: Cond,
    keys: Walk,
    *,
    known: tuple[Float[Array, "b t h w c"], Bool[Array, "b t"]] | None = None,
) -> Float[Array, "b t h w c"]:
    """Clean videos from unit noise, in the space that the network works in.

    "row" of `arrays` numbers the videos; NOISE, where there, is the noise that is walked from.
    The frames of `known` (values, which) stand clean throughout. Keys are one, or one a video.
    """
    rows = arrays["row"]
    levels = task.process.schedule.ladder(task.sampling.num_steps)
    shape, plan = space.sizes(model, task.video), task.sampling.noise
    unit = noise(arrays, NOISE, keys.start, rows, shape, plan)
    z = _top(levels) * unit
    if known is not None:
        values, which = known
        levels = levels.clean_where(which)
        z = jnp.where(which[..., None, None, None], values, z)
    return task.sampling.sampler(denoise, z, levels, cond, row_keys(keys.steps, rows))


def inverted(
    task: Denoising, model: VideoModel, arrays: Arrays, *, around: Around
) -> Float[Array, "b t h w c"]:
    """The unit noise from which `walk` by DDIM gives START of `arrays` back, to first order."""
    levels = task.process.schedule.ladder(task.sampling.num_steps)
    denoise, cond = around(task.answer(model)), task.condition(model, arrays)
    return invert(denoise, arrays[START], levels, cond) / _top(levels)


def partly_noised(
    task: Denoising,
    x0: Float[np.ndarray, "n t h w c"],
    eps: Float[np.ndarray, "n t h w c"],
) -> Float[np.ndarray, "n t h w c"]:
    """The unit noise with which `walk` begins at `x0`, as it is at the first level with `eps`.

    Meng et al. 2022 (arXiv:2108.01073, SDEdit), with a schedule that is what is `Remaining`.
    """
    levels = task.process.schedule.ladder(task.sampling.num_steps)
    first = Level(levels.alpha[0], levels.sigma[0])
    return np.asarray((first.alpha * x0 + first.sigma * eps) / _top(levels))


def _top(levels: Level) -> Float[Array, ""]:
    """Deviation of unit-variance data at the first level: that of what is walked from."""
    return jnp.hypot(levels.alpha[0], levels.sigma[0])


def noise(
    arrays: Arrays,
    name: str,
    key: Array,
    rows: Int[Array, " b"],
    shape: tuple[int, ...],
    draw: Callable[[Array, Any], Array] = jax.random.normal,
) -> Array:
    """The unit noise of the request, or one drawn for each row by its number."""
    if name not in arrays:
        return jax.vmap(lambda key: draw(key, shape))(row_keys(key, rows))
    given = arrays[name]
    if given.shape[1:] != shape:
        raise Refusal(f"{name} has the shape {given.shape[1:]} a video; {shape} is needed")
    return given


def guided(denoise: Denoiser, cond: Cond, sampling: Sampling, arrays: Arrays) -> Denoiser:
    """`denoise`, compared with its answer where the caption is hidden; the rest stays in both.

    As hard as `guidance_scale` says.
    """
    if not cond.tokens:
        return denoise
    scale = guidance_scale(sampling, arrays)
    return cfg(denoise, lambda cond: null(cond, ("tokens",)), scale)


def guidance_scale(sampling: Sampling, arrays: Arrays) -> float | Float[Array, "b 1"]:
    """That of each video, where `arrays` hold GUIDANCE, else that of the sampling for all."""
    return arrays[GUIDANCE][:, None] if GUIDANCE in arrays else sampling.guidance_scale


def split(key: Array, count: int = 2) -> tuple[Array, ...]:
    """`count` keys of one, or of one a video: each is "b" then."""
    if key.ndim == 0:
        return tuple(jax.random.split(key, count))
    return tuple(jax.vmap(partial(jax.random.split, num=count), out_axes=1)(key))


def folded(key: Array, number: int) -> Array:
    """A further key of one, or of one a video."""
    if key.ndim == 0:
        return jax.random.fold_in(key, number)
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(key)


def row_keys(key: Array, rows: Int[Array, " b"]) -> Array:
    """A key for each row, by its number: what is drawn does not depend on its neighbours.

    key: one for all rows, or one for each.
    """
    if key.ndim == 0:
        return jax.vmap(partial(jax.random.fold_in, key))(rows)
    return jax.vmap(jax.random.fold_in)(key, rows)


def check_chances(**chances: float) -> None:
    """Refuse what is no probability."""
    for name, chance in chances.items():
        if not 0 <= chance <= 1:
            raise Refusal(f"{name} must lie in [0, 1], got {chance}")
