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
    """frames: of one drawing, by number. known: those among them that are given or drawn before."""

    frames: tuple[int, ...]
    known: tuple[bool, ...]

    @property
    def drawn(self) -> tuple[int, ...]:
        """The frames that this window adds."""
        return tuple(f for f, k in zip(self.frames, self.known, strict=True) if not k)


def extension(total: int, size: int, overlap: int, given: Iterable[int] = ()) -> list[Window]:
    """Frames 0 to total - 1, each window knowing the last `overlap` frames before it, or more.

    given: frames that are known beforehand. The last window ends with the video, and shares more
    with the one before where the numbers do not divide. A video shorter than a window is drawn as
    long as one.
    """
    check_overlap(size, overlap)
    runs = _runs(0, total, size, overlap, spacing=1)
    return _known(runs, given)


def keyframes(
    total: int, size: int, overlap: int, every: int, given: Iterable[int] = ()
) -> list[Window]:
    """Every `every`-th frame by extension, then those between, each window between known ends.

    Keyframes may lie beyond the video: a window has as many frames as the model draws.
    """
    check_overlap(size, overlap)
    whole = reach(total, every)
    coarse = _runs(0, (whole - 1) // every + 1, size, overlap, spacing=every)
    return _known([*coarse, *_between(whole, size, every)], given)


def interpolation(count: int, size: int, factor: int) -> list[Window]:
    """`factor` times the frames a second: of `count` given frames factor (count - 1) + 1.

    Frame i of those given is frame i * factor. A window begins and ends with a given frame where
    its size allows.
    """
    whole = factor * (count - 1) + 1
    return _known(_between(whole, size, factor), range(0, whole, factor))


def reach(total: int, every: int) -> int:
    """Frames from 0 to the first keyframe at or after the last of `total`."""
    return -(-(total - 1) // every) * every + 1


def check_overlap(size: int, overlap: int) -> None:
    if not 0 < overlap < size:
        raise Refusal(f"windows of {size} frames know from 1 to {size - 1} of them, got {overlap}")


def _between(whole: int, size: int, every: int) -> list[tuple[int, ...]]:
    """Windows that fill frames between known ones `every` apart, as many gaps in each as it has
    room for."""
    if every < 2:
        raise Refusal(f"there is nothing between frames {every} apart; 2 is the least")
    gaps = (size - 1) // every
    if gaps < 1:
        raise Refusal(f"a window of {size} frames has no room for known frames {every} apart")
    return _runs(0, whole, size, size - gaps * every, spacing=1)


def _runs(
    first: int, count: int, size: int, overlap: int, *, spacing: int
) -> list[tuple[int, ...]]:
    """Windows over `count` frames that lie `spacing` apart, or over `size` if there are fewer."""
    begins = [*range(0, count - size, size - overlap), max(count - size, 0)]
    return [tuple(first + spacing * (b + i) for i in range(size)) for b in begins]


def _known(runs: Sequence[tuple[int, ...]], given: Iterable[int]) -> list[Window]:
    """The runs as windows; those that would add nothing are left out."""
    there = set(given)
    windows = []
    for frames in runs:
        window = Window(frames, tuple(frame in there for frame in frames))
        there |= set(frames)
        if window.drawn:
            windows.append(window)
    return windows
