"""Parameterisations: what the network is asked for, and how x0 follows from it.

x0 = c_skip * z + c_out * F(c_in * z, c_noise). Each is the literature's form, written so that it
holds at any level (variance preserving, alpha = 1, flow): a video scaled by any factor gives the
network the same input. With r = sqrt(alpha^2 + sigma^2):

| class | the network predicts | source |
|---|---|---|
| X0 | x0 | |
| Eps | eps | Ho et al. 2020 |
| V | (alpha eps - sigma x0) / r | Salimans & Ho 2022, appendix D |
| FlowVelocity | eps - x0 | Lipman et al. 2022 |
| EDM | x0 less c_skip z, to unit variance | Karras et al. 2022, table 1 |

V at alpha = 1 is the velocity form of Stable Video Diffusion: c_skip = 1/(sigma^2+1), c_out =
-sigma/sqrt(sigma^2+1), c_in = 1/sqrt(sigma^2+1).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm_jax.diffusion.level import Level

LOG_RATIO_LIMIT = 12.0


class Scalings(NamedTuple):
    """x0 = c_skip * z + c_out * F(c_in * z, c_noise); each of the level's shape."""

    c_skip: Float[Array, "*batch"]
    c_out: Float[Array, "*batch"]
    c_in: Float[Array, "*batch"]
    c_noise: Float[Array, "*batch"]


class Mixture(NamedTuple):
    """The output the network is asked for, as F = x0 * (clean video) + eps * (noise)."""

    x0: Float[Array, "*batch"]
    eps: Float[Array, "*batch"]


@runtime_checkable
class Precond(Protocol):
    """A parameterisation. Both methods stay finite at sigma = 0; at alpha = 0 all but Eps do."""

    def scalings(self, level: Level) -> Scalings: ...

    def mixture(self, level: Level) -> Mixture: ...


def c_noise(level: Level) -> Any:
    """ln(sigma / alpha) / 4, the logarithm held within +-12: so within +-3, at a clean frame -3.

    EDM's ln(sigma) / 4 (Karras et al. 2022, table 1) for the scaled video z / alpha. Every
    parameterisation tells the network the same number at the same signal-to-noise ratio.
    """
    xp = level.sigma.__array_namespace__()
    log_ratio = xp.log(level.sigma) - xp.log(level.alpha)
    return xp.clip(log_ratio, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT) / 4


@dataclass(frozen=True)
class X0:
    """The network predicts the clean video."""

    def scalings(self, level: Level) -> Scalings:
        zero = level.sigma * 0
        return Scalings(zero, zero + 1, 1 / _norm(level), c_noise(level))

    def mixture(self, level: Level) -> Mixture:
        return Mixture(level.sigma * 0 + 1, level.sigma * 0)


@dataclass(frozen=True)
class Eps:
    """The network predicts the noise: x0 = (z - sigma eps) / alpha. Needs alpha > 0."""

    def scalings(self, level: Level) -> Scalings:
        alpha, sigma = level
        return Scalings(1 / alpha, -sigma / alpha, 1 / _norm(level), c_noise(level))

    def mixture(self, level: Level) -> Mixture:
        return Mixture(level.sigma * 0, level.sigma * 0 + 1)


@dataclass(frozen=True)
class V:
    """The network predicts the velocity: x0 = alpha z - sigma v where alpha^2 + sigma^2 = 1."""

    def scalings(self, level: Level) -> Scalings:
        r = _norm(level)
        return Scalings(level.alpha / r**2, -level.sigma / r, 1 / r, c_noise(level))

    def mixture(self, level: Level) -> Mixture:
        r = _norm(level)
        return Mixture(-level.sigma / r, level.alpha / r)


@dataclass(frozen=True)
class FlowVelocity:
    """The network predicts eps - x0: x0 = z - sigma u where alpha + sigma = 1."""

    def scalings(self, level: Level) -> Scalings:
        total = level.alpha + level.sigma
        return Scalings(1 / total, -level.sigma / total, 1 / total, c_noise(level))

    def mixture(self, level: Level) -> Mixture:
        return Mixture(level.sigma * 0 - 1, level.sigma * 0 + 1)


@dataclass(frozen=True)
class EDM:
    """Unit-variance input and target for data of standard deviation sigma_data."""

    sigma_data: float = 0.5

    def scalings(self, level: Level) -> Scalings:
        alpha, sigma = level
        d = self._deviation(level)
        return Scalings(
            self.sigma_data**2 * alpha / d**2, sigma * self.sigma_data / d, 1 / d, c_noise(level)
        )

    def mixture(self, level: Level) -> Mixture:
        d = self._deviation(level)
        return Mixture(level.sigma / (d * self.sigma_data), -self.sigma_data * level.alpha / d)

    def _deviation(self, level: Level) -> Any:
        """Standard deviation of z."""
        return ((level.alpha * self.sigma_data) ** 2 + level.sigma**2) ** 0.5


def to_x0(
    precond: Precond,
    output: Float[Array, "b t h w c"],
    z: Float[Array, "b t h w c"],
    level: Level,
) -> Float[Array, "b t h w c"]:
    """The clean video that a network's output stands for."""
    scalings = precond.scalings(level.broadcast(z))
    return scalings.c_skip * z + scalings.c_out * output


def from_x0(
    precond: Precond, x0: Float[Array, "b t h w c"], z: Float[Array, "b t h w c"], level: Level
) -> Float[Array, "b t h w c"]:
    """The output that stands for `x0`. A clean frame tells nothing of its noise: eps is 0 there."""
    return _mixed(precond, x0, noise_in(z, x0, level), level)


def convert(
    output: Float[Array, "b t h w c"],
    z: Float[Array, "b t h w c"],
    level: Level,
    source: Precond,
    target: Precond,
) -> Float[Array, "b t h w c"]:
    """The output of one parameterisation, restated in another; exact where both are defined.

    x0 and eps are both solved from z and F, so no precision is lost by a detour through x0.
    """
    x0 = to_x0(source, output, z, level)
    at = level.broadcast(z)
    mix = source.mixture(at)
    # z = alpha x0 + sigma eps and F = mix.x0 x0 + mix.eps eps, solved for eps.
    determinant = at.alpha * mix.eps - at.sigma * mix.x0
    eps = (at.alpha * output - mix.x0 * z) / nonzero(determinant)
    return _mixed(target, x0, eps, level)


def noise_in(
    z: Float[Array, "b t h w c"], x0: Float[Array, "b t h w c"], level: Level
) -> Float[Array, "b t h w c"]:
    """eps = (z - alpha x0) / sigma; 0 in clean frames."""
    alpha, sigma = level.broadcast(z)
    return jnp.where(sigma == 0, 0, (z - alpha * x0) / nonzero(sigma))


def nonzero(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x, with 1 in place of 0: a denominator whose quotient is not used there."""
    return jnp.where(x == 0, 1, x)


def _mixed(precond: Precond, x0: Array, eps: Array, level: Level) -> Array:
    mix = precond.mixture(level.broadcast(x0))
    return mix.x0 * x0 + mix.eps * eps


def _norm(level: Level) -> Any:
    return (level.alpha**2 + level.sigma**2) ** 0.5
