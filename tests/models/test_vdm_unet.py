from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.core.refusal import Refusal
from vdm_jax.models.cond import Cond, Tokens
from vdm_jax.models.vdm_unet import VDM_BASE, VDM_SMALL, VDMUNetConfig

TINY = VDMUNetConfig(
    channels=8,
    multipliers=(1, 2),
    blocks=1,
    space_attention=(1,),
    time_attention=(0, 1),
    heads=2,
    head_size=4,
    groups=2,
    patch_size=2,
    concat_channels=2,
    vec_features=3,
    token_width=5,
)
SHAPE = (2, 4, 8, 8, 3)


def build(config, seed=0):
    """A network whose zero-initialised layers hold noise, as after training."""
    with nnx.use_eager_sharding(False):  # noqa: FBT003
        model = config.build(rngs=nnx.Rngs(seed))
    rng = np.random.default_rng(seed)
    for _, variable in nnx.iter_graph(model):
        if isinstance(variable, nnx.Param):
            noise = rng.normal(0, 0.1, variable.shape)
            variable[...] = variable[...] + jnp.asarray(noise, jnp.float32)
    return model


@pytest.fixture(scope="module")
def run():
    """(parameters, z, c_noise, cond) -> output of a tiny network, compiled."""
    graph, _ = nnx.split(build(TINY))
    return jax.jit(lambda state, *args: nnx.merge(graph, state)(*args))


@pytest.fixture(scope="module")
def tiny(run):
    """(z, c_noise, cond) -> output of one such network."""
    return partial(run, nnx.state(build(TINY)))


def inputs(shape=SHAPE, seed=1):
    kz, kc, kt, kv, kx = jax.random.split(jax.random.key(seed), 5)
    b, t, h, w, _ = shape
    text = Tokens(jax.random.normal(kt, (b, 3, 5)), jnp.ones((b, 3), bool))
    cond = Cond(
        tokens={"text": text},
        vec=jax.random.normal(kv, (b, t, 3)),
        concat=jax.random.normal(kx, (b, t, h, w, 2)),
        image_only=jnp.zeros((b, t), bool),
    )
    return jax.random.normal(kz, shape), jax.random.normal(kc, (b, t)), cond


def change(a, b):
    """Largest difference per frame, "b t"."""
    return np.abs(np.asarray(a - b)).max((2, 3, 4))


def test_an_appended_image_changes_no_bit_of_the_video(tiny):
    z, c_noise, cond = inputs()
    cond = replace(cond, image_only=jnp.array([[False, False, False, True]] * 2))
    before = tiny(z, c_noise, cond)
    after = tiny(
        z.at[:, 3].multiply(-3),
        c_noise.at[:, 3].add(1),
        replace(cond, concat=cond.concat.at[:, 3].add(5)),
    )
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert (change(before, after)[:, 3] > 1e-3).all()


def test_the_video_changes_no_bit_of_an_appended_image(tiny):
    z, c_noise, cond = inputs()
    cond = replace(cond, image_only=jnp.array([[False, False, False, True]] * 2))
    before, after = tiny(z, c_noise, cond), tiny(z.at[:, 1].add(1), c_noise, cond)
    np.testing.assert_array_equal(before[:, 3], after[:, 3])
    assert (change(before, after)[:, :3] > 1e-5).all()


def test_an_image_masked_network_is_the_framewise_one(tiny):
    z, c_noise, cond = inputs()
    cond = replace(cond, image_only=jnp.ones((2, 4), bool))
    whole = tiny(z, c_noise, cond)
    for frame in range(4):
        one = {"vec": cond.vec[:, [frame]], "concat": cond.concat[:, [frame]]}
        alone = replace(cond, **one, image_only=None)
        single = tiny(z[:, [frame]], c_noise[:, [frame]], alone)
        np.testing.assert_allclose(whole[:, [frame]], single, atol=1e-5)


