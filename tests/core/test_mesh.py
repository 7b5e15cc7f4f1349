"""The mesh covers the devices, and the one table places every parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from vdm_jax.core import mesh as meshes
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal


def state(shape=(6, 8), axes=("embed", "mlp")):
    return {"kernel": nnx.Param(jnp.ones(shape), out_sharding=axes), "step": jnp.zeros(())}


@pytest.fixture(autouse=True)
def anywhere():
    with meshes.unplaced():
        yield


def test_the_data_axis_takes_what_the_others_leave():
    mesh = MeshConfig(fsdp=2, tensor=2).build()
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}
    assert meshes.batch_shards(mesh) == 4


@pytest.mark.parametrize("config", [MeshConfig(fsdp=3), MeshConfig(data=4), MeshConfig(tensor=0)])
def test_a_mesh_that_does_not_cover_the_devices_is_refused(config):
    with pytest.raises(Refusal, match="the 8 devices"):
        config.build()


def test_parameters_are_cut_by_their_logical_axes_and_the_rest_is_whole():
    placed = meshes.shardings(state(), MeshConfig(fsdp=2, tensor=2).build())
    assert placed["kernel"].get_value().spec == PartitionSpec("fsdp", "tensor")
    assert placed["step"].spec == PartitionSpec()


def test_an_axis_that_does_not_divide_stays_whole():
    placed = meshes.shardings(state(shape=(3, 8)), MeshConfig(fsdp=2, tensor=2).build())
    assert placed["kernel"].get_value().spec == PartitionSpec(None, "tensor")


def test_an_unknown_logical_axis_is_an_error():
    with pytest.raises(KeyError):
        meshes.shardings(state(axes=("embed", "typo")), MeshConfig().build())


def test_a_batch_lies_in_row_order_over_data_and_fsdp():
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    rows = np.arange(8.0)
    for put in (meshes.put_batch, meshes.put_whole_batch):
        batch = put({"x": rows}, mesh)["x"]
        np.testing.assert_array_equal(batch, rows)
        assert {shard.data.shape for shard in batch.addressable_shards} == {(2,)}


def constrained(shape, axes):
    with jax.set_mesh(MeshConfig(data=2, context=2, tensor=2).build()):
        return jax.jit(lambda x: meshes.constrain(x, axes))(jnp.ones(shape)).sharding.spec


def test_frames_are_cut_or_else_the_rows():
    axes = ("batch", "frames", "space", None, "heads")
    cut = lambda t, h, n: constrained((4, t, h, 3, n), axes)  # noqa: E731
    assert cut(4, 6, 2) == PartitionSpec("data", "context", None, None, "tensor")
    assert cut(5, 6, 2) == PartitionSpec("data", None, "context", None, "tensor")
    assert cut(5, 3, 5) == PartitionSpec("data")


def test_without_a_mesh_nothing_is_constrained():
    x = jnp.ones((3, 5))
    assert meshes.constrain(x, ("batch", "frames")) is x


def test_the_description_names_each_array_and_its_axes():
    text = meshes.describe(jax.eval_shape(state), MeshConfig(fsdp=2, tensor=2).build())
    assert "kernel" in text.splitlines()[0] and "(6, 8)" in text and "fsdp, tensor" in text
    assert "replicated" in text.splitlines()[1]
