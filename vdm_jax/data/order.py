"""Which sample of a source stands where in the endless stream: a function of seed and position."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import grain
import numpy as np

from vdm_jax.core.refusal import Refusal


@runtime_checkable
class Order(Protocol):
    """`order[position]` is the index of a sample; `peers(position)` are those that may stand there
    instead."""

    def __getitem__(self, position: int, /) -> int: ...

    def peers(self, position: int, /) -> range: ...


class Shuffled:
    """One permutation of all samples after the other, each an epoch."""

    def __init__(self, length: int, seed: int):
        self._order = _permutations(length, _drawn(seed, 1)[0])
        self._length = length

    def __getitem__(self, position: int) -> int:
        return _at(self._order, position)

    def peers(self, position: int) -> range:
        return range(self._length)


class Grouped:
    """Batches of one group each, shuffled.

    sizes: how many samples each group has; they follow each other in the source. In an epoch every
    sample appears once, but for the remainder of each group that fills no batch: other samples are
    left out in every epoch. A group that is smaller than a batch never appears.
    """

    def __init__(self, sizes: Sequence[int], batch_size: int, seed: int):
        """Raises Refusal if no group fills a batch."""
        if max(sizes, default=0) < batch_size:
            raise Refusal(
                f"no bucket fills a batch of {batch_size}; they hold {', '.join(map(str, sizes))}"
            )
        seeds = _drawn(seed, len(sizes) + 1)
        self._batch_size, self._sizes = batch_size, tuple(sizes)
        self._firsts = [0, *np.cumsum(sizes).tolist()]
        self._ends = np.cumsum([size // batch_size for size in sizes])
        self._slots = _permutations(int(self._ends[-1]), seeds[0])
        self._orders = [
            _permutations(size, each) for size, each in zip(sizes, seeds[1:], strict=True)
        ]

    def __getitem__(self, position: int) -> int:
        batch, row = divmod(position, self._batch_size)
        group, before = self._slot(batch)
        epoch = batch // int(self._ends[-1])
        place = epoch * self._sizes[group] + before * self._batch_size + row
        return self._firsts[group] + _at(self._orders[group], place)

    def peers(self, position: int) -> range:
        group, _ = self._slot(position // self._batch_size)
        return range(self._firsts[group], self._firsts[group + 1])

    def _slot(self, batch: int) -> tuple[int, int]:
        """The group of a batch, and how many batches of the group lie before it in the group's
        permutation of this epoch."""
        slot = _at(self._slots, batch)
        group = int(np.searchsorted(self._ends, slot, side="right"))
        return group, slot - (int(self._ends[group - 1]) if group else 0)


def _drawn(seed: int, count: int) -> list[int]:
    """Seeds for permutations: drawn, since Grain's epochs count up from them, and seed 0's second
    epoch would otherwise be seed 1's first."""
    return [int(word) for word in np.random.SeedSequence(seed).generate_state(count)]


def _permutations(length: int, seed: int) -> "grain.MapDataset[int] | None":
    """Permutations of `length` numbers, one after the other; None of none."""
    return grain.MapDataset.range(length).shuffle(seed=seed).repeat() if length else None


def _at(permutations: "grain.MapDataset[int] | None", position: int) -> int:
    assert permutations is not None
    number = permutations[position]
    assert number is not None  # a range is never sparse
    return number
