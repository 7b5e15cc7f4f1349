"""Large videos through a small memory: a function of frames, applied to one piece at a time.

`Whole`, `Chunked`, `Overlapped`, `Trimmed` and `Tiled` are parts that a config holds. Each takes a
function of a video, "b t h w c", or of single frames, "f h w c", and gives back that function,
computed in pieces: `Chunked(8)(vae.decode)(latents)`. Its result may have several frames for each,
but for `Chunked` also one for several, and any one size of frame (a decoder's is 8 times the
latents', an encoder's 1/8 of the video's); it may be a pytree of such arrays. The pieces run one
after the other in one compiled loop, so that memory beyond input and output is that of a single
piece; the backward pass computes each piece again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from vdm_jax.core.refusal import Refusal

FRAMES, ROWS, COLUMNS = -4, -3, -2

OfFrames = Callable[[Array], PyTree]
""""*batch f h w i" -> a pytree of "*batch f H W o"."""


@runtime_checkable
class Pieces(Protocol):
    """How a function is applied to a video too large for the device."""

    def __call__(self, function: OfFrames) -> OfFrames: ...


@dataclass(frozen=True)
class Whole:
    """Everything at once."""

    def __call__(self, function: OfFrames) -> OfFrames:
        return function


@dataclass(frozen=True)
class Chunked:
    """`size` frames of every video at a time, each chunk a clip of its own; the last may be short.

    The published Stable Video Diffusion decodes so (its decode_chunk_size). A network that mixes
    frames sees the end of the video at the end of each chunk, which can show as a jump; for one
    that does not, such as an encoder of frames, the result is exact.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise Refusal(f"a chunk of {self.size} frames; it must hold at least 1")

    def __call__(self, function: OfFrames) -> OfFrames:
        def in_chunks(x: Array) -> PyTree:
            frames = x.shape[FRAMES]
            if frames <= self.size:
                return function(x)
            full = frames - frames % self.size
            chunks = _stacked(jax.lax.slice_in_dim(x, 0, full, axis=x.ndim + FRAMES), self.size)
            mapped = jax.lax.map(jax.checkpoint(function), chunks)
            done = [jax.tree.map(_joined, mapped)]
            if full < frames:
                rest = jax.lax.slice_in_dim(x, full, frames, axis=x.ndim + FRAMES)
                done.append(jax.checkpoint(function)(rest))
            return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=FRAMES), *done)

        return in_chunks


@dataclass(frozen=True)
class Overlapped:
    """`size` frames at a time; neighbouring chunks share `overlap` frames or more, where one fades
    into the next.

    A chunk weighs least where it ends, which is where it errs most.
    """

    size: int
    overlap: int

    def __post_init__(self) -> None:
        _check_overlap("chunk", "frames", self.size, self.overlap)

    def __call__(self, function: OfFrames) -> OfFrames:
        return _blended(function, {FRAMES: (self.size, self.overlap)}, _faded)


@dataclass(frozen=True)
class Trimmed:
    """`size` frames at a time; neighbouring chunks share `overlap` frames or more, of which each
    keeps the half on its own side and drops the other.

    With an overlap of twice as many frames as a frame depends on to either side, the result is that
    of the whole. With less each frame is still the one of the chunk that saw the most around it.
    """

    size: int
    overlap: int

    def __post_init__(self) -> None:
        _check_overlap("chunk", "frames", self.size, self.overlap)

    def __call__(self, function: OfFrames) -> OfFrames:
        return _blended(function, {FRAMES: (self.size, self.overlap)}, _cut_in_half)


@dataclass(frozen=True)
class Tiled:
    """Tiles of `height` x `width` latents that share `overlap` rows and columns or more and fade
    into each other; within a tile, the frames as `frames` says.

    Sizes are positions of the smaller of the two grids, input and output: latents, whether they
    are decoded or encoded. A network that mixes all positions of a frame (attention, group norm)
    gives another result for a tile than for the whole.
    """

    height: int
    width: int
    overlap: int
    frames: Pieces = Whole()

    def __post_init__(self) -> None:
        _check_overlap("tile", "rows", self.height, self.overlap)
        _check_overlap("tile", "columns", self.width, self.overlap)

    def __call__(self, function: OfFrames) -> OfFrames:
        cuts = {ROWS: (self.height, self.overlap), COLUMNS: (self.width, self.overlap)}
        return _blended(self.frames(function), cuts, _faded)


def _check_overlap(piece, of, size, overlap):
    if not 1 <= overlap < size:
        raise Refusal(
            f"a {piece} of {size} {of} that shares {overlap} with the next; it must share at "
            f"least 1 and less than its size"
        )


