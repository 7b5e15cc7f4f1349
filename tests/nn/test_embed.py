import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from vdm_jax.nn.embed import (
    EmbeddingMLP,
    RelativeBias,
    relative_buckets,
    sinusoid,
    timestep_embedding,
)


@pytest.mark.parametrize(
    ("offset", "bucket"),
    [
        (0, 0),
        (-1, 1),
        (-7, 7),
        (-8, 8),  # the first logarithmic bucket: 8 + 8 log(d/8) / log(128/8)
        (-16, 10),
        (-64, 14),
        (-127, 15),
        (-128, 15),
        (-150, 15),
        (1, 17),
        (7, 23),
        (8, 24),
        (32, 28),
        (150, 31),
    ],
)
def test_buckets_are_t5s(offset, bucket):
    """Offset is the key's position less the query's."""
    query = max(0, -offset)
    assert relative_buckets(160)[query, query + offset] == bucket


def test_buckets_depend_on_distance_alone_and_use_all_exact_ones():
    buckets = relative_buckets(16)
    for shift in range(-15, 16):
        assert len(set(np.diagonal(buckets, shift))) == 1
    assert set(buckets[0, :8]) | set(buckets[:8, 0]) == {*range(8), *range(17, 24)}


def test_bias_reads_its_table_by_bucket():
    with nnx.use_eager_sharding(False):  # noqa: FBT003
        bias = RelativeBias(3, rngs=nnx.Rngs(0))
    bias.table[...] = jnp.arange(32.0 * 3).reshape(32, 3)
    out = bias(5)
    assert out.shape == (3, 5, 5)
    assert out[2, 4, 0] == 4 * 3 + 2  # query 4, key 0: bucket 4
    assert out[1, 0, 3] == (16 + 3) * 3 + 1


def test_sinusoid_by_hand():
    out = sinusoid(jnp.array([[0.0, 2.0]]), 4, slowest=0.5, fastest=3.0)
    assert out.shape == (1, 2, 4)
    np.testing.assert_allclose(out[0, 0], [1, 1, 0, 0])
    wanted = [np.cos(6), np.cos(1), np.sin(6), np.sin(1)]
    np.testing.assert_allclose(out[0, 1], wanted, atol=1e-6)


def test_sinusoid_tells_levels_apart():
    levels = jnp.linspace(-2, 2, 81)
    out = sinusoid(levels, 32)
    distances = jnp.linalg.norm(out[:, None] - out[None], axis=-1)
    distances = distances + 10 * jnp.eye(81)
    assert distances.min() > 0.5
    assert jnp.isfinite(jax.grad(lambda x: sinusoid(x, 8).sum())(jnp.array(0.3)))


def test_timestep_embedding_by_hand():
    out = timestep_embedding(jnp.array([[0.0], [127.0]]), 4)
    assert out.shape == (2, 1, 4)
    np.testing.assert_array_equal(out[0, 0], [1, 1, 0, 0])
    wanted = [np.cos(127), np.cos(1.27), np.sin(127), np.sin(1.27)]
    np.testing.assert_allclose(out[1, 0], wanted, atol=2e-6)


@pytest.mark.parity
@pytest.mark.parametrize("width", [8, 256, 320])
def test_timestep_embedding_is_that_of_diffusers(width):
    from diffusers.models.embeddings import Timesteps

    x = np.array([-1.55, -0.3, 0.0, 0.02, 1.638, 6.0, 24.0, 127.0], np.float32)
    theirs = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
    wanted = theirs(torch.from_numpy(x)).numpy()
    # the phase of 127 radians is known to half an ulp, 4e-6
    np.testing.assert_allclose(timestep_embedding(jnp.asarray(x), width), wanted, atol=1e-5)


def test_embedding_mlp_is_linear_silu_linear(key):
    with nnx.use_eager_sharding(False):  # noqa: FBT003
        mlp = EmbeddingMLP(3, 5, 4, dtype="float32", rngs=nnx.Rngs(0))
    x = jax.random.normal(key, (2, 6, 3))
    hidden = x @ mlp.linear_1.kernel[...]
    wanted = hidden * jax.nn.sigmoid(hidden) @ mlp.linear_2.kernel[...]
    np.testing.assert_allclose(mlp(x), wanted, atol=1e-6)
