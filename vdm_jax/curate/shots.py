"""From a span of a video to clips: cuts, dissolves and fades, and no clip longer than wanted.

Hard cuts are PySceneDetect's: changes that stand out from those of the frames around them, as
neither fast motion nor a flash does. What changes slowly is looked for at several frame rates at
once, as in Stable Video Diffusion's cascade: two frames a quarter of a second, half a second, one
and two seconds apart that show different things, and between them nothing but a blend of the two.
A moving camera or thing is none: on the way it shows what neither end does.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, UInt8

from vdm_jax.core.opencv import grey, opencv, shrunk
from vdm_jax.core.refusal import Refusal
from vdm_jax.curate.stage import Clip, Span
from vdm_jax.data.shots import INSTALL

SHORT, BLEND = "short", "fade"
THUMB = (40, 24)  # width, height: small enough for little motion to vanish
SIDE = 96  # shorter side of the pictures that are looked at
CUT = 27.0  # mean change of hue, saturation and brightness at a hard cut
STANDS_OUT = 2.0  # times the mean of the frames around it
LATE = 2  # frames to each side that count as around it
DIFFERENT = 8.0  # root mean square, of 255, from which two ends are not the same picture
ALIKE = 0.5  # correlation of two ends that show the same thing
PLAIN = 4.0  # deviation, of 255, of a picture that shows nothing: the end of a fade
MORE = 1.1  # contrast half-way, in that of a blend of both ends
GROWTH = 1.02  # of the deviation from frame to frame, in a fade
STRANGE = 0.42  # share of the change that a blend of both ends may leave unexplained
LARGEST = 200_000_000  # bytes of a clip
EDGE = 0.04  # of the blend; what lies outside is a frame of one end


@dataclass(frozen=True, kw_only=True)
class Shots:
    """Where clips begin and end.

    shortest: frames; a shorter clip is rejected. longest: seconds; a longer shot becomes several
    clips, as does one of over 200 MB of pixels. seconds: between the two ends that slow changes are
    looked for with.
    """

    shortest: int = 16
    longest: float = 20.0
    seconds: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5, 2.0)

    def __post_init__(self) -> None:
        if self.shortest < 1 or self.longest <= 0 or min(self.seconds, default=1) <= 0:
            raise Refusal(f"shortest, longest and seconds must be above 0, got {self}")

    def clips(self, span: Span, frames: Iterable[UInt8[np.ndarray, "h w 3"]]) -> Iterator[Clip]:
        """The clips of a span, and what lies between them, rejected; every frame is in one.

        Holds one of them, and two seconds, in memory.
        """
        held: list[_Waiting] = []
        most = self.most(span)
        for each in self._judged(span, frames):
            if held and (each.cut or each.gone != held[0].gone or len(held) == most):
                yield self._clip(span, held)
                held = []
            held.append(each)
        if held:
            yield self._clip(span, held)

    def most(self, span: Span) -> int:
        """Frames of the longest clip."""
        fit = LARGEST // max(1, span.height * span.width * 3)
        return max(self.shortest, min(round(self.longest * span.fps), fit))

    def _clip(self, span: Span, held: Sequence["_Waiting"]) -> Clip:
        why = BLEND if held[0].gone else SHORT if len(held) < self.shortest else ""
        frames = np.stack([each.frame for each in held])
        return Clip(file=span.file, start=held[0].number, fps=span.fps, frames=frames, rejected=why)

    def _judged(
        self, span: Span, frames: Iterable[UInt8[np.ndarray, "h w 3"]]
    ) -> Iterator["_Waiting"]:
        """Every frame, once all that decides about it was seen."""
        widths = np.unique([max(4, round(s * span.fps)) for s in self.seconds]).astype(int)
        longest = max(widths.tolist(), default=LATE)
        waits: deque[_Waiting] = deque()
        thumbs = np.zeros((longest + 1, THUMB[0] * THUMB[1]), np.float32)
        hard, rising, before = _HardCuts(span.fps), False, None
        for number, frame in enumerate(frames, span.start):
            small = shrunk(frame, SIDE)
            thumbs[:-1] = thumbs[1:]
            thumbs[-1] = _thumb(small)
            now = _Waiting(number, frame, float(thumbs[-1].std()))
            now.gone = now.contrast < PLAIN
            waits.append(now)
            if hard.seen(small):
                waits[-1 - LATE].cut = True
            if now.gone:
                _falling(waits)
            elif before is not None:
                rising = (rising or before.contrast < PLAIN) and now.grew(before)
                now.gone = rising
            for width in widths[unlike(thumbs[-1 - widths], thumbs[-1])].tolist():
                window = list(waits)[-width - 1 :]
                if width < len(waits) and not any(each.cut or each.gone for each in window[1:]):
                    for index in blended(thumbs[-width - 1 :]).nonzero()[0].tolist():
                        window[index].gone = True
            before = now
            if len(waits) > longest:
                yield waits.popleft()
        yield from waits


class _HardCuts:
    """Raises Refusal if PySceneDetect is not installed."""

    def __init__(self, fps: float):
        try:
            from scenedetect import FrameTimecode
            from scenedetect.detectors import AdaptiveDetector
        except ImportError as error:
            raise Refusal(f"finding shots needs PySceneDetect: {INSTALL} ({error})") from error
        self._at = lambda number: FrameTimecode(number, float(fps))
        self._detector = AdaptiveDetector(
            STANDS_OUT, min_scene_len=0, window_width=LATE, min_content_val=CUT
        )
        self._number = 0

    def seen(self, frame: UInt8[np.ndarray, "h w 3"]) -> bool:
        """Whether a cut lies before the frame that came LATE frames before this one."""
        bgr = opencv().cvtColor(frame, opencv().COLOR_RGB2BGR)
        found = self._detector.process_frame(self._at(self._number), bgr)
        self._number += 1
        return bool(found)


@dataclass
class _Waiting:
    """A frame of which it is not yet known whether it belongs to a shot.

    contrast: deviation of its pixels. cut: one lies before it. gone: it blends two shots, or shows
    nothing.
    """

    number: int
    frame: UInt8[np.ndarray, "h w 3"]
    contrast: float
    cut: bool = False
    gone: bool = False

    def grew(self, other: "_Waiting") -> bool:
        return self.contrast > GROWTH * other.contrast


def _falling(waits: Sequence[_Waiting]) -> None:
    """Of frames that end in one that shows nothing: those that faded to it are gone as well."""
    for later, earlier in pairwise(reversed(waits)):
        if not (earlier.gone or earlier.grew(later)):
            return
        earlier.gone = True


def _thumb(frame: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, " d"]:
    cv2 = opencv()
    small = cv2.resize(grey(frame), THUMB, interpolation=cv2.INTER_AREA)
    return small.reshape(-1).astype(np.float32)


def blended(thumbs: Float[np.ndarray, "n d"]) -> Bool[np.ndarray, " n"]:
    """Which of these tiny pictures are a blend of the first and the last; none where they are not.

    first + share (last - first), with a share that grows from 0 to 1, is what a dissolve shows, but
    for what moves in it; and half-way it has no more contrast than that, which is less than that of
    either end where they are unlike: what a moving camera shows on the way has as much as they.
    """
    none = np.zeros(len(thumbs), bool)
    first, middle, last = thumbs[0], thumbs[len(thumbs) // 2], thumbs[-1]
    change = last - first
    length = float(change @ change)
    if not unlike(thumbs[:1], last)[0]:
        return none
    share = float((middle - first) @ change) / length
    expected = float(((1 - share) * first + share * last).std())
    if not 0.1 < share < 0.9 or float(middle.std()) > MORE * expected:
        return none
    shares = (thumbs - first) @ change / length
    left = thumbs - first - shares[:, None] * change
    strange = np.sqrt((left**2).sum(1) / ((change - change.mean()) ** 2).sum())
    if strange.max() > STRANGE or (np.diff(shares) < -0.1).any():
        return none
    return (shares > EDGE) & (shares < 1 - EDGE)


def unlike(
    thumbs: Float[np.ndarray, "n d"], last: Float[np.ndarray, " d"]
) -> Bool[np.ndarray, " n"]:
    """Which of them show something else than the last: else there is no transition to it."""
    changes = ((thumbs - last) ** 2).mean(1)
    spread, end = thumbs - thumbs.mean(1, keepdims=True), last - last.mean()
    alike = spread @ end > ALIKE * np.sqrt((spread**2).sum(1) * (end @ end))
    return (changes >= DIFFERENT**2) & ~alike
