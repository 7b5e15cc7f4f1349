"""Noise schedules: the path (alpha, sigma) from a clean video, t = 0, to pure noise, t = 1.

Every schedule is continuous in t. `ladder(n)` gives the n+1 levels a sampler walks down, noisiest
first, the last one clean. Ladders are computed in float64 on the host, then rounded once.

| schedule | alpha, sigma | source |
|---|---|---|
| Cosine | variance preserving | Nichol & Dhariwal 2021, eq. 17 |
| Linear, ScaledLinear | variance preserving, from betas | Ho et al. 2020; Rombach et al. 2022 |
| Karras | alpha = 1 | Karras et al. 2022, eq. 5 |
| Flow | alpha + sigma = 1 | Lipman et al. 2022; shift: Esser et al. 2024, eq. 23 |
| ZeroTerminalSNR, LogSNRShift, LogSNRFloor | a variance preserving schedule, altered | below |
| Remaining | of any schedule, the end | Meng et al. 2022 |

"Variance preserving": alpha^2 + sigma^2 = 1.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.level import Level


@runtime_checkable
class Schedule(Protocol):
    """A path from clean (t = 0) to noise (t = 1)."""

    def curve(self, t: Any) -> Level:
        """The level at t, computed with t's own array library (numpy or jax.numpy) and dtype."""
        ...

    def level(self, t: Float[Array, "*shape"]) -> Level:
        """The level at t in [0, 1], in the dtype of t."""
        ...

    def ladder(self, num_steps: int) -> Level:
        """Levels of shape (num_steps + 1,), noisiest first, ending clean."""
        ...


class _Path:
    """`level` and an evenly spaced `ladder` ("trailing" spacing, Lin et al. 2023) from `curve`."""

    def curve(self, t: Any) -> Level:
        raise NotImplementedError

    def level(self, t: Float[Array, "*shape"]) -> Level:
        return self.curve(t)

    def ladder(self, num_steps: int) -> Level:
        _refuse_no_steps(num_steps)
        return _rounded(self.curve(np.linspace(1.0, 0.0, num_steps + 1)))


@dataclass(frozen=True)
class Cosine(_Path):
    """alpha = cos((t+s)/(1+s) pi/2), normalised to 1 at t = 0; alpha is exactly 0 at t = 1."""

    s: float = 0.008

    def curve(self, t: Any) -> Level:
        xp = t.__array_namespace__()
        # Written by complementary angles, so that neither end suffers from cancellation.
        start = self.s / (1 + self.s) * np.pi / 2
        angle = t / (1 + self.s) * np.pi / 2
        rest = (1 - t) / (1 + self.s) * np.pi / 2
        alpha = xp.sin(rest) / np.cos(start)
        sigma = xp.sqrt(xp.sin(angle) * xp.sin(angle + 2 * start)) / np.cos(start)
        return Level(xp.minimum(alpha, 1.0), xp.minimum(sigma, 1.0))


@dataclass(frozen=True)
class Linear(_Path):
    """DDPM: betas evenly spaced.

    Level k of the training grid lies at t = k / num_train_steps, and t = 0 is clean. Between grid
    points alpha^2 is interpolated linearly.
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02
    num_train_steps: int = 1000

    def betas(self) -> np.ndarray:
        """Noise variance added at each training step, float64, shape (num_train_steps,)."""
        return np.linspace(self.beta_start, self.beta_end, self.num_train_steps)

    def curve(self, t: Any) -> Level:
        return _on_grid(t, np.cumsum(np.log1p(-self.betas())))


@dataclass(frozen=True)
class ScaledLinear(_Path):
    """Stable Diffusion: square roots of the betas evenly spaced; the grid is that of Linear."""

    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_train_steps: int = 1000

    def betas(self) -> np.ndarray:
        """Noise variance added at each training step, float64, shape (num_train_steps,)."""
        return np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.num_train_steps) ** 2

    def curve(self, t: Any) -> Level:
        return _on_grid(t, np.cumsum(np.log1p(-self.betas())))


@dataclass(frozen=True)
class Karras(_Path):
    """EDM: alpha = 1 and sigma^(1/rho) linear in t, from sigma_min to sigma_max.

    The ladder is EDM's: num_steps levels from sigma_max to sigma_min, then a clean one. Stable
    Video Diffusion samples with sigma_max = 700.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise Refusal(
                f"sigma_min {self.sigma_min} and sigma_max {self.sigma_max}: "
                "0 < sigma_min < sigma_max is needed"
            )

    def curve(self, t: Any) -> Level:
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        sigma = (low + t * (high - low)) ** self.rho  # Karras et al. 2022, eq. 5
        return Level(sigma * 0 + 1, sigma)

    def ladder(self, num_steps: int) -> Level:
        _refuse_no_steps(num_steps)
        alpha, sigma = self.curve(np.linspace(1.0, 0.0, num_steps))
        if num_steps == 1:
            sigma = np.array([self.sigma_max])
        return _rounded((np.append(alpha, 1.0), np.append(sigma, 0.0)))


