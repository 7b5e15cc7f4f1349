"""Training densities: at which noise levels a network is trained."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vdm_jax.diffusion.level import Level
from vdm_jax.diffusion.schedule import Schedule


@runtime_checkable
class Density(Protocol):
    """A law of levels."""

    def sample(self, key: Array, shape: tuple[int, ...]) -> Level:
        """Independent levels of this shape."""
        ...


@dataclass(frozen=True)
class Uniform:
    """t uniform on [0, 1] along a schedule."""

    schedule: Schedule

    def sample(self, key: Array, shape: tuple[int, ...]) -> Level:
        return self.schedule.level(jax.random.uniform(key, shape))


@dataclass(frozen=True)
class LogNormal:
    """ln(sigma) normal, alpha = 1 (Karras et al. 2022, table 1)."""

    p_mean: float = -1.2
    p_std: float = 1.2

    def sample(self, key: Array, shape: tuple[int, ...]) -> Level:
        sigma = jnp.exp(self.p_mean + self.p_std * jax.random.normal(key, shape))
        return Level(jnp.ones_like(sigma), sigma)


@dataclass(frozen=True)
class LogitNormal:
    """logit(t) normal along a schedule (Esser et al. 2024, eq. 19)."""

    schedule: Schedule
    mean: float = 0.0
    std: float = 1.0

    def sample(self, key: Array, shape: tuple[int, ...]) -> Level:
        logit = self.mean + self.std * jax.random.normal(key, shape)
        return self.schedule.level(jax.nn.sigmoid(logit))
