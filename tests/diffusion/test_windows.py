"""A denoiser of short videos made one of long ones."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.level import Level
from vdm_jax.diffusion.sampler import DDIM, Ancestral, rungs
from vdm_jax.diffusion.schedule import Cosine
from vdm_jax.diffusion.windows import FIRST, TRIANGLE, starts, windowed
from vdm_jax.models.cond import Cond, frames_of

KEY = jax.random.key(0)


def mixing(z, level, cond):
    """Every frame depends on all others of its window, on its place, level and features."""
    sigma = level.frames(z).sigma[..., None, None, None]
    place = jnp.arange(z.shape[1], dtype=z.dtype)[None, :, None, None, None]
    mean = z.mean(1, keepdims=True)
    told = cond.vec[..., 0][..., None, None, None]
    return jnp.tanh(0.5 * z + 0.3 * mean + 0.1 * place - 0.2 * sigma + told)


def each(z, level, cond):
    return jnp.tanh(z) * (1 + level.frames(z).sigma[..., None, None, None]) + cond.concat


def video(frames, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((2, frames, 3, 3, 2)), "float32")


@pytest.mark.parametrize(("frames", "overlap"), [(16, 4), (33, 4), (40, 15), (17, 1)])
@pytest.mark.parametrize("merge", [FIRST, TRIANGLE])
def test_each_frame_is_covered_and_counts_one(frames, overlap, merge):
    begin = starts(frames, 16, overlap)
    assert begin[0] == 0 and begin[-1] + 16 == max(frames, 16)
    total = np.zeros(max(frames, 16))
    for start, weight in zip(begin, merge.weights(begin, 16), strict=True):
        assert (weight >= 0).all()
        total[start : start + 16] += weight
    np.testing.assert_allclose(total, 1, rtol=1e-6)
    assert all(a + 16 - b >= overlap for a, b in pairwise(begin))


@pytest.mark.parametrize("merge", [FIRST, TRIANGLE])
def test_a_denoiser_of_single_frames_is_the_same_in_windows(merge):
    z, level = video(21), Level(jnp.float32(0.6), jnp.float32(0.8))
    cond = Cond(concat=video(21, 1))
    long = jax.jit(windowed(each, 8, 3, merge, frames_of))
    np.testing.assert_allclose(long(z, level, cond), each(z, level, cond), atol=2e-6)


def test_a_video_of_one_window_passes_through_to_the_bit():
    z, level = video(8), Level(jnp.float32(0.6), jnp.float32(0.8))
    cond = Cond(vec=jnp.ones((2, 8, 1)))
    long = windowed(mixing, 8, 3, TRIANGLE, frames_of)
    np.testing.assert_array_equal(long(z, level, cond), mixing(z, level, cond))


@pytest.mark.parametrize("sampler", [DDIM(), Ancestral(0.3)])
def test_reuse_is_drawing_window_by_window_with_the_overlap_as_it_was_at_every_level(sampler):
    """The definition: record z of the shared frames while a window is drawn, and write it into the
    next window at the same level."""
    size, overlap, frames = 6, 2, 14
    z, levels = video(frames), Cosine().ladder(5)
    vec = jnp.linspace(0, 1, frames)[None, :, None] * jnp.ones((2, 1, 1))
    long = windowed(mixing, size, overlap, FIRST, frames_of)
    got = jax.jit(partial(sampler, long))(z, levels, Cond(vec=vec), KEY)

    steps = rungs(levels, z, KEY)
    states = [z]
    for n in range(5):
        rung = jax.tree.map(lambda part, n=n: part[n], steps)
        after = jnp.zeros_like(z)
        done = 0
        for start in starts(frames, size, overlap):
            here = slice(start, start + size)
            seen = rung._replace(
                now=Level(*(p[:, here] for p in rung.now)),
                then=Level(*(p[:, here] for p in rung.then)),
            )
            cond = Cond(vec=vec[:, here])
            x0 = mixing(states[n][:, here], Level(*(p[..., 0, 0, 0] for p in seen.now)), cond)
            fresh = slice(max(done - start, 0), size)
            new = slice(start + fresh.start, start + size)
            whole = jnp.zeros_like(z).at[:, here].set(x0)
            moved = sampler.move(lambda *_, x0=whole: x0, sampler.start(states[n]), rung, None).z
            after = after.at[:, new].set(moved[:, new])
            done = start + size
        states.append(after)
    np.testing.assert_allclose(got, states[-1], atol=1e-5)


def test_windows_that_share_nothing_or_all_are_refused():
    for overlap in (0, 8):
        with pytest.raises(Refusal, match="share from 1 to 7"):
            starts(20, 8, overlap)