@dataclass(frozen=True)
class Flow(_Path):
    """Rectified flow: sigma = t', alpha = 1 - t', with t' = shift t / (1 + (shift - 1) t)."""

    shift: float = 1.0

    def curve(self, t: Any) -> Level:
        scale = 1 + (self.shift - 1) * t
        return Level((1 - t) / scale, self.shift * t / scale)


@dataclass(frozen=True)
class ZeroTerminalSNR(_Path):
    """A schedule of betas rescaled to hold no signal at t = 1 (Lin et al. 2023, algorithm 1).

    The alpha of the first training step is kept.
    """

    base: Linear | ScaledLinear

    def curve(self, t: Any) -> Level:
        alpha = np.exp(0.5 * np.cumsum(np.log1p(-self.base.betas())))
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        with np.errstate(divide="ignore"):
            return _on_grid(t, 2 * np.log(alpha))


@dataclass(frozen=True)
class LogSNRShift(_Path):
    """log-SNR lowered by 2 ln(ratio) everywhere (Hoogeboom et al. 2023, section 3.1).

    ratio: side of the picture relative to the side that `base` suits; 2 for twice the side.
    """

    base: Schedule
    ratio: float

    def __post_init__(self) -> None:
        _refuse_other_than_vp(self)

    def curve(self, t: Any) -> Level:
        alpha, sigma = self.base.curve(t)
        norm = (alpha**2 + (self.ratio * sigma) ** 2) ** 0.5
        return Level(alpha / norm, self.ratio * sigma / norm)


@dataclass(frozen=True)
class LogSNRFloor(_Path):
    """log-SNR kept at `minimum` or above, as in Ho et al. 2022 (which also cap it at +20).

    With it an eps-network can be trained on a schedule that ends without signal.
    """

    base: Schedule
    minimum: float = -20.0

    def __post_init__(self) -> None:
        _refuse_other_than_vp(self)

    def curve(self, t: Any) -> Level:
        alpha, sigma = self.base.curve(t)
        xp = alpha.__array_namespace__()
        least = (1 + np.exp(-self.minimum)) ** -0.5
        most = (1 + np.exp(self.minimum)) ** -0.5
        return Level(xp.maximum(alpha, least), xp.minimum(sigma, most))


@dataclass(frozen=True)
class Remaining:
    """The rungs of a schedule's ladder from a video that is noised a part of the way (SDEdit).

    share: of the rungs, the last ones; 1 is all of them. Meng et al. 2022 (arXiv:2108.01073),
    section 3.
    """

    base: Schedule
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise Refusal(f"share {self.share}: it must lie above 0, and be 1 at most")

    def curve(self, t: Any) -> Level:
        return self.base.curve(t)

    def level(self, t: Float[Array, "*shape"]) -> Level:
        return self.base.level(t)

    def ladder(self, num_steps: int) -> Level:
        """At least the last step; num_steps counts those of the whole ladder."""
        whole = self.base.ladder(num_steps)
        steps = max(1, round(self.share * num_steps))
        return Level(*(part[-(steps + 1) :] for part in whole))


def _on_grid(t: Any, log_alpha2: np.ndarray) -> Level:
    """Levels from log(alpha^2) on the training grid, t = 1/n ... 1, with a clean one at t = 0."""
    xp = t.__array_namespace__()
    grid = np.arange(len(log_alpha2) + 1) / len(log_alpha2)
    alpha2 = np.append(1.0, np.exp(log_alpha2)).astype(t.dtype)
    sigma2 = np.append(0.0, -np.expm1(log_alpha2)).astype(t.dtype)
    grid = grid.astype(t.dtype)
    return Level(xp.sqrt(xp.interp(t, grid, alpha2)), xp.sqrt(xp.interp(t, grid, sigma2)))


def _rounded(ladder: tuple[Any, Any]) -> Level:
    return Level(*(jnp.asarray(part) for part in ladder))


def _refuse_no_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise Refusal(f"num_steps {num_steps}: at least 1 is needed")


def _refuse_other_than_vp(schedule: LogSNRShift | LogSNRFloor) -> None:
    alpha, sigma = schedule.base.curve(np.linspace(0.0, 1.0, 5))
    if not np.allclose(alpha**2 + sigma**2, 1):
        raise Refusal(
            f"{type(schedule).__name__} of {schedule.base}: a variance preserving schedule is "
            "needed (Karras has sigma_max and Flow has shift for this)"
        )
