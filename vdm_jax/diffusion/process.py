"""A diffusion process: the four choices that training and sampling must share."""

from dataclasses import dataclass

import numpy as np

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.density import Density
from vdm_jax.diffusion.loss import Weight
from vdm_jax.diffusion.precond import Precond
from vdm_jax.diffusion.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Process:
    """How a model is trained (density, weight) and sampled (schedule), and what it predicts.

    Raises Refusal when the parameterisation is not defined on the whole schedule: an
    eps-network says nothing of x0 where no signal is left (Lin et al. 2023, section 3.3).
    """

    schedule: Schedule
    precond: Precond
    density: Density
    weight: Weight

    def __post_init__(self) -> None:
        check(self.precond, self.schedule)
        if isinstance(along := getattr(self.density, "schedule", None), Schedule):
            check(self.precond, along)


def check(precond: Precond, schedule: Schedule) -> None:
    """Refuse a parameterisation that is infinite at the noise end of a schedule."""
    end = schedule.curve(np.ones(1))
    with np.errstate(all="ignore"):
        finite = all(np.isfinite(part).all() for part in precond.scalings(end))
    if not finite:
        raise Refusal(
            f"{type(precond).__name__} divides by alpha, which is {end.alpha[0]:g} at the noise "
            f"end of {schedule}; predict V, X0 or FlowVelocity, or use LogSNRFloor(schedule)"
        )
