"""Protocols: which clips are taken, how many, at which size, and what is measured of them.

A number of the field means little without these; each of `PROTOCOLS` says whose they are. All of a
protocol's settings can be changed at the shell, and what was changed is told beside the numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.clips import Windowed

Taking = Literal["windows", "videos"]
Scaling = Literal["bicubic", "bilinear"]
TAKING: Mapping[Taking, str] = {
    "windows": "any window of any video",
    "videos": "one window of each video, at a random place",
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a number is made. None leaves a setting to what is evaluated."""

    taking: Taking = "windows"
    """Of real videos: any window of any video, or one of each video at a random place, so that
    long ones do not count more."""
    num_clips: int | None = None
    """Clips on each side; None takes all that there are."""
    repeats: int = 1
    """Times that a model draws them, each with another seed; the scores' mean and deviation."""
    num_frames: int | None = None
    """Frames of a clip; None is the model's, or 16."""
    every: int = 1
    """Every n-th frame of a real video is taken."""
    step: int | None = None
    """Frames of a real video from one window to the next; None lays them end to end."""
    fps: float | None = None
    """Rate that real videos are resampled to first; None keeps theirs."""
    height: int | None = None
    """Height that all clips are brought to before they are measured; None is the model's, or that
    of the generated clips."""
    width: int | None = None
    """Width, likewise."""
    scaling: Scaling = "bicubic"
    """How clips are scaled to that size, always with antialiasing."""
    metrics: tuple[str, ...] = ("fvd", "kvd")
    """What is measured, of: fvd, kvd, cd_fvd, cd_kvd, fid, is, psnr, ssim, lpips, clip, frame_clip,
    flicker, motion, warping."""
    seed: int = 0
    """Of what is left to chance: which clips are taken, and what a model draws."""

    def __post_init__(self) -> None:
        for name in ("num_clips", "repeats", "num_frames", "every", "step", "height", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise Refusal(f"{name} must be at least 1, got {value}")
        if (self.height is None) != (self.width is None):
            raise Refusal("height and width go together")
        if not 0 <= self.seed < 2**32 - self.repeats:
            raise Refusal(f"seed must lie in [0, 2^32), got {self.seed}")
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise Refusal(f"metrics must name something, each once, got {self.metrics}")

    @property
    def resampling(self) -> Image.Resampling:
        return Image.Resampling[self.scaling.upper()]

    @property
    def size(self) -> tuple[int, int] | None:
        return None if self.height is None or self.width is None else (self.height, self.width)

    def recipe(self, rates: Sequence[float]) -> dict[str, str]:
        """What the numbers depend on, for people. rates: frames a second of the real clips."""
        low, high = min(rates), max(rates)
        rate = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        told = {
            "frames": f"{self.num_frames}, {rate} a second",
            "size": "as they are" if self.size is None else f"{self.width}x{self.height}",
        }
        if self.every > 1:
            told["of their frames"] = f"one in {self.every}"
        if self.step is not None and self.taking == "windows":
            told["windows"] = f"{self.step} frames apart"
        return {**told, "seed": str(self.seed)}


PLAIN = Protocol()
STYLEGAN_V = Protocol(taking="videos", num_clips=2048, num_frames=16, step=1)
"""StyleGAN-V (Skorokhodov et al. 2022, arXiv:2112.14683), section 4: FVD_16 of 2048 clips, where a
real video gives one clip at a random place however long it is."""
LVDM = Protocol(taking="videos", num_clips=2048, num_frames=16, step=1, repeats=10)
"""LVDM (He et al. 2022, arXiv:2211.13221), section 4.1: FVD and KVD of 2048 clips of 16 frames,
ten runs, mean and deviation."""
SVD_ZEROSHOT = Protocol(
    taking="videos", num_clips=13_320, num_frames=16, step=1, fps=25.0, height=240, width=320,
    scaling="bilinear", metrics=("fvd",),
)  # fmt: skip
"""Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127), appendix E: UCF-101, zero-shot.
A clip for each of the 13,320 videos, from the bare name of its class; guidance 7 (--draw.
guidance-scale 7), drawn at 320x576, scaled with antialiasing and cropped to 240x320."""

PROTOCOLS: Mapping[str, Protocol] = {
    "plain": PLAIN,
    "stylegan-v-2048x16": STYLEGAN_V,
    "lvdm-2048x10": LVDM,
    "svd-zeroshot": SVD_ZEROSHOT,
}


def named(name: str) -> Protocol:
    """Raises Refusal for a name that no protocol has."""
    if name not in PROTOCOLS:
        raise Refusal(f"--protocol {name}: there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def changes(of: Protocol, to: Protocol) -> list[str]:
    """The settings in which a protocol was changed, a line for each."""
    return [
        f"{field.name} {_told(getattr(to, field.name))}, not {_told(getattr(of, field.name))}"
        for field in fields(Protocol)
        if getattr(of, field.name) != getattr(to, field.name)
    ]


def _told(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else "open" if value is None else str(value)


class Sides(NamedTuple):
    """Windows of a source in random order, in two halves that share no video."""

    one: Sequence[int]
    other: Sequence[int]


def sides(source: Windowed, protocol: Protocol) -> Sides:
    """The windows that a protocol may take. Real clips beside real ones need the halves: windows
    of one video are alike."""
    rng = np.random.default_rng(protocol.seed)
    ends = np.cumsum(source.per_clip)
    halves: tuple[list[int], list[int]] = ([], [])
    for video in rng.permutation(len(ends)).tolist():
        windows = range(int(ends[video]) - source.per_clip[video], int(ends[video]))
        if protocol.taking == "videos" and windows:
            first = int(rng.integers(windows.start, windows.stop))
            windows = range(first, first + 1)
        min(halves, key=len).extend(windows)
    return Sides(*(rng.permutation(half).tolist() for half in halves))
