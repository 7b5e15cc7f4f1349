"""The name of weights says what they are, not where or how they lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from vdm_jax.core.digest import digest
from vdm_jax.core.mesh import MeshConfig


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return {"kernel": rng.standard_normal((8, 4, 6)).astype(np.float32), "bias": np.zeros(6, "f4")}


def name(arrays):
    return digest(nnx.State({"conv": {n: nnx.Param(jnp.asarray(a)) for n, a in arrays.items()}}))


def test_sharding_and_type_do_not_count(arrays):
    mesh = MeshConfig(data=4, fsdp=2).build()
    spread = NamedSharding(mesh, PartitionSpec("data", "fsdp"))
    kernel = jax.device_put(arrays["kernel"], spread)
    assert name(arrays) == name({**arrays, "kernel": kernel})
    half = {n: jnp.asarray(a, jnp.bfloat16) for n, a in arrays.items()}
    assert name(arrays) == name(half)
    assert len(name(arrays)) == 16


@pytest.mark.parametrize("what", ["value", "order", "shape", "name", "bias"])
def test_everything_else_counts(arrays, what):
    kernel = arrays["kernel"]
    nudged = kernel.copy()
    nudged[3, 2, 1] *= 1.01
    others = {
        "value": {**arrays, "kernel": nudged},
        "order": {**arrays, "kernel": kernel[::-1]},
        "shape": {**arrays, "kernel": kernel.reshape(8, 6, 4)},
        "name": {"weight": kernel, "bias": arrays["bias"]},
    }
    others["bias"] = {**arrays, "bias": np.full(6, -1.0, "f4")}
    assert name(others[what]) != name(arrays)
