import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.core.mesh import MeshConfig, unplaced
from vdm_jax.nn.transformer import (
    Attention,
    FeedForward,
    SpaceBlock,
    SpaceTimeTransformer,
    TimeBlock,
    split_after,
    split_before,
)

SIZES = {"dtype": "float32"}


def filled(make, seed=0):
    """A module of random parameters."""
    with unplaced():
        module = make(nnx.Rngs(0))
    rng = np.random.default_rng(seed)
    for _, variable in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        variable[...] = jnp.asarray(rng.normal(0, 0.4, variable.shape), jnp.float32)
    return module


def attention(rngs):
    return Attention(8, 5, 2, 3, **SIZES, rngs=rngs)


def naive_attention(layer, x, context):
    """The definition, one video and one head at a time, in float64."""
    q, k, v, out = (
        np.asarray(part.kernel[...], np.float64)
        for part in (layer.to_q, layer.to_k, layer.to_v, layer.to_out)
    )
    total = np.zeros(x.shape) + np.asarray(layer.to_out.bias[...])
    for row in range(len(x)):
        for head in range(q.shape[1]):
            keys, values = context[row] @ k[:, head], context[row] @ v[:, head]
            scores = x[row] @ q[:, head] @ keys.T / np.sqrt(q.shape[2])
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            total[row] += weights @ values @ out[head]
    return total


@pytest.mark.parametrize("tokens", [1, 4])
def test_attention_is_its_definition(key, tokens):
    layer = filled(attention)
    kx, kc = jax.random.split(key)
    x, context = jax.random.normal(kx, (2, 6, 8)), jax.random.normal(kc, (2, tokens, 5))
    wanted = naive_attention(layer, np.asarray(x), np.asarray(context))
    got = np.broadcast_to(layer(x, context), x.shape)
    np.testing.assert_allclose(got, wanted, atol=2e-5)


def test_one_token_is_many_equal_ones(key):
    """What needs no attention equals the attention it spares."""
    layer = filled(attention)
    x, context = jax.random.normal(key, (2, 6, 8)), jnp.ones((2, 1, 5))
    full = layer(x, jnp.broadcast_to(context, (2, 3, 5)))
    assert layer(x, context).shape == (2, 1, 8)
    np.testing.assert_allclose(full, np.broadcast_to(layer(x, context), x.shape), atol=1e-5)


@pytest.mark.parametrize("rows", [5, 500])
def test_halves_are_the_same_by_one_product_and_by_two(key, rows):
    """Fewer and more entries than the kernel has."""
    with unplaced():
        linear = nnx.Linear(8, 12, dtype="bfloat16", rngs=nnx.Rngs(0))
    linear.bias[...] = jnp.arange(12.0)
    x = jax.random.normal(key, (rows, 8))
    for a, b in zip(split_before(linear, x), split_after(linear, x), strict=True):
        assert a.dtype == b.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype("float32"), b.astype("float32"), atol=0.05)


def test_one_token_computes_no_scores(key):
    layer = filled(attention)
    program = jax.make_jaxpr(layer)(jnp.zeros((2, 6, 8)), jnp.zeros((2, 1, 5)))
    assert str(program).count("dot_general") == 2
    assert "exp" not in str(program)


def test_feed_forward_is_gated_by_the_exact_gelu():
    layer = filled(lambda rngs: FeedForward(1, **SIZES, rngs=rngs))
    layer.proj.kernel[...] = jnp.zeros((1, 8)).at[0, 0].set(3).at[0, 4].set(1)
    layer.proj.bias[...] = jnp.zeros(8)
    layer.out.kernel[...], layer.out.bias[...] = jnp.ones((4, 1)), jnp.zeros(1)
    x = 0.7
    erf = 0.5160726955538527  # of 0.7 / sqrt(2)
    np.testing.assert_allclose(layer(jnp.array([x])), 3 * x * x * (1 + erf) / 2, rtol=1e-6)


def called(block, x, context):
    """What a block makes of a video with the context "b l d"."""
    return {
        SpaceBlock: lambda: block(x, context[:, None], None),
        TimeBlock: lambda: block(x, context[:, None, None]),
    }[type(block)]()


@pytest.mark.parametrize("kind", [SpaceBlock, TimeBlock])
def test_a_sequence_is_alone_with_its_context(key, kind):
    block = filled(lambda rngs: kind(8, 5, 2, **SIZES, rngs=rngs))
    x, context = jax.random.normal(key, (2, 3, 4, 8)), jax.random.normal(key, (2, 2, 5))
    before = called(block, x, context)
    moved = np.abs(called(block, x.at[0, 1, 2].add(1), context) - before).max((2, 3))
    assert moved[0, 1] > 1e-3 and np.delete(moved.ravel(), 1).max() == 0
    moved = np.abs(called(block, x, context.at[0].add(1)) - before).max((2, 3))
    assert (moved[0] > 1e-3).all() and (moved[1] == 0).all()


@pytest.mark.parametrize("kind", [SpaceBlock, TimeBlock])
@pytest.mark.parametrize("tokens", [1, 2])
def test_a_block_is_the_sum_of_its_residual_layers(key, kind, tokens):
    block = filled(lambda rngs: kind(8, 5, 2, **SIZES, rngs=rngs))
    context = jax.random.normal(key, (2, tokens, 5))
    x = start = jax.random.normal(key, (2, 3, 4, 8))
    if kind is TimeBlock:
        x = x + block.ff_in(block.norm_in(x))
    normed = block.norm1(x)
    x = x + block.attn1(normed, normed)
    received = block.attn2(block.norm2(x).reshape(2, 12, 8), context)
    x = x + jnp.broadcast_to(received, (2, 12, 8)).reshape(x.shape)
    x = x + block.ff(block.norm3(x))
    np.testing.assert_allclose(called(block, start, context), x, atol=2e-5)


def transformer(rngs):
    return SpaceTimeTransformer(8, 5, 2, layers=2, groups=2, eps=1e-6, **SIZES, rngs=rngs)


@pytest.fixture
def video(key):
    return jax.random.normal(key, (2, 4, 3, 8, 8)), jax.random.normal(key, (2, 1, 1, 5))


def test_a_new_transformer_passes_its_input_through(video):
    with unplaced():
        fresh = transformer(nnx.Rngs(0))
    np.testing.assert_array_equal(fresh(*video, None), video[0])


def test_frames_reach_each_other_at_their_own_pixel_and_know_their_index(video):
    layer = filled(transformer)
    x, context = video
    same = jnp.broadcast_to(x[:, :1], x.shape)
    out = layer(same, context, None)
    assert np.abs(out[:, 0] - out[:, 1]).max() > 1e-3
    lone = layer(same, context, jnp.ones((2, 4), bool))
    np.testing.assert_allclose(lone[:, 0], lone[:, 1], atol=1e-6)


def test_frames_over_devices_share_the_work_in_time(video):
    """Each device has all frames of some pixels there: nothing is computed twice."""
    graph, state = nnx.split(filled(transformer))

    def compiled(mesh):
        with jax.set_mesh(mesh):
            run = jax.jit(lambda s, *args: nnx.merge(graph, s)(*args, None))
            return run.lower(state, *video).compile()

    one = compiled(MeshConfig(data=8).build())
    split = compiled(MeshConfig(data=2, context=4).build())
    whole = jax.jit(lambda s, *args: nnx.merge(graph, s)(*args, None))(state, *video)
    np.testing.assert_allclose(split(state, *video), whole, atol=2e-5)
    work = [program.cost_analysis()["flops"] for program in (one, split)]
    assert "all-to-all" in split.as_text()
    assert work[1] < 0.4 * work[0]