def _stacked(x, size):
    """Runs of `size` frames along a new axis in front."""
    axis = x.ndim + FRAMES
    cut = x.reshape(*x.shape[:axis], -1, size, *x.shape[axis + 1 :])
    return jnp.moveaxis(cut, axis, 0)


def _joined(chunks):
    """The inverse of `_stacked`."""
    x = jnp.moveaxis(chunks, 0, FRAMES - 1)
    axis = x.ndim + FRAMES
    return x.reshape(*x.shape[: axis - 1], -1, *x.shape[axis + 1 :])


Share = Callable[
    [Float[np.ndarray, "pieces positions"], int], Float[np.ndarray, "pieces positions"]
]
"""(how deep each position lies in each piece, 0 outside and endless where the axis ends, overlap)
-> how much it counts beside the others of its place."""


def _faded(depth, overlap):
    """Linear ramps over the overlap."""
    return np.minimum(depth / (overlap + 1), 1.0)


def _cut_in_half(depth, overlap):
    """All or nothing: the piece in which the position lies the deepest, of two the first."""
    del overlap
    return np.eye(len(depth))[depth.argmax(0)].T


class _Cut(NamedTuple):
    """One axis cut into overlapping pieces, in positions of the smaller grid."""

    axis: int
    length: int
    size: int
    overlap: int
    share: Share

    @property
    def starts(self) -> Int[np.ndarray, " pieces"]:
        """Where the pieces begin: as few as reach, evenly spread."""
        last = max(self.length - self.size, 0)
        steps = -(-last // (self.size - self.overlap))
        return np.linspace(0, last, steps + 1).round().astype(int)

    def scale(self, a: Array) -> int:
        """Positions of `a` for one of the smaller grid."""
        return a.shape[self.axis] // self.length

    def weights(self, scale: int) -> Float[np.ndarray, "pieces positions"]:
        """How much each position of each piece counts, `scale` times as fine; those of one place
        sum to one."""
        starts, size = self.starts * scale, min(self.size, self.length) * scale
        place, end = np.arange(self.length * scale), self.length * scale - size
        before, after = place - starts[:, None] + 1.0, starts[:, None] + size - place * 1.0
        depth = np.minimum(
            np.where(starts[:, None] == 0, np.inf, before),
            np.where(starts[:, None] == end, np.inf, after),
        )
        inside = np.minimum(before, after) > 0
        weights = self.share(np.where(inside, depth, 0.0), self.overlap * scale)
        weights = weights / weights.sum(0)
        own = [row[start : start + size] for row, start in zip(weights, starts, strict=True)]
        return np.stack(own).astype(np.float32)


def _blended(function, cuts, share):
    """The function on overlapping pieces, summed by their weights.

    cuts: axis -> (size of a piece, overlap). share: a `Share`.
    """

    def in_pieces(x: Array) -> PyTree:
        whole = jax.eval_shape(function, x)
        grid = min([x, *jax.tree.leaves(whole)], key=_positions)
        along = [
            _Cut(axis, grid.shape[axis], size, overlap, share)
            for axis, (size, overlap) in cuts.items()
        ]
        places = np.array(list(product(*(range(len(cut.starts)) for cut in along))))
        run = jax.checkpoint(function)

        def add(totals, place):
            results = run(_window(x, along, place))
            return jax.tree.map(lambda a, y: _added(a, y, along, place), totals, results), None

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), whole)
        totals, _ = jax.lax.scan(add, zeros, places)
        return jax.tree.map(lambda total, leaf: total.astype(leaf.dtype), totals, whole)

    return in_pieces


def _positions(a):
    """By what the smaller of two grids is found: its rows, then its frames."""
    return a.shape[ROWS], a.shape[FRAMES]


def _corner(a, cuts, place):
    """Where the piece begins in `a`, one index per axis."""
    corner: list[Array | int] = [0] * a.ndim
    for cut, index in zip(cuts, place, strict=True):
        corner[cut.axis] = jnp.asarray(cut.starts * cut.scale(a))[index]
    return corner


def _window(x, cuts, place):
    """The piece of the input at this place."""
    shape = list(x.shape)
    for cut in cuts:
        shape[cut.axis] = min(cut.size, cut.length) * cut.scale(x)
    return jax.lax.dynamic_slice(x, _corner(x, cuts, place), shape)


def _added(total, y, cuts, place):
    """The sum with one more weighted piece."""
    y = y.astype(jnp.float32)
    for cut, index in zip(cuts, place, strict=True):
        weights = jnp.asarray(cut.weights(cut.scale(total)))[index]
        y = y * jnp.expand_dims(weights, [a for a in range(-y.ndim, 0) if a != cut.axis])
    corner = _corner(total, cuts, place)
    before = jax.lax.dynamic_slice(total, corner, y.shape)
    return jax.lax.dynamic_update_slice(total, before + y, corner)
