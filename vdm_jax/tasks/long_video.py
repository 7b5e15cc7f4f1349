"""The windows of a video that is drawn piece by piece: which frames each has, and which it knows.

A window is the frames, by number, of one video of the length that a model draws. Windows are drawn
in order, and what earlier ones drew is known to later ones. Extension, keyframes and what lies
between them, more frames a second: all are lists of windows, and nothing else (Blattmann et al.
2023, arXiv:2304.08818, sections 3.2 and 3.3; He et al. 2022, arXiv:2211.13221, section 3.3).
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vdm_jax.core.refusal import Refusal


class Window(NamedTuple):
    """frames: of one drawing, by number. known: which of them are given or drawn before. new: which
    of them the window adds; the others are drawn better by a later window."""

    frames: tuple[int, ...]
    known: tuple[bool, ...]
    new: tuple[bool, ...]

    @property
    def drawn(self) -> tuple[int, ...]:
        """The frames that this window adds."""
        return tuple(f for f, new in zip(self.frames, self.new, strict=True) if new)


def extension(total: int, size: int, overlap: int, given: Iterable[int] = ()) -> list[Window]:
    """Frames 0 to total - 1, each window knowing the last `overlap` frames before it, or more.

    given: frames that are known beforehand. The last window ends with the video, and shares more
    with the one before where the numbers do not divide. A video shorter than a window is drawn as
    long as one.
    """
    check_overlap(size, overlap)
    return _windows(_runs(total, size, overlap), set(given))


def keyframes(
    total: int, size: int, overlap: int, every: int, given: Iterable[int] = ()
) -> list[Window]:
    """Every `every`-th frame by extension, then those between, each window between known ends.

    Keyframes may lie beyond the video: a window has as many frames as the model draws.
    """
    check_overlap(size, overlap)
    whole, given = reach(total, every), set(given)
    coarse = _windows(_runs((whole - 1) // every + 1, size, overlap, spacing=every), given)
    there = given.union(*(window.drawn for window in coarse))
    return [*coarse, *_between(whole, size, every, there)]


def interpolation(count: int, size: int, factor: int) -> list[Window]:
    """`factor` times the frames a second: of `count` given frames factor (count - 1) + 1.

    Frame i of those given is frame i * factor. A window begins and ends with a given frame where
    its size allows.
    """
    whole = factor * (count - 1) + 1
    return _between(whole, size, factor, set(range(0, whole, factor)))


def reach(total: int, every: int) -> int:
    """Frames from 0 to the first keyframe at or after the last of `total`."""
    return -(-(total - 1) // every) * every + 1


def check_overlap(size: int, overlap: int) -> None:
    if not 0 < overlap < size:
        raise Refusal(f"windows of {size} frames know from 1 to {size - 1} of them, got {overlap}")


def _between(whole: int, size: int, every: int, there: set[int]) -> list[Window]:
    """Windows that fill frames between known ones `every` apart, as many gaps in each as it has
    room for."""
    if every < 2:
        raise Refusal(f"there is nothing between frames {every} apart; 2 is the least")
    span = (size - 1) // every * every
    if span < every:
        raise Refusal(f"a window of {size} frames has no room for known frames {every} apart")
    return _windows(_runs(whole, size, size - span), there, of_use=span + 1)


def _runs(count: int, size: int, overlap: int, *, spacing: int = 1) -> list[tuple[int, ...]]:
    """Windows over `count` frames that lie `spacing` apart, or over `size` if there are fewer."""
    begins = [*range(0, count - size, size - overlap), max(count - size, 0)]
    return [tuple(spacing * (b + i) for i in range(size)) for b in begins]


def _windows(
    runs: Sequence[tuple[int, ...]], there: set[int], of_use: int | None = None
) -> list[Window]:
    """The runs in which there is something to draw.

    there: what is known beforehand. of_use: frames of each that are kept, but all of the last.
    """
    there, windows = set(there), []
    for number, frames in enumerate(runs):
        kept = frames if of_use is None or number + 1 == len(runs) else frames[:of_use]
        known = tuple(frame in there for frame in frames)
        new = tuple(f in kept and f not in there for f in frames)
        there |= set(kept)
        if any(new):
            windows.append(Window(frames, known, new))
    return windows
