"""Ways between arrays: both ends to the bit, even turning, norms kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.diffusion.interpolate import PARALLEL, lerp, slerp

SHAPES = [(7,), (3, 4, 5), (2, 1, 4, 4, 3)]


def pair(shape):
    """Two draws, brought to one norm."""
    a, b = jax.random.normal(jax.random.key(len(shape)), (2, *shape))
    return a, b * jnp.linalg.norm(a.ravel()) / jnp.linalg.norm(b.ravel())


def at_angle(angle):
    """Two vectors of norm 2 with this angle between them."""
    return jnp.array([2.0, 0.0, 0.0]), 2 * jnp.array([np.cos(angle), np.sin(angle), 0.0])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("way", [lerp, slerp])
def test_the_ends_are_the_arrays_to_the_bit(way, dtype):
    a, b = (x.astype(dtype) for x in pair((3, 4, 5)))
    for run in (way, jax.jit(way)):
        np.testing.assert_array_equal(run(a, b, 0.0), a)
        np.testing.assert_array_equal(run(a, b, 1.0), b)
        assert run(a, b, 0.5).dtype == a.dtype
        assert (run(a, b, 0.5) != a).any() and (run(a, b, 0.5) != b).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_sphere_is_not_left_and_turned_on_evenly(shape):
    a, b = pair(shape)
    unit = lambda x: np.asarray(x, np.float64).ravel() / np.linalg.norm(x)  # noqa: E731
    whole = np.arccos(unit(a) @ unit(b))
    for t in (0.1, 0.25, 0.5, 0.8):
        between = slerp(a, b, t)
        assert np.linalg.norm(between) == pytest.approx(np.linalg.norm(a), rel=1e-5)
        assert np.arccos(unit(a) @ unit(between)) == pytest.approx(t * whole, rel=1e-3)
        assert np.arccos(unit(between) @ unit(b)) == pytest.approx((1 - t) * whole, rel=1e-3)


def test_the_straight_way_is_inside_of_the_sphere():
    a, b = pair((64, 64))
    assert np.linalg.norm(lerp(a, b, 0.5)) < 0.8 * np.linalg.norm(a)
    np.testing.assert_allclose(lerp(a, b, 0.25), 0.75 * a + 0.25 * b, rtol=1e-6, atol=1e-6)


def test_a_right_angle_in_closed_form():
    a, b = at_angle(np.pi / 2)
    np.testing.assert_allclose(slerp(a, b, 1 / 3), [2 * np.cos(np.pi / 6), 1.0, 0.0], atol=1e-6)


def test_the_straight_way_is_taken_just_above_the_bound():
    for angle, straight in ((0.9, True), (1.1, False)):
        a, b = at_angle(angle * np.arccos(PARALLEL))
        gap = np.linalg.norm(slerp(a, b, 0.5)) - np.linalg.norm(lerp(a, b, 0.5))
        assert (gap == 0) == straight


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (1.0, -1.0), (1.0, 0.0), (0.0, 0.0)])
def test_parallel_opposite_and_no_vectors_are_joined_straight(a, b):
    a, b = jnp.full((5,), a), jnp.full((5,), b)
    np.testing.assert_allclose(slerp(a, b, 0.25), lerp(a, b, 0.25), atol=1e-6)
