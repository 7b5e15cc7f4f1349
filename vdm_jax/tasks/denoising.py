"""What every denoising task does alike: price the recovery of a noised video, and sample one."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vdm_jax.conditioning.drop import null
from vdm_jax.conditioning.text import given_tokens
from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.denoiser import Denoiser, denoiser
from vdm_jax.diffusion.guidance import cfg
from vdm_jax.diffusion.level import Level
from vdm_jax.diffusion.loss import denoising_loss
from vdm_jax.diffusion.process import Process
from vdm_jax.models.cond import Cond
from vdm_jax.models.svd_unet import SVDUNetConfig
from vdm_jax.models.vdm_unet import VDMUNetConfig
from vdm_jax.tasks.task import Around, Arrays, ModelConfig, Sampling, VideoModel, VideoShape

NOISE = "latents"
"""The name of the unit noise that a request brings, in the space that the network works in."""

EMBEDDED = "text_embedding"
"""The name, in samples and in the arrays of a task, of captions that went through the text tower
before (`data.latents`)."""


def captioned(model: ModelConfig, batch: Mapping[str, Any]) -> Arrays:
    """What `encode_text` reads, of samples with a "caption" or with its embedding."""
    if model.text is not None and EMBEDDED in batch:
        return {EMBEDDED: batch[EMBEDDED]}
    return model.tokenize(batch["caption"])


def encode_text(model: VideoModel, arrays: Arrays) -> Cond:
    """The token port from the arrays of `captioned`; empty for a model without text."""
    if model.text is None:
        return Cond()
    if EMBEDDED in arrays:
        return Cond(tokens={"text": given_tokens(arrays[EMBEDDED])})
    return Cond(tokens={"text": model.text(arrays["text"])})


def loss(
    process: Process,
    denoise: Denoiser,
    x0: Float[Array, "b t h w c"],
    cond: Cond,
    key: Array,
    *,
    known: Bool[Array, "b t"] | None = None,
) -> Float[Array, ""]:
    """Weighted squared error of `denoise` at random levels, one level a video.

    Frames marked `known` enter clean and are not priced.
    """
    level_key, noise_key = jax.random.split(key)
    drawn = process.density.sample(level_key, (x0.shape[0], 1))
    level = Level(*(jnp.broadcast_to(part, x0.shape[:2]) for part in drawn))
    counts = None
    if known is not None:
        level = level.clean_where(known)
        counts = 1.0 - known.astype(jnp.float32)
    return denoising_loss(
        denoise, x0, level, cond, noise_key, weight=process.weight, counts=counts
    ).value


def sample(
    process: Process,
    sampling: Sampling,
    model: VideoModel,
    video: VideoShape,
    arrays: Arrays,
    cond: Cond,
    key: Array,
    around: Around,
    *,
    known: tuple[Float[Array, "b t h w c"], Bool[Array, "b t"]] | None = None,
) -> Float[Array, "b t h w c"]:
    """Videos in -1..1 from noise; the frames of `known` (values, which) stand clean throughout.

    Guidance nulls the tokens only: the picture stays in both of its branches.
    """
    start_key, walk_key = jax.random.split(key)
    levels = process.schedule.ladder(sampling.num_steps)
    rows = arrays["row"]
    z = levels.sigma[0] * noise(arrays, NOISE, start_key, rows, video.sizes)
    if known is not None:
        values, which = known
        levels = levels.clean_where(which)
        z = jnp.where(which[..., None, None, None], values, z)
    denoise = denoiser(model.network, process.precond)
    if sampling.guidance_scale != 1.0 and cond.tokens:
        denoise = cfg(denoise, null(cond, ("tokens",)), sampling.guidance_scale)
    return sampling.sampler(around(denoise), z, levels, cond, row_keys(walk_key, rows))


def noise(
    arrays: Arrays, name: str, key: Array, rows: Int[Array, " b"], shape: tuple[int, ...]
) -> Array:
    """The unit noise of the request, or one drawn for each row by its number."""
    if name not in arrays:
        keys = row_keys(key, rows)
        return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
    given = arrays[name]
    if given.shape[1:] != shape:
        raise Refusal(f"{name} has the shape {given.shape[1:]} a video; {shape} is needed")
    return given


def row_keys(key: Array, rows: Int[Array, " b"]) -> Array:
    """A key for each row, by its number: what is drawn does not depend on its neighbours."""
    return jax.vmap(partial(jax.random.fold_in, key))(rows)


def check_network(
    what: str,
    network: VDMUNetConfig | SVDUNetConfig | None,
    video: VideoShape,
    *,
    concat: int | None,
    vec: int | None,
) -> None:
    """Refuse a network that cannot take the videos, or the ports, of the task `what`."""
    if not isinstance(network, VDMUNetConfig):
        raise Refusal(f"{what} in pixels needs a VDMUNetConfig, got a {type(network).__name__}")
    colours = video.sizes[-1]
    wanted = {"in_channels": colours, "out_channels": colours, "concat_channels": concat,
              "vec_features": vec}  # fmt: skip
    for name, needed in wanted.items():
        if getattr(network, name) != needed:
            got = getattr(network, name)
            raise Refusal(f"{what} needs model.network.{name} {needed}, got {got}")
    if video.height % network.stride or video.width % network.stride:
        raise Refusal(
            f"task.video is {video.height}x{video.width}; model.network takes multiples of "
            f"{network.stride}"
        )


def check_chances(**chances: float) -> None:
    """Refuse what is no probability."""
    for name, chance in chances.items():
        if not 0 <= chance <= 1:
            raise Refusal(f"{name} must lie in [0, 1], got {chance}")
