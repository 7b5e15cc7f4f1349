from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.core.mesh import unplaced
from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.attention import Frames, SpaceAttention, TimeAttention
from vdm_jax.nn.mixing import FrameByFrame, SpaceTime
from vdm_jax.nn.patterns import (
    AllFrames,
    Ends,
    Full,
    OwnFrame,
    Sliding,
    SparseCausal,
    check_patterns,
    joint_mask,
)
from vdm_jax.nn.transformer import SpaceTimeTransformer, TimeBlock

CUTS = [(9, 4, 2), (10, 4, 3), (7, 4, 4), (17, 5, 2), (40, 16, 4)]
PICTURES = jnp.array([[True, False, False, True, False, True], [False] * 6, [True] * 6])


def windows(t, size, stride):
    """First frames: every stride, and one window that ends with the video."""
    starts = list(range(0, t - size + 1, stride))
    return starts if starts[-1] == t - size else [*starts, t - size]


def averaged(of_window, t, size, stride):
    """The definition: each frame's mean over its windows, weighted by a triangle."""
    triangle = [min(i, size + 1 - i) for i in range(1, size + 1)]
    total, weights = 0, np.zeros(t)
    for start in windows(t, size, stride):
        given = np.asarray(of_window(start), np.float64)
        total = total + np.zeros((*given.shape[:2], t, *given.shape[3:]))
        for i, weight in enumerate(triangle):
            total[:, :, start + i] += weight * given[:, :, i]
            weights[start + i] += weight
    assert weights.all()
    return total / weights.reshape(1, 1, t, *(1,) * (total.ndim - 3))


def random_weights(make, key):
    """A module whose zeros hold noise, as after training."""
    with unplaced():
        module = make(nnx.Rngs(0))
    for i, (_, variable) in enumerate(nnx.to_flat_state(nnx.state(module, nnx.Param))):
        variable[...] = 0.4 * jax.random.normal(jax.random.fold_in(key, i), variable.shape)
    return module


@pytest.mark.parametrize(("t", "size", "stride"), CUTS)
def test_sliding_is_its_definition(key, t, size, stride):
    x = jax.random.normal(key, (2, 3, t, 2))
    beside = jax.random.normal(key, (2, 1, t, 2))
    of_video = jax.random.normal(key, (2, 1, 1, 2))

    def layer(sequences, mask):
        """Reads neighbours, places in the window, and what the pixels of a window share."""
        assert mask is None
        x, beside, of_video = sequences
        assert of_video.shape == (2, 1, 1, 2)
        place = jnp.arange(x.shape[2]).reshape(1, 1, -1, 1)
        group = beside.shape[1]
        x = x.reshape(2, -1, group, *x.shape[2:])
        x = (x * beside[:, None]).reshape(2, -1, *x.shape[3:])
        return x.mean(2, keepdims=True) + place * x + of_video

    def of_window(start):
        cut = slice(start, start + size)
        return layer((x[:, :, cut], beside[:, :, cut], of_video), None)

    got = Sliding(size, stride)(layer, (x, beside, of_video), None)
    np.testing.assert_allclose(got, averaged(of_window, t, size, stride), atol=1e-5)


def kept(seen, sequences, mask):
    seen.append((sequences, mask))
    return sequences[0]


def test_a_short_video_is_one_window(key):
    """The layer gets the very arrays that it gets from AllFrames."""
    x, mask = jax.random.normal(key, (1, 2, 4, 3)), jnp.ones((1, 4, 4), bool)
    for pattern in (AllFrames(), Sliding(4, 1), Sliding(16, 4)):
        seen = []
        pattern(partial(kept, seen), (x,), mask)
        [((given,), shown)] = seen
        assert given is x and shown.shape == (1, 1, 4, 4)
        assert (pattern.span(4), pattern.windows(4)) == (4, 1)


def test_work_grows_with_frames_and_not_with_their_square():
    work = [Sliding().windows(t) * Sliding().span(t) ** 2 for t in (64, 128, 256)]
    assert np.diff(work).tolist() == [16 * 256, 32 * 256]


def test_windows_keep_pictures_apart():
    """Each frame marked by a feature of its own: what it receives tells whom it saw."""
    x = jnp.broadcast_to(jnp.eye(6)[None, None], (2, 3, 6, 6))

    def layer(sequences, mask):
        return jnp.einsum("brqs,brsc->brqc", mask / mask.sum(-1, keepdims=True), sequences[0])

    got = np.asarray(Sliding(4, 2)(layer, (x,), joint_mask(PICTURES[:2])))[0, 1]
    pictures, video = [0, 3, 5], [1, 2, 4]
    np.testing.assert_allclose(got[pictures], np.eye(6)[pictures], rtol=1e-6)
    assert (got[video][:, pictures] == 0).all()
    assert (got[video][:, video] > 0).tolist() == [[1, 1, 0], [1, 1, 1], [0, 1, 1]]


def numbers(pattern, image_only, frames=6):
    """The frames that each frame looks at, with the two pixels of each marked by its number."""
    x = jnp.broadcast_to(jnp.arange(frames, dtype=float)[None, :, None, None], (3, frames, 2, 1))
    looked = []
    pattern(lambda x, seen, mask: looked.append((seen, mask)) or x, x, image_only)
    [(seen, mask)] = looked
    assert mask is None
    assert (seen[:, :, 0] == seen[:, :, 1]).all() and (seen[:, :, 2] == seen[:, :, 3]).all()
    return np.asarray(seen)[:, :, ::2, 0].astype(int)


