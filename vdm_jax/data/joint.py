"""Videos with pictures beside them, for networks that learn from both (Ho et al. 2022,
arXiv:2204.03458, section 3).

A batch of one shape holds both, so that nothing is compiled twice and the mixture of every step is
the same; a picture costs what one frame does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.source import Sample, Source, drawn, stack


@runtime_checkable
class Opens(Protocol):
    """A config part that opens a source of samples."""

    def build(self) -> Source: ...


@dataclass(frozen=True, kw_only=True)
class WithPictures:
    """The config part of a `Joint` source.

    pictures: samples of one frame, of the size of the videos. count: how many beside each video.
    """

    videos: Opens
    pictures: Opens
    count: int = 4

    def __post_init__(self) -> None:
        if self.count < 1:
            raise Refusal(f"count must be at least 1, got {self.count}")

    def build(self) -> "Joint":
        return Joint(self.videos.build(), self.pictures.build(), self.count)


class Joint:
    """The samples of one source, each with a few of another as "pictures".

    An epoch is as long as it takes to see all of both; the shorter one comes round again, beside
    others. "pictures" holds arrays "k ..." of what the samples of both have.
    """

    def __init__(self, videos: Source, pictures: Source, count: int):
        """Raises Refusal for pictures of more than one frame, or of another size."""
        self.videos, self.pictures, self._count = videos, pictures, count
        for name, wanted in _sizes(videos[0]).items():
            got = _sizes(pictures[0]).get(name)
            if got != (1, *wanted[1:]):
                raise Refusal(
                    f"the pictures' {name} is {_written(got)}; beside videos of "
                    f"{_written(wanted)} it must be {_written((1, *wanted[1:]))}"
                )

    @property
    def credit(self) -> str:
        """Whom to name wherever these frames are shown."""
        credits = (getattr(source, "credit", "") for source in (self.videos, self.pictures))
        return "; ".join(dict.fromkeys(filter(None, credits)))

    @property
    def fingerprint(self) -> str:
        return f"{self.videos.fingerprint}+{self._count}x{self.pictures.fingerprint}"

    def __len__(self) -> int:
        return max(len(self.videos), -(-len(self.pictures) // self._count))

    def __getitem__(self, index: int) -> Sample:
        return self._joined(index, lambda source, n: source[n])

    def draw(self, index: int, rng: np.random.Generator) -> Sample:
        """A sample, with what both sources leave to chance."""
        return self._joined(index, lambda source, n: drawn(source, n, rng))

    def _joined(self, index: int, taken: Callable[[Source, int], Sample]) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        numbers = range(index * self._count, (index + 1) * self._count)
        pictures = stack([taken(self.pictures, n % len(self.pictures)) for n in numbers])
        beside = {name: np.asarray(rows) for name, rows in pictures.items() if _kept(name)}
        return {**taken(self.videos, index % len(self.videos)), "pictures": beside}


def _kept(name: str) -> bool:
    return name in ("video", "latents", "caption", "text_embedding")


def _sizes(sample: Sample) -> dict[str, tuple[int, ...]]:
    return {name: np.shape(sample[name]) for name in ("video", "latents") if name in sample}


def _written(sizes: Any) -> str:
    return "absent" if sizes is None else "x".join(map(str, sizes))
