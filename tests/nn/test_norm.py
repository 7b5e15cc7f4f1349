import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.nn.norm import EPS, GroupNorm, group_norm, group_norm_silu


def naive(x, scale, shift, groups, eps=EPS):
    f, h, w, c = x.shape
    grouped = x.astype(jnp.float32).reshape(f, h, w, groups, c // groups)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    variance = grouped.var((1, 2, 4), keepdims=True)
    normed = ((grouped - mean) / jnp.sqrt(variance + eps)).reshape(x.shape)
    return normed * scale[:, None, None] + shift[:, None, None]


def naive_silu(x, scale, shift, groups):
    return jax.nn.silu(naive(x, scale, shift, groups))


PAIRS = {"norm": (group_norm, naive), "silu": (group_norm_silu, naive_silu)}


def inputs(key, rows, shape=(3, 4, 5, 8)):
    kx, ks, kb = jax.random.split(key, 3)
    x = jax.random.normal(kx, shape) * 3 + 20  # far from zero: one-pass variance would cancel
    scale = 1 + 0.3 * jax.random.normal(ks, (rows, shape[-1]))
    return x, scale, jax.random.normal(kb, (rows, shape[-1]))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("pair", PAIRS)
def test_equals_the_definition(key, pair, rows):
    ours, theirs = PAIRS[pair]
    args = inputs(key, rows)
    np.testing.assert_allclose(ours(*args, 4), theirs(*args, 4), atol=2e-5)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("pair", PAIRS)
def test_gradient_equals_autodiff_of_the_definition(key, pair, rows):
    ours, theirs = PAIRS[pair]
    args = inputs(key, rows)
    wave = jnp.cos(jnp.arange(args[0].size, dtype=jnp.float32)).reshape(args[0].shape)

    def loss(form):
        return lambda *a: (form(*a, 4) * wave).sum()

    got = jax.jit(jax.grad(loss(ours), (0, 1, 2)))(*args)
    wanted = jax.jit(jax.grad(loss(theirs), (0, 1, 2)))(*args)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_frame_is_normalised_by_itself(key):
    x, scale, shift = inputs(key, 1)
    before = group_norm_silu(x, scale, shift, 2)
    after = group_norm_silu(x.at[1].multiply(9), scale, shift, 2)
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[2], after[2])


def test_bfloat16_is_normalised_in_float32(key):
    x, scale, shift = inputs(key, 1)
    low = x.astype(jnp.bfloat16)
    out = group_norm(low, scale, shift, 4)
    assert out.dtype == jnp.bfloat16
    exact = naive(low, scale, shift, 4)
    np.testing.assert_allclose(out.astype(jnp.float32), exact, rtol=2**-8, atol=1e-3)
    grads = jax.grad(lambda *a: group_norm_silu(*a, 4).astype(jnp.float32).sum(), (0, 1, 2))(
        low, scale, shift
    )
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.float32, jnp.float32]
    assert all(jnp.isfinite(g).all() for g in grads)


def test_film_scales_and_shifts_after_the_learned_affine(key):
    x, _, _ = inputs(key, 1)
    norm = GroupNorm(8, 4, rngs=nnx.Rngs(0))
    norm.scale[...] = jnp.linspace(0.5, 2, 8)
    norm.shift[...] = jnp.linspace(-1, 1, 8)
    film = jax.random.normal(key, (3, 2, 8))
    gain, offset = film[:, 0, None, None], film[:, 1, None, None]
    wanted = jax.nn.silu(norm(x) * (1 + gain) + offset)
    np.testing.assert_allclose(norm.film_silu(x, film), wanted, atol=1e-5)
    np.testing.assert_allclose(norm.silu(x), jax.nn.silu(norm(x)), atol=1e-6)


@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_eps_is_added_to_the_variance(key, eps):
    x, scale, shift = inputs(key, 1)
    x = (x - 20) / 50  # a variance of the order of eps
    norm = GroupNorm(8, 4, eps=eps, rngs=nnx.Rngs(0))
    norm.scale[...], norm.shift[...] = scale[0], shift[0]
    wanted = naive(x, scale, shift, 4, eps)
    np.testing.assert_allclose(norm(x), wanted, atol=2e-5)
    np.testing.assert_allclose(norm.silu(x), jax.nn.silu(wanted), atol=2e-5)
    zeros = jnp.zeros((3, 2, 8))
    np.testing.assert_allclose(norm.film_silu(x, zeros), jax.nn.silu(wanted), atol=2e-5)


def test_a_video_as_one_frame_is_normalised_over_all_its_frames(key):
    x, scale, shift = inputs(key, 1, (2, 3, 4 * 5, 8))  # b t (h w) c
    each = [
        np.concatenate(list(naive(video[None], scale, shift, 4))).reshape(3, 20, 8) for video in x
    ]
    np.testing.assert_allclose(group_norm(x, scale, shift, 4), np.stack(each), atol=2e-5)