def test_sparse_causal_sees_the_first_frame_and_the_one_before():
    plain = [[0, 0], [0, 0], [0, 1], [0, 2], [0, 3], [0, 4]]
    assert numbers(SparseCausal(), None)[0].tolist() == plain
    mixed, video, pictures = numbers(SparseCausal(), PICTURES).tolist()
    assert mixed == [[0, 0], [1, 1], [1, 1], [3, 3], [1, 2], [5, 5]]
    assert video == plain
    assert pictures == [[f, f] for f in range(6)]


def test_ends_sees_the_first_frame_and_the_last():
    assert numbers(Ends(), None)[0].tolist() == [[0, 5]] * 6
    mixed, video, pictures = numbers(Ends(), PICTURES).tolist()
    assert mixed == [[0, 0], [1, 4], [1, 4], [3, 3], [1, 4], [5, 5]]
    assert video == [[0, 5]] * 6
    assert pictures == [[f, f] for f in range(6)]


SIZES = {"heads": 2, "head_size": 4, "groups": 2, "dtype": "float32"}


def test_the_bias_of_a_window_counts_from_its_start(key):
    x, bias = jax.random.normal(key, (2, 7, 2, 2, 8)), jax.random.normal(key, (2, 4, 4))
    whole = random_weights(lambda rngs: TimeAttention(8, **SIZES, rngs=rngs), key)
    sliding = random_weights(
        lambda rngs: TimeAttention(8, pattern=Sliding(4, 2), **SIZES, rngs=rngs), key
    )

    def of_window(start):
        part = x[:, start : start + 4]
        return (whole(part, Frames(bias, None)) - part)[:, None]

    wanted = averaged(of_window, 7, 4, 2)[:, 0]
    np.testing.assert_allclose(sliding(x, Frames(bias, None)) - x, wanted, atol=1e-5)


def space(pattern, key):
    mixer = random_weights(lambda rngs: SpaceAttention(8, pattern=pattern, **SIZES, rngs=rngs), key)
    mixer.norm = lambda x: x
    return mixer


def test_full_attention_is_that_of_one_big_picture(key):
    x, none = jax.random.normal(key, (2, 3, 2, 2, 8)), Frames(jnp.zeros((2, 3, 3)), None)
    big = space(OwnFrame(), key)(x.reshape(2, 1, 6, 2, 8), none).reshape(x.shape)
    np.testing.assert_array_equal(space(Full(), key)(x, none), big)
    one = x[:, :1]
    np.testing.assert_array_equal(space(Full(), key)(one, none), space(OwnFrame(), key)(one, none))


@pytest.mark.parametrize("pattern", [OwnFrame(), Full(), SparseCausal(), Ends()])
def test_a_picture_is_alone_in_space(key, pattern):
    x = jax.random.normal(key, (3, 6, 2, 2, 8))
    frames = Frames(jnp.zeros((2, 6, 6)), PICTURES)
    alone, got = space(OwnFrame(), key)(x, frames), space(pattern, key)(x, frames)
    pictures = np.asarray(PICTURES)
    np.testing.assert_allclose(got[pictures], alone[pictures], atol=1e-5)
    moved = space(pattern, key)(jnp.where(PICTURES[..., None, None, None], 7 * x, x), frames)
    np.testing.assert_array_equal(moved[~pictures], got[~pictures])


def test_a_block_in_time_runs_in_windows_and_counts_from_their_start(key):
    sizes = {"layers": 1, "groups": 2, "eps": 1e-6, "dtype": "float32"}
    layer = random_weights(
        lambda rngs: SpaceTimeTransformer(8, 5, 2, time_pattern=Sliding(4, 2), **sizes, rngs=rngs),
        key,
    )
    x, context = jax.random.normal(key, (2, 7, 2, 1, 8)), jax.random.normal(key, (2, 7, 3, 5))
    hidden = layer.space[0](layer._entered(x), context, None)
    index = layer._index(4, hidden)
    pixels = jnp.swapaxes(hidden, 1, 2)

    def of_window(start):
        cut = slice(start, start + 4)
        return layer.time[0](pixels[:, :, cut] + index, context[:, None, cut])

    time = jnp.asarray(averaged(of_window, 7, 4, 2), jnp.float32)
    mixed = layer.blend(hidden, jnp.swapaxes(time, 1, 2), None)
    wanted = x + layer.proj_out(mixed).reshape(x.shape)
    np.testing.assert_allclose(layer(x, context, None), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 3])
def test_over_time_a_position_is_told_the_context_of_its_frame(key, tokens):
    """Sequences 1 and 3 of two pixels are the second windows, with contexts of their own."""
    block = random_weights(lambda rngs: TimeBlock(8, 5, 2, dtype="float32", rngs=rngs), key)
    x = jax.random.normal(key, (2, 4, 3, 8))
    context = jax.random.normal(key, (2, 2, 3, tokens, 5))
    told = np.broadcast_to(block.told(x, context), x.shape)
    for window, frame in np.ndindex(2, 3):
        alone = block.told(x[:, :, frame, None], context[:, None, None, window, frame])
        wanted = np.broadcast_to(alone, (2, 4, 1, 8))[:, window::2, 0]
        np.testing.assert_allclose(told[:, window::2, frame], wanted, atol=1e-5)


def test_refuses_windows_with_gaps_and_patterns_of_the_other_axis():
    with pytest.raises(Refusal, match=r"4 frames every 5"):
        Sliding(4, 5)
    with pytest.raises(Refusal, match=r"over time.*got Full"):
        check_patterns(Full(), OwnFrame())
    with pytest.raises(Refusal, match=r"over space.*got Sliding"):
        SpaceTime(space=Sliding())
    with pytest.raises(Refusal, match=r"over space.*got AllFrames"):
        FrameByFrame(space=AllFrames())
