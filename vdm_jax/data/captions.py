"""Which caption a sample of a clip has, where several wrote one.

Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127, section 3.1) has three for each
clip, and training samples one of them by fixed chances: `SVD_SHARES`.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import ClipInfo

LISTED = 8  # writers that a refusal names


@dataclass(frozen=True, kw_only=True)
class Share:
    """How often the caption of a writer is taken, relative to those of the others."""

    writer: str
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < float("inf"):
            raise Refusal(f"the share of {self.writer!r} must be above 0, got {self.share}")


SVD_SHARES = (
    Share(writer="image", share=0.5),
    Share(writer="video", share=0.25),
    Share(writer="summary", share=0.25),
)


@dataclass(frozen=True, kw_only=True)
class Captioned(ClipInfo):
    """A clip of which a sample has one of `captions`, each by its share; of none, its `caption`."""

    captions: Mapping[str, float] = field(default_factory=dict)

    def said(self, chance: Callable[[], float]) -> str:
        if not self.captions:
            return self.caption
        *ends, whole = accumulate(self.captions.values())
        return [*self.captions][bisect_right(ends, chance() * whole)]


def shared(captions: Mapping[str, str], shares: Sequence[Share]) -> dict[str, float]:
    """The share of each caption of a clip. captions: by who wrote them."""
    out: dict[str, float] = {}
    for each in shares:
        if each.writer in captions:
            text = captions[each.writer]
            out[text] = out.get(text, 0.0) + each.share
    return out


def check(shares: Sequence[Share], clips: Sequence[Mapping[str, str]], where: str) -> None:
    """Refuse a writer that is named twice, or of whom no clip has a caption."""
    names = [each.writer for each in shares]
    if twice := [name for name in names if names.count(name) > 1]:
        raise Refusal(f"captions by {twice[0]!r} have two shares; give one")
    there = sorted({writer for captions in clips for writer in captions})
    if unknown := [name for name in names if name not in there]:
        known = ", ".join(map(repr, there[:LISTED])) or "none with a name"
        raise Refusal(f"{where}: no clip has a caption by {unknown[0]!r}; there are {known}")