def test_no_mask_is_a_mask_of_video_frames(tiny):
    z, c_noise, cond = inputs()
    unmasked = tiny(z, c_noise, replace(cond, image_only=None))
    np.testing.assert_allclose(tiny(z, c_noise, cond), unmasked, atol=1e-5)


def test_order_in_time_matters(tiny):
    """Without relative positions, reversing the frames would just reverse the output."""
    z, c_noise, cond = inputs()
    turned = tiny(z[:, ::-1], c_noise[:, ::-1], replace(cond, concat=cond.concat[:, ::-1]))
    assert change(turned[:, ::-1], tiny(z, c_noise, cond)).max() > 1e-4


def test_output_depends_on_every_input(tiny):
    z, c_noise, cond = inputs()
    out = tiny(z, c_noise, cond)
    assert out.shape == SHAPE
    assert out.dtype == jnp.float32
    text = cond.tokens["text"]
    one_word_less = replace(text, mask=text.mask.at[:, 2].set(False))
    others = [
        tiny(z.at[:, 0, 0, 0].add(1), c_noise, cond),
        tiny(z, c_noise.at[:, 0].add(0.3), cond),
        tiny(z, c_noise, replace(cond, vec=cond.vec + 1)),
        tiny(z, c_noise, replace(cond, concat=cond.concat.at[:, 2].add(1))),
        tiny(z, c_noise, replace(cond, tokens={"text": one_word_less})),
    ]
    for other in others:
        assert (change(out, other).max(1) > 1e-3).all()


def test_the_level_of_a_frame_reaches_that_frame_alone_when_frames_are_apart(tiny):
    z, c_noise, cond = inputs()
    cond = replace(cond, image_only=jnp.ones((2, 4), bool))
    moved = change(tiny(z, c_noise, cond), tiny(z, c_noise.at[:, 1].add(0.3), cond))
    assert (moved[:, 1] > 1e-3).all()
    assert (moved[:, [0, 2, 3]] == 0).all()


def test_absent_conditions_are_their_nulls(tiny):
    z, c_noise, cond = inputs()
    absent = tiny(z, c_noise, Cond())
    null_text = Tokens(jnp.full((2, 3, 5), 7.0), jnp.zeros((2, 3), bool))
    nulls = Cond(
        tokens={"text": null_text}, vec=cond.vec * 0, concat=cond.concat * 0, image_only=None
    )
    assert jnp.isfinite(absent).all()
    np.testing.assert_allclose(absent, tiny(z, c_noise, nulls), atol=1e-5)


def test_zeroing_a_skip_changes_the_output(run):
    z, c_noise, cond = inputs()
    model = build(TINY)
    out = run(nnx.state(model), z, c_noise, cond)
    for level, stage in enumerate(model.up):
        width = TINY.widths[level]
        kernel, shortcut = stage.blocks[0].conv1.kernel, stage.blocks[0].shortcut.kernel
        saved = kernel[...], shortcut[...]
        kernel[...] = kernel[...].at[:, :, width:].set(0)
        shortcut[...] = shortcut[...].at[width:].set(0)
        assert change(out, run(nnx.state(model), z, c_noise, cond)).max() > 1e-3
        kernel[...], shortcut[...] = saved


