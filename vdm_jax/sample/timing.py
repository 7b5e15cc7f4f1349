"""When a walk is where: evenly in time, or with the beats of a sound.

A walk passes through points 0, 1, …, each at its own time. A timing says its place at other times:
2.25 is a quarter of the way from point 2 to point 3.

Beats: drums are short in time and wide in pitch, tones the reverse. Median filters along either
axis of a spectrogram tell the two apart (FitzGerald 2010, "Harmonic/percussive separation using
median filtering"; the margin is that of Driedger et al. 2014), and the walk goes on as the energy
of the percussive part adds up.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy import ndimage, signal

from vdm_jax.core import sound
from vdm_jax.core.refusal import Refusal

RATE = sound.RATE // 2  # samples a second that are looked at: beats are heard below 11 kHz
WINDOW, HOP = 2048, 512
MELS = 32
MEDIAN = 31  # windows, or bands of pitch
TOLERANCE = 0.1  # seconds that the sound may end before the walk
CONTEXT = 1.0  # seconds of sound heard before and after the walk
REST = 3e-6  # of the energy of the whole sound, that any window counts at least
SILENCE = 1e-12  # energy that a window counts without any sound: 120 dB below the loudest sine

Times = Float[np.ndarray, " n"]
Points = Float[np.ndarray, " k"]


@runtime_checkable
class Timing(Protocol):
    """Where a walk is at some times, between its points."""

    def __call__(self, points: Points, times: Times) -> Times:
        """Places in 0 … k - 1 at `times` of a walk that is at its k points at the times `points`.

        Rises with the times, and is whole at those of the points. Times in seconds, ascending.
        """
        ...


@dataclass(frozen=True)
class Even:
    """From each point to the next at one pace."""

    def __call__(self, points: Points, times: Times) -> Times:
        return np.interp(times, points, np.arange(len(points)))


@dataclass(frozen=True, kw_only=True)
class Beats:
    """With the beats: fast where drums are loud, slowly where they rest.

    Where nothing is percussive, in silence or while a tone lasts, the walk is even.

    path: a file of sound, or a video. offset: where in it the walk begins, in seconds. margin: how
    many times louder than the tones a percussive sound must be. smooth: share of the way that is
    walked evenly whatever is heard; 0 nearly stands still between two beats.
    """

    path: str
    offset: float | int = 0.0
    margin: float | int = 1.0
    smooth: float | int = 0.0

    def __post_init__(self) -> None:
        if not self.offset >= 0 or not 0 <= self.smooth <= 1 or not self.margin > 0:
            raise Refusal(
                f"the offset must be at least 0, smooth in [0, 1] and the margin above 0, got "
                f"{self.offset}, {self.smooth} and {self.margin}"
            )

    def __call__(self, points: Points, times: Times) -> Times:
        """Raises Refusal where the sound cannot be read, or ends before the last point."""
        seconds, energy = self._heard(float(points[-1] - points[0]))
        passed = np.interp(times - points[0], seconds, energy)
        at = np.interp(points - points[0], seconds, energy)
        section = np.clip(np.searchsorted(points, times, side="right") - 1, 0, len(points) - 2)
        share = (passed - at[section]) / (at[section + 1] - at[section])
        beaten = section + np.clip(share, 0, 1)
        return (1 - self.smooth) * beaten + self.smooth * Even()(points, times)

    def _heard(self, length: float) -> tuple[Times, Times]:
        """Times from the beginning of the walk, and the energy of all beats up to each."""
        before = min(CONTEXT, self.offset)
        wanted = before + length + CONTEXT
        heard = sound.read(self.path, start=self.offset - before, seconds=wanted).mono
        missing = before + length - len(heard) / sound.RATE
        if missing > TOLERANCE:
            raise Refusal(
                f"{self.path}: ends {missing:.1f} s before the walk, which lasts {length:.1f} s "
                f"from {self.offset:g} s of it"
            )
        energy = beats(signal.resample_poly(heard, 1, 2), margin=self.margin)
        ahead = WINDOW // 2 // HOP  # what is heard in whole windows only is taken to be as there
        behind = max(0, math.ceil(wanted * RATE / HOP) + 1 - len(energy))
        energy = np.pad(energy.astype(np.float64), (ahead, behind), mode="edge")
        edges = (np.arange(len(energy) + 1) - 0.5) * HOP / RATE  # a window is heard at its middle
        return edges - before, np.concatenate([[0.0], np.cumsum(energy)])


def beats(
    samples: Float[np.ndarray, " n"], *, margin: float | int = 1.0
) -> Float[np.ndarray, " m"]:
    """The energy of the percussive part of each window, HOP apart: that of its loudest mel band.

    samples: `RATE` a second. A little is added, so that the energy is positive and, without
    anything percussive, even.
    """
    spectrum = spectrogram(samples)
    tones = ndimage.median_filter(spectrum, size=(MEDIAN, 1), mode="reflect") * margin
    drums = ndimage.median_filter(spectrum, size=(1, MEDIAN), mode="reflect")
    both = tones**2 + drums**2
    mask = drums**2 / np.where(both > 0, both, 1)
    bands = mel_bands()
    struck = ((mask * spectrum) ** 2 @ bands).max(axis=1)
    whole = (spectrum**2 @ bands).max(axis=1)
    return struck + REST * whole.mean() + SILENCE


def spectrogram(samples: Float[np.ndarray, " n"]) -> Float[np.ndarray, "m bands"]:
    """Magnitudes of whole windows, HOP apart; a full-scale sine gives 1."""
    samples = np.pad(samples, (0, max(0, WINDOW - len(samples))))
    window = signal.get_window("hann", WINDOW).astype(np.float32)
    pieces = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float32), WINDOW)[::HOP]
    return np.abs(np.fft.rfft(pieces * (2 * window / window.sum()), axis=1)).astype(np.float32)


def mel_bands() -> Float[np.ndarray, "pitch mels"]:
    """Triangles evenly spaced in mels (O'Shaughnessy's), of equal area."""
    pitch = np.fft.rfftfreq(WINDOW, 1 / RATE)
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, MELS + 2) / 2595) - 1)
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    rising = (pitch[:, None] - low) / (middle - low)
    falling = (high - pitch[:, None]) / (high - middle)
    triangles = np.clip(np.minimum(rising, falling), 0, None)
    return (triangles / np.maximum(triangles.sum(axis=0), 1)).astype(np.float32)
