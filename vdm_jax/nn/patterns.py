"""Patterns of attention over a clip: who looks at whom, as parts of a network's config.

A pattern has no parameters and changes none: weights that were trained with one run with another.
Self-attention over time takes a `TimePattern`, that over the pixels of frames a `SpacePattern`.

| pattern | a position looks at | source |
|---|---|---|
| AllFrames | its own place in every frame | Ho et al. 2022 (arXiv:2204.03458) |
| Sliding | its own place in windows of frames | Qiu et al. 2024 (arXiv:2310.15169) |
| OwnFrame | every pixel of its frame | Ho et al. 2022 |
| Full | every pixel of every frame, as of one big picture | Zhang et al. 2023 (arXiv:2305.13077) |
| SparseCausal | the first frame and the one before | Wu et al. 2023 (arXiv:2212.11565) |
| Ends | the first frame and the last | Zhang et al. 2023 |

Pictures beside a video (`image_only`) look only at themselves in all of them, and nobody looks at
a picture: "first", "before" and "last" count the frames of the video alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from vdm_jax.core.refusal import Refusal

Layer = Callable[..., Array]
Pixels = Float[Array, "b t p c"]


@runtime_checkable
class TimePattern(Protocol):
    """Calls a layer on the sequences of frames that each pixel's frames are taken apart into.

    sequences: arrays "b r ... s c" of r sequences of s frames. What all r share has r = 1; what is
        the same in all frames has s = 1, and passes whole.
    mask: True where a frame may look, or None: everywhere.
    layer: (sequences "b r*g ... s' c", mask "b #r*g s' s'" or None) -> "b r*g ... s' c". The g
        windows of one sequence follow each other; a frame's position is that in its window.
    """

    def span(self, num_frames: int) -> int:
        """s', frames of one sequence that the layer sees."""
        ...

    def windows(self, num_frames: int) -> int:
        """g, how many sequences one of num_frames becomes."""
        ...

    def __call__(
        self, layer: Layer, sequences: PyTree[Array], mask: Bool[Array, "b s s"] | None
    ) -> Float[Array, "b r *n s c"]: ...


@runtime_checkable
class SpacePattern(Protocol):
    """Calls a layer on the pixels of frames, with those that they look at.

    layer: (x "b r s c", seen "b r k c" or None: x itself, mask "b s s" or None) -> "b r s c".
    """

    def __call__(
        self, layer: Layer, x: Pixels, image_only: Bool[Array, "b t"] | None
    ) -> Pixels: ...


def check_patterns(time: Any, space: Any) -> None:
    """Refuse a pattern of pixels for time, and one of frames for space."""
    if not isinstance(time, TimePattern):
        raise Refusal(f"over time attention goes by AllFrames or Sliding, got {time}")
    if isinstance(space, TimePattern) or not isinstance(space, SpacePattern):
        raise Refusal(
            f"over space attention goes by OwnFrame, Full, SparseCausal or Ends, got {space}"
        )


def joint_mask(image_only: Bool[Array, "b t"]) -> Bool[Array, "b t t"]:
    """Who may look at whom in time: video frames at each other, a picture only at itself.

    Block-diagonal: the video's block, then one identity entry per picture (Ho et al. 2022,
    section 3.1).
    """
    video = ~image_only
    alone = jnp.eye(image_only.shape[1], dtype=bool)[None]
    return (video[:, :, None] & video[:, None, :]) | alone


# ---- Over time -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class AllFrames:
    """All frames at once: the cost is quadratic in them."""

    def span(self, num_frames: int) -> int:
        return num_frames

    def windows(self, num_frames: int) -> int:
        del num_frames
        return 1

    def __call__(
        self, layer: Layer, sequences: PyTree[Array], mask: Bool[Array, "b s s"] | None
    ) -> Float[Array, "b r *n s c"]:
        return layer(sequences, None if mask is None else mask[:, None])


ALL_FRAMES = AllFrames()


@dataclass(frozen=True)
class Sliding:
    """Windows of `size` frames, a new one every `stride`; for videos longer than those trained on.

    A frame receives the mean of what its windows give it, each weighted by how far the frame is
    from the window's nearer end: 1, 2, ... size / 2, size / 2, ... 2, 1 (FreeNoise, section 3.3).
    The last window ends with the video, wherever that is: no frame is left out. The cost is linear
    in frames; a video of `size` frames or fewer is one window, as in `AllFrames`.
    """

    size: int = 16
    stride: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.size:
            raise Refusal(
                f"a window of {self.size} frames every {self.stride} leaves frames out; the stride "
                "must be from 1 to the size"
            )

    def span(self, num_frames: int) -> int:
        return min(self.size, num_frames)

    def windows(self, num_frames: int) -> int:
        return len(self._frames(num_frames))

    def __call__(
        self, layer: Layer, sequences: PyTree[Array], mask: Bool[Array, "b s s"] | None
    ) -> Float[Array, "b r *n s c"]:
        shapes = ((*leaf.shape[:2], leaf.shape[-2]) for leaf in jax.tree.leaves(sequences))
        b, r, s = (max(sizes) for sizes in zip(*shapes, strict=True))
        if s <= self.size:
            return ALL_FRAMES(layer, sequences, mask)
        frames = self._frames(s)
        if mask is not None:
            within = mask[:, frames[:, :, None], frames[:, None, :]]
            mask = jnp.tile(within, (1, r, 1, 1))
        given = layer(jax.tree.map(lambda leaf: _cut(leaf, frames), sequences), mask)
        given = given.reshape(b, r, len(frames), *given.shape[2:])
        return _means(given, *self._shares(frames))

    def _frames(self, num_frames: int) -> Int[np.ndarray, "g {self.span(num_frames)}"]:
        """The frames of each window."""
        span = self.span(num_frames)
        last = num_frames - span
        starts = sorted({*range(0, last + 1, self.stride), last})
        return np.array(starts)[:, None] + np.arange(span)

    def _shares(
        self, frames: Int[np.ndarray, "g w"]
    ) -> tuple[Int[np.ndarray, "m s"], Float[np.ndarray, "m s"]]:
        """For each frame the m places in the windows, one after the other, that it is in, and
        their weights; a frame of fewer windows has places of weight 0."""
        position = np.arange(self.size)
        triangle = np.minimum(position + 1, self.size - position)
        order = np.argsort(frames, axis=None, kind="stable")
        of_frame = frames.ravel()[order]
        nth = np.arange(frames.size) - np.searchsorted(of_frame, of_frame)
        place = np.zeros((nth.max() + 1, of_frame[-1] + 1), np.int32)
        weight = np.zeros(place.shape, np.float32)
        place[nth, of_frame] = order
        weight[nth, of_frame] = triangle[order % self.size]
        return place, weight / weight.sum(0)


