"""Guidance: functions from a denoiser to a denoiser, to be composed.

Each takes the denoiser first and returns one of the same kind.

Guiding x0 equals guiding the network's output (eps, v, ...), for x0 is the same affine function
of each branch's output.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.denoiser import Denoiser
from vdm_jax.diffusion.level import Level

Video = Float[Array, "b t h w c"]
Scales: TypeAlias = Float[Array, " t"] | Float[Array, "b #t"]
"""One number a frame, the same in all videos or not; "b 1" is one a video."""
Scale: TypeAlias = float | Float[Array, ""] | Scales | Callable[[int], Scales]
"""One number, several, or what makes them of a number of frames."""
Null: TypeAlias = PyTree | Callable[[PyTree], PyTree]


def frame_ramp(
    min_guidance_scale: float | int | Float[Array, "*b"],
    max_guidance_scale: float | int | Float[Array, "*b"],
    num_frames: int,
) -> Float[Array, "*b t"]:
    """A scale that grows evenly from the first frame to the last (Stable Video Diffusion).

    Of each video, where the ends are "b".
    """
    return jnp.linspace(min_guidance_scale, max_guidance_scale, num_frames, axis=-1)


def cfg(
    denoise: Denoiser, null: Null, guidance_scale: Scale, *, rescale: float | None = None
) -> Denoiser:
    """Classifier-free guidance: u + scale (c - u) (Ho & Salimans 2022), both in one batch of 2b.

    null: the unconditional cond, of the structure of cond, or a function that makes it from cond.
    guidance_scale: as `Scale`. The number 1 gives back the denoiser as it is.
    rescale: share, 0 to 1, of the result that is rescaled to the deviation of the conditional
        prediction, video by video (Lin et al. 2023, eq. 15 and 16).
    """
    if isinstance(guidance_scale, int | float) and guidance_scale == 1:
        return denoise

    def guided(z: Video, level: Level, cond: PyTree) -> Video:
        free, told = _batched(denoise, z, level, [_null(null, cond), cond])
        x0 = free + _framewise(guidance_scale, z) * (told - free)
        return x0 if rescale is None else _rescaled(x0, told, rescale)

    return guided


def two_stream(
    denoise: Denoiser, null: Null, image_only: Null, image_scale: Scale, text_scale: Scale
) -> Denoiser:
    """u + image_scale (i - u) + text_scale (c - i) (Brooks et al. 2023, eq. 3), one batch of 3b.

    null: cond without image and text; image_only: cond without text; each as in `cfg`.
    """

    def guided(z: Video, level: Level, cond: PyTree) -> Video:
        conds = [_null(null, cond), _null(image_only, cond), cond]
        free, image, both = _batched(denoise, z, level, conds)
        by_image = _framewise(image_scale, z) * (image - free)
        return free + by_image + _framewise(text_scale, z) * (both - image)

    return guided


@runtime_checkable
class Operator(Protocol):
    """A differentiable view of a video, A(x0), and the frames that guidance by it may change."""

    def observe(self, x0: Video) -> Array: ...

    def free(self, x0: Video) -> Bool[Array, "#b t"]: ...


@dataclass(frozen=True)
class Frames:
    """Some frames, by index: extension and interpolation of a clip."""

    indices: tuple[int, ...]

    def observe(self, x0: Video) -> Float[Array, "b known h w c"]:
        t = x0.shape[1]
        if not self.indices or not all(0 <= i < t for i in self.indices):
            raise Refusal(f"frames {self.indices}: at least one is needed, from 0 to {t - 1}")
        return x0[:, jnp.array(self.indices)]

    def free(self, x0: Video) -> Bool[Array, "1 t"]:
        return jnp.ones((1, x0.shape[1]), bool).at[:, jnp.array(self.indices)].set(False)


@dataclass(frozen=True)
class Masked:
    """Frames marked `known`, which may be others in each video; the rest is seen as zeros."""

    known: Bool[Array, "b t"]

    def observe(self, x0: Video) -> Video:
        return jnp.where(self.known[..., None, None, None], x0, 0)

    def free(self, x0: Video) -> Bool[Array, "b t"]:
        return ~self.known


@dataclass(frozen=True)
class Interleave:
    """Every `stride`-th frame from the first: temporal super-resolution."""

    stride: int

    def observe(self, x0: Video) -> Float[Array, "b known h w c"]:
        return x0[:, :: self.stride]

    def free(self, x0: Video) -> Bool[Array, "1 t"]:
        return jnp.arange(x0.shape[1])[None] % self.stride != 0


@dataclass(frozen=True)
class Downsample:
    """Every frame averaged over blocks of factor x factor: spatial super-resolution."""

    factor: int

    def observe(self, x0: Video) -> Float[Array, "b t small_h small_w c"]:
        b, t, h, w, c = x0.shape
        f = self.factor
        if h % f or w % f:
            raise Refusal(f"frames of {h}x{w}: height and width must be multiples of factor {f}")
        return x0.reshape(b, t, h // f, f, w // f, f, c).mean(axis=(3, 5))

    def free(self, x0: Video) -> Bool[Array, "1 t"]:
        return jnp.ones((1, x0.shape[1]), bool)


@dataclass(frozen=True)
class Observation:
    """What is known of the video: operator(x0) = value. weight is w_r; 0 ignores it."""

    operator: Operator
    value: Array
    weight: float | Float[Array, ""]


def reconstruction(denoise: Denoiser, observations: Sequence[Observation]) -> Denoiser:
    """Pull the free frames to where the denoised video would agree with what is known of it.

    x0^b - (w_r alpha / 2) grad_{z^b} ||x^a - A(x0(z))||^2 (Ho et al. 2022, eq. 7), summed over the
    observations. The gradient runs through the denoiser: about three times the cost. Frames that
    any operator knows are left as predicted: compose with `imputation` to hold them.
    """
    active = [o for o in observations if not (isinstance(o.weight, int | float) and o.weight == 0)]
    if not active:
        return denoise

    def guided(z: Video, level: Level, cond: PyTree) -> Video:
        def misfit(z: Video) -> tuple[Float[Array, ""], Video]:
            x0 = denoise(z, level, cond)
            return jnp.sum(jnp.stack([_misfit(o, x0) for o in active])), x0

        gradient, x0 = jax.grad(misfit, has_aux=True)(z)
        seen = [jnp.broadcast_to(o.operator.free(x0), x0.shape[:2]) for o in active]
        free = jnp.stack(seen).all(axis=0)
        pull = level.broadcast(z).alpha / 2 * gradient
        return x0 - jnp.where(free[..., None, None, None], pull, 0)

    return guided


def imputation(denoise: Denoiser, known: Bool[Array, "#b t"], value: Video) -> Denoiser:
    """Known frames are what they are, whatever is predicted.

    This is the replacement method of Song et al. 2021, with one noise for the whole walk when the
    sampler is deterministic. value: a video of which the known frames are read.
    """

    def guided(z: Video, level: Level, cond: PyTree) -> Video:
        return jnp.where(known[..., None, None, None], value, denoise(z, level, cond))

    return guided


def _misfit(observation: Observation, x0: Video) -> Float[Array, ""]:
    seen = observation.operator.observe(x0)
    if seen.shape != observation.value.shape:
        raise Refusal(
            f"{observation.operator} sees {seen.shape}, but the known value has the shape "
            f"{observation.value.shape}"
        )
    return observation.weight * jnp.sum((observation.value - seen) ** 2)


def _null(null: Null, cond: PyTree) -> PyTree:
    made = null(cond) if callable(null) else null
    got, needed = (list(map(jnp.shape, jax.tree.leaves(tree))) for tree in (made, cond))
    if got != needed:
        raise Refusal(f"unconditional cond of shapes {got}: {needed} is needed")
    return made


def _batched(denoise: Denoiser, z: Video, level: Level, conds: list[PyTree]) -> list[Video]:
    """The prediction under each cond, by one call on their concatenation along the batch."""
    n = len(conds)
    cond = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *conds)
    level = Level(*(jnp.tile(part, (n, 1)) for part in level.frames(z)))
    return jnp.split(denoise(jnp.tile(z, (n, 1, 1, 1, 1)), level, cond), n)


def _framewise(scale: Scale, z: Video) -> Float[Array, "#b t 1 1 1"]:
    scale = jnp.asarray(scale(z.shape[1]) if callable(scale) else scale, z.dtype)
    videos = len(scale) if scale.ndim == 2 else 1
    return jnp.broadcast_to(scale, (videos, z.shape[1]))[..., None, None, None]


def _rescaled(x0: Video, told: Video, share: float) -> Video:
    axes = (1, 2, 3, 4)
    factor = jnp.std(told, axes, keepdims=True) / jnp.std(x0, axes, keepdims=True)
    return share * factor * x0 + (1 - share) * x0
