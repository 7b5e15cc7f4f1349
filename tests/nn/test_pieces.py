import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.core.config import from_json, to_json
from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.pieces import Chunked, Overlapped, Pieces, Tiled, Trimmed, Whole

PARTS = [
    Whole(), Chunked(3), Overlapped(3, 1), Trimmed(3, 1), Tiled(3, 4, 2),
    Tiled(4, 3, 1, frames=Chunked(2)),
]  # fmt: skip


def grow(x):
    """A decoder without a reach: each position becomes a square of 2x2, no frame sees another."""
    squares = jnp.repeat(jnp.repeat(x, 2, axis=-3), 2, axis=-2)
    return jnp.sin(squares).astype(x.dtype)


def shrink(x):
    """An encoder without a reach, of two results."""
    *batch, h, w, c = x.shape
    squares = x.reshape(*batch, h // 2, 2, w // 2, 2, c)
    return {"mean": squares.mean((-4, -2)), "sum": squares.sum((-4, -2))[..., :1]}


def smooth(x):
    """Each frame with its neighbours, as if there were zeros beyond the ends."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
    return (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3


@pytest.mark.parametrize("frames", [1, 3, 7])
@pytest.mark.parametrize("part", PARTS)
def test_pieces_of_a_function_without_reach_are_the_whole(key, part, frames):
    video = jax.random.normal(key, (2, frames, 6, 10, 3))
    np.testing.assert_allclose(jax.jit(part(grow))(video), grow(video), atol=1e-6)
    got, wanted = jax.jit(part(shrink))(video[0]), shrink(video[0])
    assert got.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_allclose(got[name], wanted[name], atol=1e-6)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_a_part_that_a_config_can_hold(part):
    assert isinstance(part, Pieces)
    assert from_json(to_json(part)) == part


@pytest.mark.parametrize("part", PARTS)
def test_gradients_of_pieces_are_those_of_the_whole(key, part):
    video = jax.random.normal(key, (1, 5, 4, 6, 2))

    def gradient(part):
        return jax.jit(jax.grad(lambda x: (part(grow)(x) ** 2).sum()))(video)

    np.testing.assert_allclose(gradient(part), gradient(Whole()), atol=1e-5)


@pytest.mark.parametrize("part", PARTS)
def test_pieces_keep_the_dtype(part):
    video = jnp.ones((1, 5, 4, 6, 2), jnp.bfloat16)
    assert part(grow)(video).dtype == jnp.bfloat16


def test_each_chunk_is_a_clip_of_its_own(key):
    video = jax.random.normal(key, (2, 7, 2, 2, 1))
    wanted = [smooth(video[:, i : i + 3]) for i in (0, 3, 6)]
    np.testing.assert_allclose(Chunked(3)(smooth)(video), np.concatenate(wanted, 1), atol=1e-6)


def test_a_chunk_fades_into_the_next_by_hand():
    """Frames count 1 2 3 ... within their piece: the fade from one piece to the next is visible."""

    def count(x):
        return jnp.cumsum(jnp.ones_like(x), axis=-4)

    video = jnp.zeros((1, 6, 1, 1, 1))
    got = Overlapped(4, 2)(count)(video)[0, :, 0, 0, 0]
    # frames 2 and 3 are 3rd and 4th of the first piece, 1st and 2nd of the second
    fade = [1, 2, (2 * 3 + 1 * 1) / 3, (1 * 4 + 2 * 2) / 3, 3, 4]
    np.testing.assert_allclose(got, fade, atol=1e-6)


def test_pieces_spread_evenly_to_the_end_of_the_video():
    def from_start(x):
        return x - x[:, :1]

    ramp = jnp.arange(8.0).reshape(1, 8, 1, 1, 1)
    got = Overlapped(4, 1)(from_start)(ramp)[0, :, 0, 0, 0]
    # pieces start at 0, 2 and 4
    np.testing.assert_allclose(got, [0, 1, 4 / 3, 5 / 3, 4 / 3, 5 / 3, 2, 3], atol=1e-6)


@pytest.mark.parametrize("frames", [8, 11, 23])
def test_overlapping_chunks_have_no_seam(key, frames):
    """Ends of chunks err and fade out: the error is a fraction, and jumps nowhere."""
    video = jnp.ones((1, frames, 1, 1, 1))
    wanted = smooth(video)[0, :, 0, 0, 0]
    chunked = Chunked(6)(smooth)(video)[0, :, 0, 0, 0] - wanted
    faded = Overlapped(6, 3)(smooth)(video)[0, :, 0, 0, 0] - wanted
    assert jnp.abs(chunked).max() > 0.3
    assert jnp.abs(faded).max() < 0.5 * jnp.abs(chunked).max()
    np.testing.assert_allclose(faded[jnp.array([0, -1])], 0, atol=1e-6)


def test_half_the_overlap_is_dropped_on_each_side_by_hand():
    def count(x):
        return jnp.cumsum(jnp.ones_like(x), axis=-4)

    video = jnp.zeros((1, 6, 1, 1, 1))
    # frames 2 and 3 are 3rd and 4th of the first piece, 1st and 2nd of the second
    np.testing.assert_array_equal(Trimmed(4, 2)(count)(video).ravel(), [1, 2, 3, 2, 3, 4])
    # pieces spread evenly: they start at 0, 2 and 3, and share two frames and three
    video = jnp.zeros((1, 7, 1, 1, 1))
    np.testing.assert_array_equal(Trimmed(4, 2)(count)(video).ravel(), [1, 2, 3, 2, 3, 3, 4])


def reaching(x):
    """Frames twice as many, each of which sees what lies two before and after it."""
    x = jnp.repeat(x, 2, axis=-4)
    for _ in range(2):
        x = smooth(x)
    return x


def halving(x):
    """Of every two frames one, which sees four."""
    x = smooth(x)
    return (x[:, ::2] + x[:, 1::2]) / 2


@pytest.mark.parametrize("frames", [8, 11, 23])
def test_pieces_that_share_what_frames_see_are_the_whole(key, frames):
    """Where there are more frames than went in, or fewer: sizes are those of the smaller."""
    latents = jax.random.normal(key, (2, frames, 2, 2, 1))
    whole = reaching(latents)

    def error(part):
        return jnp.abs(part(reaching)(latents) - whole)

    assert error(Trimmed(4, 2)).max() < 1e-6
    assert error(Chunked(4)).max() > 0.1
    video = jax.random.normal(key, (1, 2 * frames, 2, 2, 1))
    got = Trimmed(4, 2)(halving)(video)
    np.testing.assert_allclose(got, halving(video), atol=1e-6)


def test_tiles_fade_at_the_resolution_of_the_result():
    """Tiles that disagree meet in a ramp of single pixels, not of latents."""

    def brightness(x):
        """Every tile has the value of its first position."""
        squares = jnp.repeat(jnp.repeat(x, 4, axis=-3), 4, axis=-2)
        return jnp.broadcast_to(squares[..., :1, :1, :], squares.shape)

    frame = jnp.broadcast_to(jnp.arange(8.0).reshape(1, 1, 8, 1), (1, 4, 8, 1))
    row = Tiled(4, 5, 2)(brightness)(frame)[0, 0, :, 0]
    assert row.shape == (32,)
    steps = jnp.diff(row)
    np.testing.assert_allclose(row[:12], 0, atol=1e-6)
    np.testing.assert_allclose(row[20:], 3, atol=1e-6)
    np.testing.assert_allclose(steps[11:20], 3 / 9, atol=1e-5)


@pytest.mark.parametrize(
    ("part", "larger"),
    [
        (Chunked(2), (16, 16, 16)),
        (Overlapped(2, 1), (16, 16, 16)),
        (Tiled(4, 4, 2), (4, 32, 32)),
        (Tiled(4, 4, 2, frames=Chunked(2)), (16, 32, 16)),
    ],
)
def test_memory_is_that_of_one_piece(part, larger):
    def wide(x):
        """Holds 64 numbers for every position."""
        return jnp.tanh(jnp.tanh(x * jnp.ones(64).reshape(1, 1, 1, 1, -1)) @ jnp.ones((64, 1)))

    def held(run, sizes):
        video = jax.ShapeDtypeStruct((1, *sizes, 1), jnp.float32)
        return jax.jit(run).lower(video).compile().memory_analysis().temp_size_in_bytes

    few, many = (held(wide, sizes) for sizes in ((4, 16, 16), larger))
    assert many > 3.5 * few
    assert held(part(wide), (4, 16, 16)) < 0.8 * few
    assert held(part(wide), larger) < 0.3 * many


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Chunked(0), "chunk of 0 frames; it must hold at least 1"),
        (lambda: Overlapped(4, 4), "chunk of 4 frames that shares 4"),
        (lambda: Trimmed(4, 4), "chunk of 4 frames that shares 4"),
        (lambda: Overlapped(4, 0), "shares 0 with the next; it must share at least 1"),
        (lambda: Tiled(8, 2, 3), "tile of 2 columns that shares 3"),
        (lambda: Tiled(2, 8, 3), "tile of 2 rows that shares 3"),
    ],
)
def test_refuses_impossible_pieces(make, words):
    with pytest.raises(Refusal, match=words):
        make()
