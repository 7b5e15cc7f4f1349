"""The denoising loss, and the weights that say how much each noise level counts in it.

A weight multiplies ||x0_hat - x0||^2, whatever the network's parameterisation.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from vdm_jax.diffusion.denoiser import Denoiser
from vdm_jax.diffusion.level import Level
from vdm_jax.diffusion.precond import Precond, nonzero


@runtime_checkable
class Weight(Protocol):
    """Weight of ||x0_hat - x0||^2 at a level; finite everywhere (0 where the law is infinite)."""

    def __call__(self, level: Level) -> Float[Array, "*batch"]: ...


@dataclass(frozen=True)
class UniformWeight:
    """Every level counts alike in x0."""

    def __call__(self, level: Level) -> Float[Array, "*batch"]:
        return jnp.ones_like(level.sigma)


@dataclass(frozen=True)
class OutputWeight:
    """1 / c_out^2: every level counts alike in the network's own output.

    With EDM(sigma_data) this is EDM's (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 (Karras et
    al. 2022, table 1); with V at alpha = 1, Stable Video Diffusion's (1 + sigma^2) / sigma^2; with
    Eps, the plain loss of Ho et al. 2020.
    """

    precond: Precond

    def __call__(self, level: Level) -> Float[Array, "*batch"]:
        c_out = self.precond.scalings(level).c_out
        return jnp.where(c_out == 0, 0, nonzero(c_out) ** -2)


@dataclass(frozen=True)
class SNRWeight:
    """alpha^2 / sigma^2."""

    def __call__(self, level: Level) -> Float[Array, "*batch"]:
        return jnp.where(level.sigma == 0, 0, (level.alpha / nonzero(level.sigma)) ** 2)


@dataclass(frozen=True)
class MinSNRWeight:
    """min(alpha^2 / sigma^2, gamma) (Hang et al. 2023, section 3.4)."""

    gamma: float = 5.0

    def __call__(self, level: Level) -> Float[Array, "*batch"]:
        return jnp.minimum(SNRWeight()(level), self.gamma)


class Loss(NamedTuple):
    """value: mean over the counting frames of the batch. per_sample: the same for each video."""

    value: Float[Array, ""]
    per_sample: Float[Array, " b"]


def denoising_loss(
    denoise: Denoiser,
    x0: Float[Array, "b t h w c"],
    level: Level,
    cond: PyTree,
    key: Array,
    *,
    weight: Weight,
    counts: Float[Array, "b t"] | None = None,
) -> Loss:
    """Noise `x0` to `level` (each frame to its own), denoise it, and price what is wrong.

    counts: how much each frame counts: 0 for known frames and padding; None counts all alike.
        Frames of weight 0 at their level (clean ones under most weights) stay in the mean.
    """
    level = level.frames(x0)
    counts = jnp.ones_like(level.sigma) if counts is None else counts
    z = level.noised(x0, jax.random.normal(key, x0.shape, x0.dtype))
    error = jnp.mean((denoise(z, level, cond) - x0) ** 2, axis=(2, 3, 4))
    priced = counts * weight(level) * error
    return Loss(
        jnp.sum(priced) / nonzero(jnp.sum(counts)),
        jnp.sum(priced, axis=1) / nonzero(jnp.sum(counts, axis=1)),
    )
