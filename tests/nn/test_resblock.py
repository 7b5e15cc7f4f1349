import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.core.mesh import unplaced
from vdm_jax.nn.remat import RematLayers
from vdm_jax.nn.resblock import Blend, ResnetBlock, SpaceTimeResBlock


def filled(make, seed=0):
    """A module of random parameters."""
    with unplaced():
        module = make(nnx.Rngs(0))
    rng = np.random.default_rng(seed)
    for _, variable in nnx.to_flat_state(nnx.state(module, nnx.Param)):
        variable[...] = jnp.asarray(rng.normal(0, 0.4, variable.shape), jnp.float32)
    return module


def space_time(rngs, **parts):
    sizes = {"embed_width": 3, "groups": 2, "eps": 1e-5, "time_eps": 1e-5, "dtype": "float32"}
    return SpaceTimeResBlock(4, 8, **sizes, **parts, rngs=rngs)


@pytest.fixture
def video(key):
    kx, ke = jax.random.split(key)
    return jax.random.normal(kx, (2, 3, 4, 5, 4)), jax.random.normal(ke, (2, 3, 3))


def test_blend_by_hand():
    blend = Blend(0.0)
    blend.mix[...] = jnp.log(jnp.array([3.0]))  # a = 3/4
    space, time = jnp.full((1, 2, 3, 1), 8.0), jnp.full((1, 2, 3, 1), 4.0)
    np.testing.assert_allclose(blend(space, time, None), 7.0, rtol=1e-6)
    lone = blend(space, time, jnp.array([[False, True]]))
    np.testing.assert_allclose(lone[0, :, 0, 0], [7, 8], rtol=1e-6)
    assert lone[0, 1, 0, 0] == 8
    assert Blend().mix[...] == 0.5


def test_a_new_block_passes_its_input_through(video):
    x, embed = video
    with unplaced():
        block = ResnetBlock(
            4, 4, groups=2, eps=1e-5, embed_width=3, dtype="float32", rngs=nnx.Rngs(0)
        )
    np.testing.assert_array_equal(block(x[0], embed[0][:, None, None]), x[0])


def test_a_block_without_an_embedding_has_no_projection(video):
    x, _ = video
    block = filled(
        lambda rngs: ResnetBlock(
            4, 6, groups=2, eps=1e-5, embed_width=None, dtype="float32", rngs=rngs
        )
    )
    assert block.time_emb_proj is None
    assert block(x[0], None).shape == (3, 4, 5, 6)


def test_each_frame_hears_its_own_embedding_in_space_and_in_time(video):
    x, embed = video
    block = filled(space_time)
    other = embed.at[0, 1].add(1)
    space = block.space(x[0], embed[0][:, None, None])
    moved = np.abs(space - block.space(x[0], other[0][:, None, None])).max((1, 2, 3))
    assert moved[1] > 1e-3 and moved[0] == moved[2] == 0
    changed = np.abs(block(x, embed, None) - block(x, other, None)).max((2, 3, 4))
    assert (changed[0] > 1e-4).all() and (changed[1] == 0).all()


def test_space_then_time_blended(video):
    x, embed = video
    block = filled(space_time)
    block.blend.mix[...] = jnp.array([50.0])  # all space
    space = block.space(x.reshape(6, 4, 5, 4), embed.reshape(6, 1, 1, 3)).reshape(2, 3, 4, 5, 8)
    np.testing.assert_allclose(block(x, embed, None), space, atol=1e-6)
    block.blend.mix[...] = jnp.array([-50.0])  # all time
    time = block.time(space.reshape(2, 3, 20, 8), embed[:, :, None])
    np.testing.assert_allclose(block(x, embed, None), time.reshape(space.shape), atol=1e-6)
    lone = block(x, embed, jnp.ones((2, 3), bool))
    np.testing.assert_allclose(lone, space, atol=1e-6)


def test_remat_changes_no_value_and_no_gradient(video):
    def gradients(block):
        graph, state = nnx.split(block)
        grad = jax.jit(jax.grad(lambda s: (nnx.merge(graph, s)(*video, None) ** 2).mean()))
        return grad(state)

    kept = gradients(filled(space_time))
    again = gradients(filled(lambda rngs: space_time(rngs, remat=RematLayers())))
    for a, b in zip(jax.tree.leaves(kept), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
