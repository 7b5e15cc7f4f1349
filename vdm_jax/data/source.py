"""What gives samples, by index; and samples stacked to batches."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vdm_jax.core.refusal import Refusal, Unavailable

Sample = dict[str, Any]
"""One record in numpy: video uint8 "t h w c", caption str, fps float32, key str, and what more
the source knows about it."""

Batch = dict[str, Any]
"""Samples stacked: arrays gain a leading axis, strings become a list, dicts stay dicts."""


@runtime_checkable
class Source(Protocol):
    """Random access to samples: `source[i]`, 0 <= i < len(source), the same sample every time.

    fingerprint: a stable hash of what the samples are (contents, parameters, version).
    A record that cannot be read raises Refusal naming it.
    """

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@runtime_checkable
class Transform(Protocol):
    """A random change of one sample, drawn from `rng` only; `fingerprint` names its version."""

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample: ...


@runtime_checkable
class Draws(Protocol):
    """A source that leaves something of its samples to chance, drawn from `rng` only."""

    def draw(self, index: int, rng: np.random.Generator, /) -> Sample: ...


@runtime_checkable
class InGroups(Protocol):
    """A source whose samples differ in shape: `groups` consecutive ones each do not."""

    @property
    def groups(self) -> Sequence[int]: ...


@runtime_checkable
class Keyed(Protocol):
    """A source that knows the key of a sample without reading it."""

    def key(self, index: int, /) -> str: ...


def drawn(source: Source, index: int, rng: np.random.Generator) -> Sample:
    """A sample, with what its source leaves to chance drawn from `rng`."""
    return source.draw(index, rng) if isinstance(source, Draws) else source[index]


def near(source: Source, index: int, max_bad: int) -> Sample:
    """A sample; where it is refused, one of the `max_bad` after it. Raises the last Refusal."""
    for number in range(index, index + max_bad):
        try:
            return source[number % len(source)]
        except Unavailable:
            raise
        except Refusal:
            continue
    return source[(index + max_bad) % len(source)]


def stack(samples: Sequence[Sample]) -> Batch:
    """Samples with the same fields -> one batch. Raises Refusal naming fields that do not fit."""
    return {name: _stack_field(name, [s.get(name) for s in samples]) for name in _names(samples)}


def _names(samples: Sequence[Sample]) -> list[str]:
    names = list(samples[0])
    for sample in samples:
        if set(sample) != set(names):
            odd = sorted(set(sample) ^ set(names))
            raise Refusal(f"samples differ in their fields: {odd} are not in all of them")
    return names


def _stack_field(name: str, values: Sequence[Any]) -> Any:
    if isinstance(values[0], str):
        return list(values)
    if isinstance(values[0], Mapping):
        return stack(values)
    arrays = [np.asarray(value) for value in values]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise Refusal(f"samples of one batch need equal shapes: {name} has {sorted(shapes)}")
    return np.stack(arrays)
