"""What makes a network of pictures one of videos: layers over time, after those over space.

The layers over space are alike in both and lie at the same paths, so that the parameters of a
network of pictures are among those of the network of videos (Blattmann et al. 2023,
arXiv:2304.08818, section 3.1).
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from vdm_jax.nn.patterns import (
    AllFrames,
    OwnFrame,
    SpacePattern,
    TimePattern,
    check_patterns,
)
from vdm_jax.nn.resblock import SpaceResBlock, SpaceTimeResBlock
from vdm_jax.nn.transformer import SpaceTimeTransformer, SpaceTransformer


@runtime_checkable
class Mixing(Protocol):
    """Builds the layers of a network, by their sizes."""

    def attending(self, time: TimePattern) -> "Mixing":
        """The same, its frames looking at each other by another pattern."""
        ...

    def resblock(
        self, in_channels: int, out_channels: int, *, eps: float, **sizes: Any
    ) -> SpaceResBlock: ...

    def transformer(
        self, width: int, context_width: int, heads: int, **sizes: Any
    ) -> SpaceTransformer: ...


@dataclass(frozen=True)
class SpaceTime:
    """After every layer over a frame one over the frames of each pixel, blended with it.

    time, space: who looks at whom in the transformers. Residual blocks in time see the whole video,
    whose group norm pools over all frames.
    """

    time: TimePattern = AllFrames()
    space: SpacePattern = OwnFrame()

    def __post_init__(self) -> None:
        check_patterns(self.time, self.space)

    def attending(self, time: TimePattern) -> "SpaceTime":
        return replace(self, time=time)

    def resblock(
        self, in_channels: int, out_channels: int, *, eps: float, **sizes: Any
    ) -> SpaceTimeResBlock:
        return SpaceTimeResBlock(in_channels, out_channels, eps=eps, time_eps=eps, **sizes)

    def transformer(
        self, width: int, context_width: int, heads: int, **sizes: Any
    ) -> SpaceTimeTransformer:
        patterns = {"time_pattern": self.time, "space_pattern": self.space}
        return SpaceTimeTransformer(width, context_width, heads, **patterns, **sizes)


@dataclass(frozen=True)
class FrameByFrame:
    """Layers over a frame alone: a video is so many pictures, unless `space` lets them look.

    space: who looks at whom in the transformers.
    """

    space: SpacePattern = OwnFrame()

    def __post_init__(self) -> None:
        check_patterns(AllFrames(), self.space)

    def attending(self, time: TimePattern) -> "FrameByFrame":
        del time  # frames do not look at each other
        return self

    def resblock(
        self, in_channels: int, out_channels: int, *, eps: float, **sizes: Any
    ) -> SpaceResBlock:
        return SpaceResBlock(in_channels, out_channels, eps=eps, **sizes)

    def transformer(
        self, width: int, context_width: int, heads: int, **sizes: Any
    ) -> SpaceTransformer:
        return SpaceTransformer(width, context_width, heads, space_pattern=self.space, **sizes)
