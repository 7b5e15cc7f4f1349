"""Which steps are taken: none that is not finite, none that is far off all steps of late.

A step is judged by its loss and by the norm of its gradient, inside the compiled step. Both are
compared with their running median, in units of their median distance from it: of the last 128 steps
that were taken, half would have to be bad before a bad one passed for usual. What is compared is
arcsinh(x / median |x|), which is straight near zero and a logarithm far off: losses of diffusion
differ by factors from one draw of noise levels to the next, and those of a discriminator change
sign.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vdm_jax.core.refusal import Refusal

WINDOW = 128  # steps that a new one is compared with
LEAST = 32  # of them, from which on it is
NORMAL = 1.4826  # standard deviations of a normal distribution in one median absolute deviation
FLOOR = 0.07  # least deviation: what hardly ever changes may still double


@dataclass(frozen=True)
class Guard:
    """When a step is skipped, and when skipping no longer helps."""

    deviations: float = 8.0
    """A loss or gradient norm this many deviations above its running median is a spike."""
    patience: int = 10
    """Steps skipped in a row after which the run takes back the weights of a checkpoint."""

    def __post_init__(self) -> None:
        if not self.deviations > 0:
            raise Refusal(f"guard.deviations must be above 0, got {self.deviations}")
        if self.patience < 1:
            raise Refusal(f"guard.patience must be at least 1, got {self.patience}")


class Health(NamedTuple):
    """What a step is judged by; a part of the training state, so that it resumes like the rest."""

    recent: Float[Array, "2 w"]
    """Loss and gradient norm of the last steps that were taken, the newest at the end."""
    known: Int[Array, ""]
    """How many of `recent` are of steps: fewer at first, and after going back to a checkpoint."""
    bad_in_a_row: Int[Array, ""]
    """Steps skipped since."""


def unknown() -> Health:
    """Before the first step."""
    return Health(jnp.zeros((2, WINDOW)), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def judged(
    guard: Guard,
    health: Health,
    loss: Float[Array, ""],
    norm: Float[Array, ""],
    finite: Bool[Array, ""],
) -> tuple[Bool[Array, ""], Health]:
    """Whether a step is good, and the health after it."""
    now = jnp.stack([loss, norm]).astype(jnp.float32)
    good = finite & ~is_spike(guard, health.recent, health.known, now)
    recent = jnp.concatenate([health.recent[:, 1:], now[:, None]], axis=1)
    return good, Health(
        recent=jnp.where(good, recent, health.recent),
        known=jnp.minimum(health.known + jnp.where(good, 1, 0), WINDOW),
        bad_in_a_row=jnp.where(good, 0, health.bad_in_a_row + 1),
    )


def is_spike(
    guard: Guard, recent: Float[Array, "2 w"], count: Int[Array, ""], now: Float[Array, "2"]
) -> Bool[Array, ""]:
    """Whether a number of `now` is far above the last `count` of its row."""
    scale = jnp.maximum(_median(jnp.abs(recent), count), jnp.finfo(jnp.float32).tiny)
    usual = jnp.arcsinh(recent / scale[:, None])
    median = _median(usual, count)
    deviation = NORMAL * _median(jnp.abs(usual - median[:, None]), count)
    above = jnp.arcsinh(now / scale) - median
    far = above > guard.deviations * jnp.maximum(deviation, FLOOR)
    return (count >= LEAST) & far.any()


def _median(rows: Float[Array, "2 w"], count: Int[Array, ""]) -> Float[Array, "2"]:
    """Of the last `count` numbers of each row, the lower one where two are in the middle."""
    known = jnp.arange(WINDOW) >= WINDOW - count
    ordered = jnp.sort(jnp.where(known, rows, jnp.inf), axis=1)
    return ordered[:, jnp.maximum(count - 1, 0) // 2]