def _cut(leaf: Array, frames: Int[np.ndarray, "g w"]) -> Array:
    """The windows of sequences "b r ... s c": "b r*g ... w c"."""
    if leaf.shape[-2] == 1:
        return leaf
    b, r, *_ = leaf.shape
    windows = jnp.moveaxis(leaf[..., frames, :], -3, 2)
    return windows.reshape(b, r * len(frames), *windows.shape[3:])


def _means(
    given: Float[Array, "b r g *n w c"],
    place: Int[np.ndarray, "m s"],
    weight: Float[np.ndarray, "m s"],
) -> Float[Array, "b r *n s c"]:
    """The m places of each frame, summed by their weights; float32 in between."""
    given = jnp.moveaxis(given, 2, -3)
    given = given.reshape(*given.shape[:-3], -1, given.shape[-1])
    weight = weight.reshape(len(weight), *(1,) * (given.ndim - 2), -1, 1)
    parts = zip(place, weight, strict=True)
    total = sum(share * given[..., at, :].astype(jnp.float32) for at, share in parts)
    return jnp.asarray(total, given.dtype)


# ---- Over space ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnFrame:
    """Each frame by itself."""

    def __call__(self, layer: Layer, x: Pixels, image_only: Bool[Array, "b t"] | None) -> Pixels:
        del image_only
        return layer(x, None, None)


OWN_FRAME = OwnFrame()


@dataclass(frozen=True)
class Full:
    """The pixels of all frames as of one big picture; of one frame, as `OwnFrame`.

    The cost is quadratic in frames. With `image_only` there is a mask of as many bits as scores.
    """

    def __call__(self, layer: Layer, x: Pixels, image_only: Bool[Array, "b t"] | None) -> Pixels:
        b, t, p, c = x.shape
        mask = None
        if image_only is not None:
            mask = jnp.repeat(jnp.repeat(joint_mask(image_only), p, axis=1), p, axis=2)
        return layer(x.reshape(b, 1, t * p, c), None, mask).reshape(x.shape)


@dataclass(frozen=True)
class SparseCausal:
    """The first frame and the one before, in place of one's own; the first looks at itself."""

    def __call__(self, layer: Layer, x: Pixels, image_only: Bool[Array, "b t"] | None) -> Pixels:
        before = np.maximum(np.arange(x.shape[1]) - 1, 0)
        if image_only is None:
            return layer(x, jnp.concatenate([x[:, before * 0], x[:, before]], axis=2), None)
        first, _ = _ends(image_only)
        newest = jax.lax.cummax(jnp.where(image_only, first, _number(image_only)), axis=1)
        return layer(x, _of_frames(x, image_only, first, newest[:, before]), None)


@dataclass(frozen=True)
class Ends:
    """The first frame and the last, in place of one's own: for what lies between two keyframes."""

    def __call__(self, layer: Layer, x: Pixels, image_only: Bool[Array, "b t"] | None) -> Pixels:
        if image_only is None:
            ends = jnp.concatenate([x[:, :1], x[:, -1:]], axis=2)
            return layer(x, jnp.broadcast_to(ends, (*x.shape[:2], *ends.shape[2:])), None)
        return layer(x, _of_frames(x, image_only, *_ends(image_only)), None)


def _number(image_only: Bool[Array, "b t"]) -> Int[Array, "b t"]:
    return jnp.broadcast_to(jnp.arange(image_only.shape[1])[None], image_only.shape)


def _ends(image_only: Bool[Array, "b t"]) -> tuple[Int[Array, "b 1"], Int[Array, "b 1"]]:
    """The first and the last frame of the video; any where there is none."""
    first = jnp.argmin(image_only, axis=1, keepdims=True)
    last = image_only.shape[1] - 1 - jnp.argmin(image_only[:, ::-1], axis=1, keepdims=True)
    return first, last


def _of_frames(
    x: Pixels, image_only: Bool[Array, "b t"], *seen: Int[Array, "b _"]
) -> Float[Array, "b t k c"]:
    """The pixels of the frames that each frame of the video looks at; of a picture, its own."""
    own = _number(image_only)
    chosen = (jnp.where(image_only, own, frame)[:, :, None, None] for frame in seen)
    return jnp.concatenate([jnp.take_along_axis(x, frame, axis=1) for frame in chosen], axis=2)
