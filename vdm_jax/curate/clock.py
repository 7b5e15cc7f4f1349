"""What each step of a task takes, though they run in turns: a clip at a time goes through all."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")


class Clock:
    """seconds: by step, without those of the steps that it takes its items from."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._begin, self._told = perf_counter(), 0.0

    def over(self, step: str, items: Iterable[T]) -> Iterator[T]:
        """`items`, which the step makes."""
        source = iter(items)
        while True:
            begin, before = perf_counter(), self._told
            try:
                item = next(source)
            except StopIteration:
                return
            finally:
                self._tell(step, perf_counter() - begin - (self._told - before))
            yield item

    def rest(self, step: str) -> dict[str, float]:
        """The seconds of all steps, with those that none was told of yet as a last one."""
        self._tell(step, perf_counter() - self._begin - self._told)
        return dict(self.seconds)

    def _tell(self, step: str, seconds: float) -> None:
        self.seconds[step] += seconds
        self._told += seconds
