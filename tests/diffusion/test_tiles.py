"""A denoiser of small frames made one of large ones."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.level import Level
from vdm_jax.diffusion.sampler import DDIM
from vdm_jax.diffusion.schedule import Cosine
from vdm_jax.diffusion.tiles import GAUSSIAN, Gaussian, tiled
from vdm_jax.diffusion.windows import FIRST, TRIANGLE, starts
from vdm_jax.models.cond import Cond, region_of

LEVEL = Level(jnp.float32(0.6), jnp.float32(0.8))


def video(rows, columns, channels=2, seed=0):
    shape = (2, 3, rows, columns, channels)
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), "float32")


def each(z, level, cond):
    """Each pixel by itself, told by what stands beside it and by the level of its frame."""
    sigma = level.frames(z).sigma[..., None, None, None]
    return jnp.tanh(z) * (1 + sigma) + jnp.sin(3 * cond.concat)


def blur(z, level, cond):
    """Sees as far as 4 pixels, and black beyond the edge of what it is shown."""
    kernel = jnp.asarray(np.outer(*[np.hanning(11)[1:-1]] * 2), z.dtype)[:, :, None, None]
    b, t, h, w, c = z.shape
    planes = jnp.moveaxis(z, -1, 2).reshape(b * t * c, h, w, 1)
    dims = ("NHWC", "HWIO", "NHWC")
    seen = jax.lax.conv_general_dilated(
        planes, kernel / kernel.sum(), (1, 1), "SAME", dimension_numbers=dims
    )
    return jnp.moveaxis(seen.reshape(b, t, c, h, w), 2, -1)


def test_weights_are_the_published_bell():
    """exp(-d^2 / 0.02), d in tiles: of one pixel in two tiles, by their two distances."""
    begin = starts(14, 8, 2)
    assert begin == (0, 6)
    first, second = Gaussian(0.01).weights(begin, 8)
    bells = [np.exp(-(((at - 3.5) / 8) ** 2) / 0.02) for at in (6, 0)]
    np.testing.assert_allclose(first[6], bells[0] / sum(bells), rtol=1e-5)
    np.testing.assert_allclose(first[6] + second[0], 1, rtol=1e-6)
    assert first[0] == 1  # nobody else has seen it


@pytest.mark.parametrize("merge", [GAUSSIAN, TRIANGLE, FIRST])
@pytest.mark.parametrize("sizes", [(20, 20), (9, 27), (8, 21), (21, 5)])
def test_a_denoiser_of_single_pixels_is_the_same_in_tiles(merge, sizes):
    """Frames that are cut both ways, one way, or thinner than a tile."""
    z, cond = video(*sizes), Cond(concat=video(*sizes, seed=1), vec=jnp.ones((2, 3, 1)))
    level = Level(jnp.full((2, 3), 0.6), jnp.array([[0.1, 0.5, 0.8], [0.2, 0.3, 0.9]]))
    large = jax.jit(tiled(each, 8, 8, 3, merge, region_of))
    np.testing.assert_allclose(large(z, level, cond), each(z, level, cond), atol=1e-6)


@pytest.mark.parametrize("sizes", [(8, 9), (5, 9), (8, 4)])
def test_a_frame_of_one_tile_passes_through_to_the_bit(sizes):
    z, cond = video(*sizes), Cond(concat=video(*sizes, seed=1))
    large = tiled(each, 8, 9, 3, GAUSSIAN, region_of)
    np.testing.assert_array_equal(large(z, LEVEL, cond), each(z, LEVEL, cond))


def step(frame):
    """The largest from one column to the next, away from the edge of the frame."""
    return float(jnp.abs(jnp.diff(frame[:, :, 6:-6, 6:-6], axis=3)).max())


def test_a_walk_with_a_denoiser_that_errs_at_the_edge_of_a_tile_leaves_no_seam():
    """The denoiser knows the answer, a flat grey, but for the edges of what it is shown."""
    levels, size, overlap, side = Cosine().ladder(6), 16, 6, 46
    key = jax.random.key(0)
    z = video(side, side)

    def oracle(z, level, cond):
        flat = jnp.ones_like(z)
        return blur(flat, level, cond) + 0.01 * blur(z, level, cond)

    def walked(merge):
        large = tiled(oracle, size, size, overlap, merge, region_of)
        return jax.jit(partial(DDIM(), large))(z, levels, Cond(), key)

    inner = (..., slice(6, -6), slice(6, -6), slice(None))
    hard, soft = walked(FIRST), walked(GAUSSIAN)
    whole = jax.jit(partial(DDIM(), oracle))(z, levels, Cond(), key)
    off = [float(jnp.abs(drawn - whole)[inner].max()) for drawn in (hard, soft)]
    assert off[0] > 0.3 and off[1] < 0.1 * off[0]
    assert step(soft) < 0.1 * step(hard)


def test_the_tiles_of_one_step_see_the_same_noise_and_the_same_of_the_cond():
    seen = []

    def watch(z, level, cond):
        jax.debug.callback(lambda *parts: seen.append(parts), z, cond.concat, ordered=True)
        return z

    z, beside = video(8, 14), video(8, 14, seed=1)
    jax.block_until_ready(tiled(watch, 8, 6, 2, GAUSSIAN, region_of)(z, LEVEL, Cond(concat=beside)))
    jax.effects_barrier()
    assert len(seen) == 3
    for begin, parts in zip(starts(14, 6, 2), seen, strict=True):
        for part, whole in zip(parts, (z, beside), strict=True):
            np.testing.assert_array_equal(part, whole[:, :, :, begin : begin + 6])


def test_tiles_are_as_few_as_reach_and_share_what_is_asked():
    begin = starts(30, 8, 3)
    assert begin[0] == 0 and begin[-1] == 22
    assert all(a + 8 - b >= 3 for a, b in pairwise(begin))
    with pytest.raises(Refusal, match="share from 1 to 7"):
        tiled(each, 8, 8, 8, GAUSSIAN, region_of)(video(20, 20), LEVEL, Cond())
    with pytest.raises(Refusal, match="variance"):
        Gaussian(0.0)


def test_memory_is_that_of_one_tile():
    def wide(z, level, cond):
        """Holds 64 numbers for every position."""
        return jnp.tanh(jnp.tanh(z * jnp.ones((1, 1, 1, 1, 64))) @ jnp.ones((64, 1)))

    def held(run, side):
        z = jax.ShapeDtypeStruct((1, 2, side, side, 1), jnp.float32)
        lowered = jax.jit(lambda z: run(z, LEVEL, Cond())).lower(z)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    large = tiled(wide, 16, 16, 4, GAUSSIAN, region_of)
    assert held(wide, 64) > 10 * held(wide, 16)
    assert held(large, 64) < 2 * held(wide, 16)
