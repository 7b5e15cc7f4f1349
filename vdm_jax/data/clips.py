"""Clips in any storage, and the samples that are cut from them.

A storage knows what its clips are and reads frames of one; windows, rates, sizes, crops and
identity exist once, here.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.source import Sample
from vdm_jax.data.transform import (
    MIDDLE,
    TRANSFORM_VERSION,
    CentreCrop,
    Crop,
    Place,
    Windows,
    check_fps,
    check_size,
    cover,
    framing,
    resampled,
    shown,
)

BICUBIC = Image.Resampling.BICUBIC
FIELDS = {"video", "latents", "caption", "text_embedding", "fps", "key", "framing", "picture",
          "pictures"}  # fmt: skip
"""What samples have of their own; `ClipInfo.told` has other names."""


@dataclass(frozen=True, kw_only=True)
class ClipInfo:
    """What is known of a clip without reading it; height and width are those of its frames.

    told: further numbers that samples of it carry, such as motion_bucket_id; every clip of a
    storage has the same ones.
    """

    key: str
    caption: str
    fps: float
    frames: int
    height: int
    width: int
    told: Mapping[str, float] = field(default_factory=dict)

    def said(self, chance: Callable[[], float]) -> str:
        """The caption of a sample. chance: a number in [0, 1) for a choice of captions, if there
        is one; not asked where there is none."""
        return self.caption


@runtime_checkable
class Clips(Protocol):
    """Clips in some storage, by index; `str` says where they lie.

    fingerprint: a stable hash of what they are. credit: whom to name beside them. `read` gives
    the frames `numbers` of a clip; it raises Refusal naming what is damaged.
    """

    @property
    def infos(self) -> Sequence[ClipInfo]: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def credit(self) -> str: ...

    def read(self, index: int, numbers: range, /) -> UInt8[np.ndarray, "t h w 3"]: ...


@runtime_checkable
class OpensClips(Protocol):
    """A config part that opens a storage."""

    def build(self) -> Clips: ...


def digest(identity: Any) -> str:
    """A fingerprint of what JSON can say."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def opened(part: OpensClips) -> Clips:
    """The storage of a config part. Raises Refusal for a part that opens samples."""
    clips = part.build()
    if not isinstance(clips, Clips):
        raise Refusal(
            f"clips: {type(part).__name__} opens samples; give what opens clips, such as "
            "ShardFolder or Folder"
        )
    return clips


