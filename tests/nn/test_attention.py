from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.core.mesh import MeshConfig
from vdm_jax.nn import attention
from vdm_jax.nn import attention_forms as forms
from vdm_jax.nn.attention import AttentionPool, Frames, SpaceAttention, TimeAttention
from vdm_jax.nn.patterns import joint_mask
from vdm_jax.nn.platform import compiling_for

FORMS = {
    "einsum": forms.attend_einsum,
    "products": forms.attend_products,
    "fused": forms.attend_fused,
    "chunked": forms.attend_chunked,
    "each": forms.attend_each,
    **forms.FORMS,
}


@pytest.fixture
def small_tiles(monkeypatch):
    """Limits so low that tiny inputs are cut, with a remainder."""
    for name, limit in (("TILE", 600), ("CACHE", 80), ("WHOLE", 80), ("ROWS", 3), ("SHORT", 4)):
        monkeypatch.setattr(forms, name, limit)


def naive(q, k, v, bias, mask):
    """The definition, in float64, one head at a time."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    out = np.zeros(q.shape)
    for index in np.ndindex(*q.shape[:-2]):
        scores = q[index] @ k[index].T / np.sqrt(q.shape[-1])
        if bias is not None:
            scores = scores + np.asarray(bias[index[-1]], np.float64)
        if mask is not None:
            scores = np.where(
                np.broadcast_to(mask, (*q.shape[:-3], *mask.shape[-2:]))[index[:-1]],
                scores,
                -np.inf,
            )
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[index] = weights / weights.sum(-1, keepdims=True) @ v[index]
    return out


def inputs(key, rows, keys, heads=2, size=4, batch=(2, 3)):
    kq, kk, kv, kb, km = jax.random.split(key, 5)
    q = jax.random.normal(kq, (*batch, heads, rows, size))
    k = jax.random.normal(kk, (*batch, heads, keys, size))
    v = jax.random.normal(kv, (*batch, heads, keys, size))
    bias = jax.random.normal(kb, (heads, rows, keys))
    mask = jax.random.bernoulli(km, 0.5, (batch[0], 1, rows, keys)).at[..., 0].set(True)
    return q, k, v, bias, mask


@pytest.mark.parametrize("rows", [8, 7])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_attention(key, form, rows, small_tiles):
    q, k, v, bias, mask = inputs(key, rows=rows, keys=6)
    for ports in ((None, None), (bias, None), (None, mask), (bias, mask)):
        run = jax.jit(FORMS[form])
        np.testing.assert_allclose(run(q, k, v, *ports), naive(q, k, v, *ports), atol=2e-6)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_gradient(key, form, small_tiles):
    q, k, v, bias, mask = inputs(key, rows=7, keys=8, batch=(2, 1))
    wave = jnp.cos(jnp.arange(q.size, dtype=jnp.float32)).reshape(q.shape)

    def gradient(form):
        loss = lambda q, k, v, b: (form(q, k, v, b, mask) * wave).sum()  # noqa: E731
        return jax.jit(jax.grad(loss, (0, 1, 2, 3)))(q, k, v, bias)

    for got, wanted in zip(gradient(FORMS[form]), gradient(plain_attention), strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_in_bfloat16_is_as_near_as_its_output_can_be(key, form, small_tiles):
    q, k, v = (a.astype(jnp.bfloat16) for a in inputs(key, rows=7, keys=6)[:3])
    got = np.asarray(FORMS[form](q, k, v, None, None), np.float32)
    wanted = naive(q, k, v, None, None)
    np.testing.assert_allclose(got, wanted, atol=0.02)


def plain_attention(q, k, v, bias, mask):
    scores = jnp.einsum("...qk,...sk->...qs", q, k) / np.sqrt(q.shape[-1])
    scores = scores + bias.reshape((1,) * (scores.ndim - 3) + bias.shape)
    weights = jax.nn.softmax(jnp.where(mask[..., None, :, :], scores, -jnp.inf))
    return jnp.einsum("...qs,...sk->...qk", weights, v)


@pytest.mark.parametrize("rows", [3072, 3001])
def test_long_sequences_are_cut_into_tiles_on_cpu(key, rows):
    q, k, v, _, _ = inputs(key, rows=rows, keys=rows, batch=(1,), heads=1)
    compiled = jax.jit(lambda *a: attention.attend(*a)).lower(q, k, v).compile()
    assert f"{rows},{rows}" not in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * rows * rows / 4
    np.testing.assert_allclose(
        compiled(q, k, v), forms.attend_einsum(q, k, v, None, None), atol=1e-5
    )


@pytest.mark.parametrize("rows", [256, 200])
def test_splash_attention_interpreted(key, rows, monkeypatch):
    """Values and gradients of the kernel for TPU, several blocks and a padded one."""
    monkeypatch.setattr(forms, "BLOCK", 128)
    q, k, v, _, _ = inputs(key, rows=rows, keys=rows, heads=2, size=8, batch=(2, 1))

    def run(form):
        loss = lambda q, k, v: (form(q, k, v, None, None) ** 2).sum()  # noqa: E731
        return form(q, k, v, None, None), jax.grad(loss, (0, 1, 2))(q, k, v)

    got = run(partial(forms.attend_splash, interpret=True))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(run(forms.attend_einsum)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_splash_attention_on_a_mesh_interpreted(key):
    """Each device attends for its own rows, frames and heads; what does not divide stays whole."""
    mesh = MeshConfig(data=2, context=2, tensor=2).build()
    for batch in ((2, 2), (2, 3), (2,)):
        q, k, v, _, _ = inputs(key, rows=128, keys=128, size=8, batch=batch)
        with jax.set_mesh(mesh):
            got = jax.jit(partial(forms.attend_splash, interpret=True))(q, k, v, None, None)
        wanted = forms.attend_einsum(q, k, v, None, None)
        np.testing.assert_allclose(got, wanted, atol=2e-5)


FULL_SIZE = {  # the attention of Stable Video Diffusion at 576x1024 pixels, both halves of guidance
    "space, level 0": (2, 25, 5, 9216, 64),
    "space, level 1": (2, 25, 10, 2304, 64),
    "space, level 2": (2, 25, 20, 576, 64),
    "autoencoder": (8, 1, 9216, 512),
}


def lowered(platform, name, shape, dtype):
    q = jax.ShapeDtypeStruct(shape, dtype)
    with compiling_for(platform):
        traced = jax.jit(lambda *a: attention.attend(*a)).trace(q, q, q)
        return traced.lower(lowering_platforms=(name,)).as_text()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("level", FULL_SIZE)
def test_full_size_on_tpu_makes_no_matrix_of_scores(level, dtype):
    shape = FULL_SIZE[level]
    text = lowered("tpu", "tpu", shape, dtype)
    assert ("tpu_custom_call" in text) == (dtype == "bfloat16" and shape[-1] < 512)
    assert f"{shape[-2]}x{shape[-2]}x" not in text


@pytest.mark.parametrize("level", FULL_SIZE)
def test_full_size_on_gpu_makes_no_matrix_of_scores(level):
    shape = FULL_SIZE[level]
    text = lowered("gpu", "cuda", shape, "float32")
    assert f"{shape[-2]}x{shape[-2]}x" not in text


def test_a_short_sequence_on_tpu_needs_no_matrix_product():
    text = lowered("tpu", "tpu", (2, 144, 5, 25, 64), "bfloat16")
    assert "dot_general" not in text


def test_a_forbidden_key_changes_no_bit(key):
    q, k, v, bias, mask = inputs(key, rows=5, keys=5)
    mask = mask.at[..., 3].set(False)
    before = attention.attend(q, k, v, bias=bias, mask=mask)
    k, v = k.at[..., 3, :].multiply(-7), v.at[..., 3, :].add(100)
    after = attention.attend(q, k, v, bias=bias, mask=mask)
    np.testing.assert_array_equal(before, after)


def test_joint_mask_by_hand():
    mask = joint_mask(jnp.array([[False, False, True, True]]))
    wanted = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(mask[0], np.array(wanted, bool))


def test_tiles_are_the_whole(key):
    """Values and gradients, a mask of its own for each video included."""
    kx, kw, km = jax.random.split(key, 3)
    x, weight = jax.random.normal(kx, (2, 6, 4, 3)), jax.random.normal(kw, (3, 3))
    mask = jax.random.bernoulli(km, 0.5, (2, 4, 4))

    def run(tiling):
        def value(x, weight):
            def layer(x, mask):
                return jnp.tanh((mask[:, None] @ x) @ weight)

            return (tiling(layer, x, mask.astype(x.dtype), 10, 30) ** 2).sum()

        return jax.jit(jax.value_and_grad(value, (0, 1)))(x, weight)

    for a, b in zip(
        jax.tree.leaves(run(attention.tiled)), jax.tree.leaves(run(attention.whole)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def awake(mixer, key):
    """A mixer whose output projection is not zero, as after training."""
    kernel = mixer.out
    kernel[...] = jax.random.normal(key, kernel.shape) * 0.1
    return mixer


@pytest.fixture
def sizes():
    with nnx.use_eager_sharding(False):  # noqa: FBT003
        yield {"heads": 2, "head_size": 4, "groups": 2, "dtype": "float32", "rngs": nnx.Rngs(0)}


def test_a_new_mixer_passes_its_input_through(key, sizes):
    x = jax.random.normal(key, (1, 3, 2, 2, 8))
    frames = Frames(jnp.zeros((2, 3, 3)), None)
    for kind in (SpaceAttention, TimeAttention):
        np.testing.assert_array_equal(kind(8, **sizes)(x, frames), x)


def test_space_attention_stays_in_its_frame(key, sizes):
    mixer = awake(SpaceAttention(8, **sizes), key)
    x = jax.random.normal(key, (1, 3, 2, 2, 8))
    frames = Frames(jnp.zeros((2, 3, 3)), None)
    moved = mixer(x.at[0, 1, 0, 0].add(jnp.arange(8.0)), frames) - mixer(x, frames)
    reach = np.abs(np.asarray(moved)).max(-1)[0]
    assert (reach[[0, 2]] == 0).all()
    assert (reach[1] > 0).all()


def test_time_attention_stays_at_its_pixel(key, sizes):
    """Apart from group norm, whose statistics span a frame: the queried frame is the other."""
    mixer = awake(TimeAttention(8, **sizes), key)
    mixer.norm = lambda x: x
    x = jax.random.normal(key, (1, 3, 2, 2, 8))
    frames = Frames(jnp.zeros((2, 3, 3)), None)
    moved = mixer(x.at[0, 1, 0, 0].add(jnp.arange(8.0)), frames) - mixer(x, frames)
    reach = np.abs(np.asarray(moved)).max(-1)[0]
    assert (reach[:, 0, 0] > 0).all()
    reach[:, 0, 0] = 0
    assert (reach == 0).all()


def test_time_attention_obeys_the_bias(key, sizes):
    """A bias that shuts every key but one makes all frames read that frame."""
    mixer = awake(TimeAttention(8, **sizes), key)
    x = jax.random.normal(key, (1, 3, 2, 2, 8))
    only_last = jnp.zeros((2, 3, 3)).at[..., :2].set(-1e9)
    added = mixer(x, Frames(only_last, None)) - x
    np.testing.assert_allclose(added[:, 0], added[:, 2], atol=1e-6)
    assert np.abs(mixer(x, Frames(only_last * 0, None)) - x - added).max() > 1e-3


def test_pool_of_no_token_is_its_null_and_ignores_masked_tokens(key):
    with nnx.use_eager_sharding(False):  # noqa: FBT003
        pool = AttentionPool(6, 5, heads=2, head_size=4, rngs=nnx.Rngs(0))
    tokens = jax.random.normal(key, (2, 3, 6))
    none = pool(jnp.zeros((2, 0, 6)), jnp.zeros((2, 0), bool))
    masked = pool(tokens, jnp.zeros((2, 3), bool))
    np.testing.assert_allclose(none, masked, atol=1e-6)
    np.testing.assert_allclose(none[0], none[1], atol=1e-6)
    one = jnp.array([[True, False, False]] * 2)
    read = pool(tokens, one)
    assert np.abs(read - none).max() > 1e-3
    np.testing.assert_array_equal(read, pool(tokens.at[:, 1:].multiply(5), one))
