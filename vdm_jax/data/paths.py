"""How shapes travel: straight on, as their caption says, or from wall to wall without end."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from vdm_jax.core.refusal import Refusal


@runtime_checkable
class Path(Protocol):
    """Of one object, along one axis at a time; positions and ways are in pixels."""

    def fastest(self, speeds: dict[str, float]) -> float:
        """The longest way that needs room in the frame, in frame widths a clip."""
        ...

    def speed(self, speed: float, u: float) -> float:
        """Frame widths a clip, of an object of a named `speed`, by a number of [0, 1)."""
        ...

    def room(self, way: float, low: float, high: float) -> tuple[float, float]:
        """Where an object may start that must stay between `low` and `high`."""
        ...

    def at(
        self,
        start: Float32[np.ndarray, "2"],
        way: Float32[np.ndarray, "t 2"],
        low: Float32[np.ndarray, "2"],
        high: Float32[np.ndarray, "2"],
    ) -> Float32[np.ndarray, "t 2"]:
        """Where an object is that has gone so far."""
        ...

    def words(self, direction: str, speed: str) -> str:
        """What the caption says of it."""
        ...


@dataclass(frozen=True)
class Straight:
    """In one direction at one of the named speeds; it never reaches a wall."""

    def fastest(self, speeds: dict[str, float]) -> float:
        return max(speeds.values())

    def speed(self, speed: float, u: float) -> float:
        del u
        return speed

    def room(self, way: float, low: float, high: float) -> tuple[float, float]:
        return low - min(0.0, way), high - max(0.0, way)

    def at(
        self,
        start: Float32[np.ndarray, "2"],
        way: Float32[np.ndarray, "t 2"],
        low: Float32[np.ndarray, "2"],
        high: Float32[np.ndarray, "2"],
    ) -> Float32[np.ndarray, "t 2"]:
        del low, high
        return start + way

    def words(self, direction: str, speed: str) -> str:
        return f"moves {direction} {speed}"


@dataclass(frozen=True)
class Bouncing:
    """Reflected by the walls, so that it can go on for ever: for clips longer than one is trained
    on. The caption does not tell direction and speed; the speed is any between two.

    slowest, quickest: frame widths a clip, their logarithm uniform between.
    """

    slowest: float = 0.2
    quickest: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.slowest <= self.quickest:
            raise Refusal(f"0 < slowest <= quickest, got {self.slowest} and {self.quickest}")

    def fastest(self, speeds: dict[str, float]) -> float:
        del speeds
        return 0.0  # a way that meets a wall comes back

    def speed(self, speed: float, u: float) -> float:
        del speed
        return self.slowest * (self.quickest / self.slowest) ** u

    def room(self, way: float, low: float, high: float) -> tuple[float, float]:
        del way
        return low, high

    def at(
        self,
        start: Float32[np.ndarray, "2"],
        way: Float32[np.ndarray, "t 2"],
        low: Float32[np.ndarray, "2"],
        high: Float32[np.ndarray, "2"],
    ) -> Float32[np.ndarray, "t 2"]:
        span = high - low
        gone = np.mod(start + way - low, 2 * span)
        return (low + span - np.abs(gone - span)).astype(np.float32)

    def words(self, direction: str, speed: str) -> str:
        del direction, speed
        return "bounces"


def pace(u: float, count: int) -> tuple[int, float]:
    """One of `count` things by a number of [0, 1), and how far into it the number lies."""
    whole = math.floor(u * count)
    return whole, u * count - whole
