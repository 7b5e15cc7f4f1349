"""Exchanges read from compiled programs: of eight CPU devices, and from XLA's text for TPU."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vdm_jax.train.collectives import Exchange, collectives

LAYERS, WIDTH, ROWS = 3, 16, 8


def compiled(loss):
    """`loss(weights, x)` on 2 x 4 devices, weights cut into four, as XLA's text."""
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)

    def shape(sizes, *axes):
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct(sizes, jnp.float32, sharding=sharding)

    weights = shape((LAYERS, WIDTH, WIDTH), None, "fsdp")
    x = shape((ROWS, WIDTH), ("data", "fsdp"))
    return jax.jit(loss).lower(weights, x).compile().as_text()


def test_exchanges_in_a_loop_count_as_often_as_it_goes_round():
    """Every layer's weights are gathered; what they made of the batch is summed at the end."""

    def loss(weights, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0].sum()

    assert collectives(compiled(loss)) == {
        "all-gather": Exchange(LAYERS, LAYERS * 4 * WIDTH * WIDTH),
        "all-reduce": Exchange(1, 4),
    }


def test_exchanges_outside_of_loops_count_once():
    found = collectives(compiled(lambda weights, x: jnp.tanh(x @ weights[0]).sum()))
    assert found["all-gather"] == Exchange(1, 4 * WIDTH * WIDTH)


def test_a_program_of_one_device_has_none():
    assert collectives(jax.jit(jnp.sin).lower(jnp.ones(3)).compile().as_text()) == {}


TPU = """\
HloModule jit_step, is_scheduled=true

%start (param_0: bf16[4,8]) -> (bf16[4,8], bf16[16,8]) {
  %param_0 = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.1 = bf16[16,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%param_0), channel_id=8
  ROOT %custom-call.4 = (bf16[4,8]{1,0}, /*index=1*/bf16[16,8]{1,0}) custom-call(%all-gather.1)
}

%done (param_1: bf16[4,8]) -> bf16[16,8] {
  %param_1 = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.2 = bf16[16,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%param_1), channel_id=8
}

%all-reduce-scatter.1 (input: f32[16,8]) -> f32[4,8] {
  %input = f32[16,8]{1,0:T(8,128)} parameter(0)
  %all-reduce.5 = f32[16,8]{1,0:T(8,128)} all-reduce(%input), channel_id=5, to_apply=%add
  ROOT %slice.1 = f32[4,8]{1,0} dynamic-slice(%all-reduce.5, %zero), dynamic_slice_sizes={4,8}
}

%body (state: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %state = (s32[]{:T(128)}, bf16[4,8]{1,0}) parameter(0)
  %weight = bf16[4,8]{1,0} get-tuple-element(%state), index=1
  %fusion.1 = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) fusion(%weight), kind=kCustom, calls=%start
  %fusion.2 = bf16[16,8]{1,0} fusion(%weight), kind=kCustom, calls=%done
  ROOT %tuple.1 = (s32[]{:T(128)}, bf16[4,8]{1,0}) tuple(%state, %weight)
}

%condition (state.1: (s32[], bf16[4,8])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, bf16[4,8]{1,0}) parameter(0)
  %bound = s32[]{:T(128)} constant(7)
  %i = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %bound), direction=LT
}

ENTRY %main (p: f32[16,8]) -> f32[4,8] {
  %p = f32[16,8]{1,0:T(8,128)} parameter(0)
  %loop = (s32[]{:T(128)}, bf16[4,8]{1,0}) while(%t), condition=%condition, body=%body
  %permute = (f32[16,8]{1,0}, f32[16,8]{1,0}, u32[]) collective-permute-start(%p), channel_id=9
  ROOT %fusion.3 = f32[4,8]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1
}
"""


def test_what_tpus_do_in_pieces_counts_once_and_their_fused_sums_are_scattered():
    assert collectives(TPU) == {
        "all-gather": Exchange(7, 7 * 2 * 16 * 8),
        "reduce-scatter": Exchange(1, 4 * 16 * 8),
        "collective-permute": Exchange(1, 4 * 16 * 8),
    }