class Chosen:
    """Some clips of a storage, in the order given."""

    def __init__(self, clips: Clips, indices: Sequence[int]):
        self._clips, self._indices = clips, tuple(indices)
        self.infos = [clips.infos[i] for i in self._indices]
        self.fingerprint = digest([clips.fingerprint, self._indices])
        self.credit = clips.credit

    def __str__(self) -> str:
        return str(self._clips)

    def read(self, index: int, numbers: range) -> UInt8[np.ndarray, "t h w 3"]:
        return self._clips.read(self._indices[index], numbers)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The config part of a `Windowed` source over clips of any storage.

    fps: the rate that clips are resampled to before windows are cut; None keeps each clip's own.
    rates: every n-th frame is taken, n drawn of these whenever a sample is trained on, none above
    windows.every; () always takes windows.every.
    """

    clips: OpensClips
    windows: Windows
    height: int
    width: int
    fps: float | None = None
    rates: tuple[int, ...] = ()
    crop: Crop = CentreCrop()

    def __post_init__(self) -> None:
        check_fps(self.fps)
        check_size(self.height, self.width)

    def build(self) -> "Windowed":
        size = self.height, self.width
        return Windowed(
            opened(self.clips), self.windows, size, fps=self.fps, rates=self.rates, crop=self.crop
        )


class Windowed:
    """Source over windows of clips, in order of the clips; those too short are passed over.

    size: (height, width) that samples are scaled and cropped to. fps, rates, crop: as in
    `Samples`. `source[i]` is always the same: windows.every, cropped in the middle, of several
    captions the one that its key falls on. `draw` takes a rate, a place and a caption, and where a
    lower rate needs less of the window, a part of it.

    A sample also has "framing", what was cropped (`transform.framing`), and what its clip is told.
    Its key is "clip:first frame".
    """

    def __init__(
        self,
        clips: Clips,
        windows: Windows,
        size: tuple[int, int],
        *,
        fps: float | int | None = None,
        rates: tuple[int, ...] = (),
        crop: Crop | None = None,
        resampling: Image.Resampling = BICUBIC,
    ):
        """Raises Refusal if no clip is long enough, or for a rate above windows.every."""
        if wrong := [rate for rate in rates if not 1 <= rate <= windows.every]:
            raise Refusal(f"rates must lie in 1 … windows.every = {windows.every}, got {wrong[0]}")
        check_fps(fps)
        check_size(*size)
        self._clips, self.windows, self._size = clips, windows, size
        self.fps, self._rates, self._crop = fps, rates, crop or CentreCrop()
        self._resampling = resampling
        # windows of clips 0 … i together, so that a sample's clip is found by bisection
        self._ends = np.cumsum([windows.count(length(i, fps)) for i in clips.infos], dtype=int)
        if len(self) == 0:
            raise Refusal(f"{clips}: no clip has {windows.span} frames")

    def __str__(self) -> str:
        return str(self._clips)

    @property
    def per_clip(self) -> Sequence[int]:
        """Windows of each clip of the storage."""
        return np.diff(self._ends, prepend=0).tolist()

    @property
    def credit(self) -> str:
        """Whom to name wherever these frames are shown."""
        return self._clips.credit

    @property
    def fingerprint(self) -> str:
        return digest(
            {
                "transform": TRANSFORM_VERSION,
                "clips": self._clips.fingerprint,
                "windows": asdict(self.windows),
                "size": self._size,
                "fps": self.fps,
                "rates": self._rates,
                "crop": type(self._crop).__name__,
                **({} if self._resampling == BICUBIC else {"filter": self._resampling.name}),
            }
        )

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Sample:
        return self._sample(*self._place(index), MIDDLE, lambda: _hashed(self.key(index)))

    def draw(self, index: int, rng: np.random.Generator) -> Sample:
        """A sample of window `index`, with what is left to chance drawn from `rng`."""
        clip, numbers = self._place(index)
        if self._rates:
            rate = self._rates[int(rng.integers(len(self._rates)))]
            span = (len(numbers) - 1) * rate + 1
            start = numbers[0] + int(rng.integers(self.windows.span - span + 1))
            numbers = range(start, start + span, rate)
        return self._sample(clip, numbers, self._crop.at(rng), rng.random)

    def key(self, index: int) -> str:
        """The key of a sample that is not read."""
        clip, numbers = self._place(index)
        return f"{self._clips.infos[clip].key}:{numbers[0]}"

    def sized(
        self,
        size: tuple[int, int],
        resampling: Image.Resampling = BICUBIC,
    ) -> "Windowed":
        """The same samples at another size (height, width), scaled otherwise."""
        return Windowed(
            self._clips, self.windows, size, fps=self.fps, rates=self._rates, crop=self._crop,
            resampling=resampling,
        )  # fmt: skip

    def about(self, index: int) -> "About":
        """What is known of a sample that is not read."""
        clip, numbers = self._place(index)
        info = self._clips.infos[clip]
        key = f"{info.key}:{numbers[0]}"
        fps = (self.fps or info.fps) / numbers.step
        return About(key, info.said(lambda: _hashed(key)), float(fps))

    def _place(self, index: int) -> tuple[int, range]:
        """The clip of a sample, and which of its frames."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        clip = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[clip - 1]) if clip else 0
        return clip, self.windows.indices(index - before)

    def _sample(self, clip: int, numbers: range, at: Place, chance: Callable[[], float]) -> Sample:
        info = self._clips.infos[clip]
        frames = self._read(clip, info, numbers)
        return {
            "video": cover(frames, self._size, at, self._resampling),
            "caption": info.said(chance),
            "fps": np.float32((self.fps or info.fps) / numbers.step),
            "key": f"{info.key}:{numbers[0]}",
            "framing": framing(frames.shape[1:3], self._size, at),
            **{name: np.float32(value) for name, value in info.told.items()},
        }

    def _read(self, clip: int, info: ClipInfo, numbers: range) -> UInt8[np.ndarray, "t h w 3"]:
        wanted: Sequence[int] = numbers
        if self.fps is not None:
            last = info.frames - 1
            wanted = [min(shown(n, info.fps, self.fps), last) for n in numbers]
        spread = _spread(wanted)
        frames = self._clips.read(clip, spread)
        if len(frames) != len(spread):
            raise Refusal(f"{info.key}: ends before frame {spread[-1]}; it is not what it was")
        return frames if len(spread) == len(wanted) else frames[np.subtract(wanted, wanted[0])]


class About(NamedTuple):
    """Of one sample. fps: of its frames."""

    key: str
    caption: str
    fps: float


def length(info: ClipInfo, fps: float | int | None) -> int:
    """Frames of a clip at a rate; None is its own."""
    return info.frames if fps is None else resampled(info.frames, info.fps, fps)


def _hashed(key: str) -> float:
    """A number in [0, 1) that is always the same for a key, and even over all keys."""
    digits = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:6]
    return int.from_bytes(digits) / 2**48


def _spread(numbers: Sequence[int]) -> range:
    """The frames `numbers` as a range; where their distances differ, all from first to last."""
    if isinstance(numbers, range):
        return numbers
    steps = set(np.diff(numbers).tolist())
    step = steps.pop() if len(steps) == 1 and min(steps) > 0 else 1
    return range(numbers[0], numbers[-1] + 1, step)
