"""What layers of space and time exchange where a mesh cuts frames, counted in compiled programs.

Compiled as for accelerators: the loops over tiles of a CPU's forms are no place to count.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from vdm_jax.core import mesh as meshes
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.nn.attention import Frames, TimeAttention
from vdm_jax.nn.conv import framewise
from vdm_jax.nn.platform import compiling_for
from vdm_jax.nn.resblock import SpaceTimeResBlock
from vdm_jax.nn.transformer import SpaceTimeTransformer
from vdm_jax.train.collectives import collectives

CUT = MeshConfig(data=1, context=4)
SHAPE = (2, 8, 4, 4, 16)  # two videos on one shard: their frames do not lie in one run
EXCHANGES = {"all-to-all"}
SUMS = {"all-reduce"}
HALOS = {"collective-permute"}


def transformer():
    layer = SpaceTimeTransformer(
        16, 12, 2, layers=1, groups=4, eps=1e-6, dtype="float32", rngs=nnx.Rngs(0)
    )
    return layer, lambda layer, x: layer(x, jnp.ones((len(x), 1, 1, 12)), None)


def attention():
    layer = TimeAttention(16, heads=2, head_size=8, groups=4, dtype="float32", rngs=nnx.Rngs(0))
    return layer, lambda layer, x: layer(x, Frames(jnp.zeros((2, 8, 8)), None))


def resblock():
    layer = SpaceTimeResBlock(
        16, 16, embed_width=8, groups=4, eps=1e-5, time_eps=1e-5, dtype="float32", rngs=nnx.Rngs(0)
    )
    return layer, lambda layer, x: layer(x, jnp.ones((*x.shape[:2], 8)), None)


def compiled(make, config):
    """Gradients with respect to weights, which are whole everywhere, and to the input."""
    count = (config.data or 1) * config.context
    mesh = config.build_on(jax.devices()[:count])
    with meshes.unplaced():
        layer, call = make()
    graph, weights = nnx.split(layer)
    whole, cut = meshes.replicated(mesh), NamedSharding(mesh, PartitionSpec(None, "context"))

    def loss(weights, x):
        return jnp.square(call(nnx.merge(graph, weights), x)).sum()

    gradients = jax.jit(
        jax.grad(loss, argnums=(0, 1)), in_shardings=(whole, cut), out_shardings=(whole, cut)
    )
    with compiling_for("gpu"), jax.set_mesh(mesh):
        return gradients.lower(weights, jax.ShapeDtypeStruct(SHAPE, jnp.float32)).compile()


@pytest.mark.parametrize(
    ("make", "kinds"),
    [(transformer, EXCHANGES | SUMS), (attention, EXCHANGES | SUMS), (resblock, HALOS | SUMS)],
)
def test_no_device_repeats_the_work_of_another(make, kinds):
    """Layers that look at all frames exchange them for pixels, once each way and once back again;
    those that look at neighbours ask for these alone."""
    alone, cut = compiled(make, MeshConfig(data=1)), compiled(make, CUT)
    found = collectives(cut.as_text())
    assert found.keys() == kinds
    work = [program.cost_analysis()["flops"] for program in (alone, cut)]
    assert work[1] < 1.2 * work[0] / CUT.context
    if "all-to-all" in found:
        share = 4 * np.prod(SHAPE) // CUT.context
        assert found["all-to-all"] == (4, 4 * share)


def test_frames_of_several_videos_stay_where_they_are():
    mesh = MeshConfig(data=2, context=4).build()
    x = np.arange(4 * 8 * 3.0, dtype=np.float32).reshape(4, 8, 3)
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "context")))

    def layer(frames, beside):
        assert frames.shape == (32, 3)
        return frames[:, :2] * beside

    run = jax.jit(lambda x: framewise(layer, x, x[:, :, :1]), out_shardings=spread.sharding)
    with jax.set_mesh(mesh):
        np.testing.assert_array_equal(run(spread), x[..., :2] * x[..., :1])
        assert collectives(run.lower(spread).compile().as_text()) == {}
