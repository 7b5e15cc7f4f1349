"""Mean and covariance of features, gathered batch by batch in float64, in constant memory.

Chan, Golub and LeVeque 1983 (Algorithms for Computing the Sample Variance): two sets of rows are
joined by their counts, means and scatters, a scatter being the sum of outer products of rows about
their mean. Nothing large is subtracted from anything large, so the batches do not show in the end.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Integer

from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics.state import State

GROUPS = 20
"""Parts that clips are dealt to, to tell how far a result can be trusted (`metrics.interval`)."""


def rows(features: Float[Any, "n d"]) -> Float64[np.ndarray, "n d"]:
    """As float64. Raises Refusal where one is not finite, and says which."""
    found = np.asarray(features, np.float64)
    if found.ndim != 2:
        raise Refusal(f"features are rows of one width (n, d), got an array of {found.shape}")
    wrong = np.flatnonzero(~np.isfinite(found).all(1))
    if wrong.size:
        raise Refusal(
            f"features of row {wrong[0]} are not finite ({wrong.size} of {len(found)} rows); "
            "look at the frames and the weights that they come from"
        )
    return found


@dataclass(frozen=True, eq=False)
class Moments(State):
    """Of `count` rows of width d: mean, and the sum of their outer products about it (d, d)."""

    count: int = 0
    mean: Float64[np.ndarray, " d"] = field(default_factory=lambda: np.zeros(0))
    scatter: Float64[np.ndarray, "_ _"] = field(default_factory=lambda: np.zeros((0, 0)))

    def __post_init__(self) -> None:
        if self.count < 0 or self.scatter.shape != 2 * self.mean.shape:
            raise Refusal(
                f"these are no moments: {self.count} rows, mean {self.mean.shape}, "
                f"scatter {self.scatter.shape}"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.scatter).all()):
            raise Refusal(f"the moments of {self.count} rows are not finite; gather them anew")

    @property
    def width(self) -> int:
        return len(self.mean)

    def update(self, features: Float[Any, "n d"]) -> "Moments":
        """With these rows as well."""
        found = rows(features)
        mean = found.mean(0) if len(found) else np.zeros(found.shape[1])
        away = found - mean
        return self.merge(Moments(len(found), mean, away.T @ away))

    def merge(self, other: "Moments") -> "Moments":
        """Of the rows of both."""
        if self.width and other.width and self.width != other.width:
            raise Refusal(
                f"features of width {self.width} and of {other.width} do not mix: "
                "they are of two networks"
            )
        if not (self.count and other.count):
            return other if other.count or not self.width else self
        count, between = self.count + other.count, other.mean - self.mean
        part = other.count / count
        scatter = self.scatter + other.scatter
        scatter += np.outer(between, between) * (self.count * part)
        return Moments(count, self.mean + part * between, scatter)

    @property
    def covariance(self) -> Float64[np.ndarray, "d d"]:
        """Unbiased: the scatter over count - 1. Raises Refusal for fewer than two rows."""
        self._check()
        return self.scatter / (self.count - 1)

    @property
    def covariance_of_all(self) -> Float64[np.ndarray, "d d"]:
        """Of these rows as all that there are: the scatter over count. Raises Refusal likewise."""
        self._check()
        return self.scatter / self.count

    def _check(self) -> None:
        if self.count < 2:
            raise Refusal(f"a covariance needs at least 2 clips, got {self.count}")


@dataclass(frozen=True, eq=False)
class Parts:
    """Moments of clips that were dealt out by their number, `number % len(parts)`.

    So a clip is in the same part whoever saw it and in whatever order. Memory: "groups d d".
    """

    parts: tuple[Moments, ...] = (Moments(),) * GROUPS

    def update(self, features: Float[Any, "n d"], numbers: Integer[Any, " n"]) -> "Parts":
        """With these rows as well. numbers: of the clips that they are of, each one's own."""
        found, part = rows(features), np.asarray(numbers) % len(self.parts)
        if part.shape != (len(found),):
            raise Refusal(f"{len(found)} rows of features have {part.size} numbers of clips")
        parts = list(self.parts)
        for group in np.unique(part).tolist():
            parts[group] = parts[group].update(found[part == group])
        return Parts(tuple(parts))

    def merge(self, other: "Parts") -> "Parts":
        if len(self.parts) != len(other.parts):
            raise Refusal(
                f"clips dealt to {len(self.parts)} parts and to {len(other.parts)} do not mix"
            )
        pairs = zip(self.parts, other.parts, strict=True)
        return Parts(tuple(a.merge(b) for a, b in pairs))

    @property
    def whole(self) -> Moments:
        """Of all clips."""
        return merged(self.parts)

    def arrays(self) -> dict[str, np.ndarray]:
        """As `Moments` has them, each with an axis of parts before the others."""
        wide = Moments(0, (width := np.zeros(self.whole.width)), np.outer(width, width))
        kept = [(part if part.count else wide).arrays() for part in self.parts]
        return {name: np.stack([part[name] for part in kept]) for name in wide.arrays()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Parts":
        """What `arrays` told. Raises Refusal where these are not of parts."""
        lengths = {np.shape(value)[:1] for value in arrays.values()}
        if len(lengths) != 1 or lengths & {(), (0,)}:
            raise Refusal(f"parts are kept as arrays of one length, got {sorted(lengths)}")
        (length,) = lengths.pop()
        each = (
            {name: np.asarray(value[i]) for name, value in arrays.items()} for i in range(length)
        )
        return cls(tuple(Moments.from_arrays(part) for part in each))


def merged(parts: Iterable[Moments]) -> Moments:
    """Of the rows of all."""
    return reduce(Moments.merge, parts, Moments())
