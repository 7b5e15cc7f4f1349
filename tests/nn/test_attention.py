import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.nn import attention
from vdm_jax.nn.attention import AttentionPool, Frames, SpaceAttention, TimeAttention, joint_mask

FORMS = {
    "einsum": attention.attend_einsum,
    "products": attention.attend_products,
    "fused": attention.attend_fused,
    "chunked": attention.attend_chunked,
    "cpu": attention.FORMS["cpu"],
    "tpu": attention.FORMS["tpu"],
}


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


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_attention(key, form, monkeypatch):
    monkeypatch.setattr(attention, "CHUNK", 4)
    q, k, v, bias, mask = inputs(key, rows=8, keys=6)
    run = jax.jit(FORMS[form])
    for ports in ((None, None), (bias, None), (None, mask), (bias, mask)):
        np.testing.assert_allclose(run(q, k, v, *ports), naive(q, k, v, *ports), atol=2e-6)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_gradient(key, form, monkeypatch):
    monkeypatch.setattr(attention, "CHUNK", 4)
    q, k, v, bias, mask = inputs(key, rows=8, keys=8, batch=(2, 1))
    wave = jnp.cos(jnp.arange(q.size, dtype=jnp.float32)).reshape(q.shape)

    def gradient(form):
        loss = lambda q, k, v, b: (form(q, k, v, b, mask) * wave).sum()  # noqa: E731
        return jax.jit(jax.grad(loss, (0, 1, 2, 3)))(q, k, v, bias)

    for got, wanted in zip(gradient(FORMS[form]), gradient(plain_attention), strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-5)


def plain_attention(q, k, v, bias, mask):
    scores = jnp.einsum("...qk,...sk->...qs", q, k) / np.sqrt(q.shape[-1])
    scores = scores + bias.reshape((1,) * (scores.ndim - 3) + bias.shape)
    weights = jax.nn.softmax(jnp.where(mask[..., None, :, :], scores, -jnp.inf))
    return jnp.einsum("...qs,...sk->...qk", weights, v)


def test_long_sequences_are_cut_into_tiles_on_cpu(key):
    q, k, v, _, _ = inputs(key, rows=512, keys=512, batch=(1,))
    hlo = jax.jit(attention.attend).lower(q, k, v).compile().as_text()
    assert "512,512" not in hlo
    np.testing.assert_allclose(
        attention.attend(q, k, v), attention.attend_einsum(q, k, v, None, None), atol=1e-5
    )


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


def test_tiles_are_the_whole(key, monkeypatch):
    """Values and gradients, a mask of its own for each video included."""
    kx, kw, km = jax.random.split(key, 3)
    x, weight = jax.random.normal(kx, (2, 6, 4, 3)), jax.random.normal(kw, (3, 3))
    mask = jax.random.bernoulli(km, 0.5, (2, 4, 4))
    monkeypatch.setattr(attention, "CACHE", 30)

    def run(tiling):
        def value(x, weight):
            def layer(x, mask):
                return jnp.tanh((mask[:, None] @ x) @ weight)

            return (tiling(layer, x, mask.astype(x.dtype), 10) ** 2).sum()

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