def test_a_new_network_says_zero(run):
    with nnx.use_eager_sharding(False):  # noqa: FBT003
        model = TINY.build(rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(run(nnx.state(model), *inputs()), 0)


def test_gradients_are_finite_and_reach_every_parameter():
    model = build(replace(TINY, dtype="bfloat16"))
    graph, state = nnx.split(model)

    @jax.jit
    def gradients(state, args):
        def loss(state):
            return (nnx.merge(graph, state)(*args) ** 2).mean()

        return jax.grad(loss)(state)

    found = nnx.to_flat_state(gradients(state, inputs()))
    for path, gradient in found:
        values = gradient[...]
        assert values.dtype == jnp.float32, path
        assert jnp.isfinite(values).all(), path
        assert jnp.abs(values).max() > 0, path


def test_bfloat16_is_near_float32(tiny):
    args = inputs()
    graph, state = nnx.split(build(replace(TINY, dtype="bfloat16")))
    out = jax.jit(lambda *a: nnx.merge(graph, state)(*a))(*args)
    exact = tiny(*args)
    assert out.dtype == jnp.float32
    error = jnp.linalg.norm(out - exact) / jnp.linalg.norm(exact)
    assert 1e-5 < error < 0.05


@pytest.mark.parametrize(
    ("shape", "cond", "words"),
    [
        ((1, 2, 8, 6, 3), Cond(), "8x6.*multiples of 4"),
        ((1, 2, 8, 8, 4), Cond(), "z has 4 channels.*takes 3"),
        ((1, 2, 8, 8, 3), Cond(concat=jnp.zeros((1, 2, 8, 8, 1))), "concat has 1.*takes 2"),
        ((1, 2, 8, 8, 3), Cond(vec=jnp.zeros((1, 2, 4))), "vec has 4.*takes 3"),
        (
            (1, 2, 8, 8, 3),
            Cond(tokens={"text": Tokens(jnp.zeros((1, 2, 9)), jnp.ones((1, 2), bool))}),
            "has 9 channels.*takes 5",
        ),
        (
            (1, 2, 8, 8, 3),
            Cond(tokens={"image": Tokens(jnp.zeros((1, 2, 5)), jnp.ones((1, 2), bool))}),
            "image.*reads only 'text'",
        ),
    ],
)
def test_refuses_what_it_cannot_take(shape, cond, words):
    model = nnx.eval_shape(lambda: build_abstract(TINY))
    with pytest.raises(Refusal, match=words):
        model(jnp.zeros(shape), jnp.zeros(shape[:2]), cond)


def build_abstract(config):
    with nnx.use_eager_sharding(False):  # noqa: FBT003
        return config.build(rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": 10, "groups": 4}, "10 channels do not divide into 4 groups"),
        ({"channels": 9, "groups": 3}, "channels is 9; it must be even"),
        ({"heads": 0}, "heads is 0"),
        ({"space_attention": (2,)}, "space_attention names level 2; levels are 0 to 1"),
        ({"time_attention": (-1,)}, "time_attention names level -1"),
    ],
)
def test_refuses_an_impossible_configuration(changes, words):
    with pytest.raises(Refusal, match=words):
        replace(TINY, **changes)


@pytest.mark.parametrize(
    ("config", "frame", "parameters"),
    [(VDM_BASE, 64, 33_831_875), (VDM_SMALL, 32, 446_060)],
)
def test_presets_have_their_parameter_count(config, frame, parameters):
    model = nnx.eval_shape(lambda: build_abstract(config))
    leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in leaves) == parameters
    graph, state = nnx.split(model)
    z = jax.ShapeDtypeStruct((1, 16, frame, frame, 3), jnp.float32)
    c_noise = jax.ShapeDtypeStruct((1, 16), jnp.float32)
    out = jax.eval_shape(lambda s, *a: nnx.merge(graph, s)(*a, Cond()), state, z, c_noise)
    assert out.shape == z.shape


def test_every_matrix_names_its_logical_axes():
    model = nnx.eval_shape(lambda: build_abstract(TINY))
    known = {None, "conv_in", "conv_out", "embed", "mlp", "heads"}
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if path[-1] in ("kernel", "table", "qkv", "out"):
            names = variable.get_metadata()["out_sharding"]
            assert len(names) == len(variable.shape), path
            assert set(names) <= known, path
            assert any(names), path


def test_one_table_of_relative_positions_serves_every_layer():
    model = nnx.eval_shape(lambda: build_abstract(TINY))
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(model)) if path[-1] == "table"]
    assert paths == [("time_bias", "table")]
