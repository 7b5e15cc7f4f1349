"""Optimisers and learning rates, as config parts that build optax transformations."""

import math
from dataclasses import dataclass

import optax

from vdm_jax.core.refusal import Refusal


@dataclass(frozen=True)
class ConstantRate:
    """The peak learning rate until the end."""

    def build(self, peak: float, warmup_steps: int, steps: int) -> optax.Schedule:
        del steps
        if warmup_steps == 0:
            return optax.constant_schedule(peak)
        return optax.warmup_constant_schedule(0.0, peak, warmup_steps)


@dataclass(frozen=True)
class CosineDecay:
    """Half a cosine from the peak down to `final_fraction` of it at the last step."""

    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.final_fraction <= 1:
            raise Refusal(f"final_fraction must lie in [0, 1], got {self.final_fraction}")

    def build(self, peak: float, warmup_steps: int, steps: int) -> optax.Schedule:
        return optax.warmup_cosine_decay_schedule(
            0.0, peak, warmup_steps, max(steps, warmup_steps + 1), self.final_fraction * peak
        )


@dataclass(frozen=True)
class AdamW:
    """AdamW (Loshchilov and Hutter 2019) after clipping the global gradient norm."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    decay: ConstantRate | CosineDecay = ConstantRate()
    """What the learning rate does after the warm-up."""
    warmup_steps: int = 100
    """Steps of linear rise from zero."""
    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    """Largest global gradient norm that is applied."""

    def __post_init__(self) -> None:
        within = {
            "learning_rate": ("above 0", 0 < self.learning_rate < math.inf),
            "clip_norm": ("above 0", self.clip_norm > 0),
            "warmup_steps": ("at least 0", self.warmup_steps >= 0),
            "b1": ("in [0, 1)", 0 <= self.b1 < 1),
            "b2": ("in [0, 1)", 0 <= self.b2 < 1),
            "eps": ("above 0", 0 < self.eps < math.inf),
            "weight_decay": ("at least 0", 0 <= self.weight_decay < math.inf),
        }
        for name, (wanted, fine) in within.items():
            if not fine:
                raise Refusal(f"optim.{name} must be {wanted}, got {getattr(self, name)}")

    def rate(self, steps: int) -> optax.Schedule:
        """Learning rate at each step of a run of `steps`."""
        return self.decay.build(self.learning_rate, self.warmup_steps, steps)

    def build(self, steps: int) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm),
            optax.adamw(
                self.rate(steps), self.b1, self.b2, eps=self.eps, weight_decay=self.weight_decay
            ),
        )
