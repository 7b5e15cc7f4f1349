"""Operations counted from the traced program equal those counted by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from vdm_jax.nn.attention_forms import attend_splash
from vdm_jax.train.operations import operations


def counted(function, *args):
    return operations(jax.jit(function).trace(*args).jaxpr)


def test_a_loop_counts_as_often_as_it_goes_round_and_what_is_computed_again_counts_again():
    def loss(x, w):
        layer = jax.checkpoint(lambda x, _: (jnp.tanh(x @ w) @ w, None))
        return jax.lax.scan(layer, x, None, length=5)[0].sum()

    x, w = jnp.zeros((4, 8)), jnp.zeros((8, 8))
    product = 2 * 4 * 8 * 8
    assert counted(loss, x, w) == 5 * 2 * product
    # Two products there; on the way back the first again, then two by the gradient.
    assert counted(jax.grad(loss), x, w) == 5 * (2 + 1 + 2) * product


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 4)])
def test_a_convolution_costs_as_much_in_each_direction(stride, groups):
    def loss(x, w):
        y = jax.lax.conv_general_dilated(
            x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )  # fmt: skip
        return (y**2).sum()

    x, w = jnp.zeros((2, 16, 16, 8)), jnp.zeros((3, 3, 8 // groups, 16))
    once = 2 * 2 * (16 // stride) ** 2 * 16 * 9 * 8 // groups
    assert counted(loss, x, w) == once
    assert counted(jax.grad(loss, (0, 1)), x, w) == 3 * once


def test_a_branch_costs_as_much_as_its_dearest_and_a_device_is_one_of_all():
    x, w = jnp.zeros((16, 8)), jnp.zeros((8, 8))
    either = lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x)  # noqa: E731
    assert counted(either, x, w) == 2 * 16 * 8 * 8
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    rows = PartitionSpec("x")
    spread = jax.shard_map(
        lambda x, w: x @ w, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows
    )
    assert counted(spread, x, w) == 2 * 16 * 8 * 8


def test_the_kernel_of_tpus_is_seen_into():
    q = jnp.zeros((2, 4, 1024, 64), jnp.bfloat16)
    product = 2 * 2 * 4 * 1024 * 1024 * 64
    attend = lambda q: attend_splash(q, q, q, None, None).astype(jnp.float32).sum()  # noqa: E731
    assert counted(attend, q) == 2 * product
    assert counted(jax.grad(attend), q) == pytest.approx(9 * product, rel=1e-3)
