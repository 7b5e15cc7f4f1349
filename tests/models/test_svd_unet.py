import itertools
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.core.mesh import build_abstract, unplaced
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.cond import Cond, Tokens
from vdm_jax.models.svd_unet import (
    STABILITY_EPS,
    SVD,
    SVD_TEXT,
    SVD_TINY,
    SVD_XT,
    Eps,
    SVDUNetConfig,
)
from vdm_jax.nn.remat import KEEP_ALL, RematBlocks, RematLayers

TINY = SVDUNetConfig(
    widths=(32, 64),
    attention_levels=(0,),
    heads=(1, 2),
    blocks=1,
    context_width=6,
    vec_width=8,
    groups=4,
)
SHAPE = (2, 3, 5, 6, 4)


@cache
def abstract(config):
    """The network without values; read, never written."""
    return build_abstract(lambda: config.build(rngs=nnx.Rngs(0)))


def built(config, seed=0):
    """A network whose zero-initialised layers hold noise, as after training."""
    model = nnx.clone(abstract(config))
    rng = np.random.default_rng(seed)
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        shape = variable.shape
        weight = rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]) or 1)
        if path[-1] == "scale":
            weight = 1 + 0.3 * weight
        variable.set_value(jnp.asarray(weight, jnp.float32))
    return model


@pytest.fixture(scope="module")
def run():
    """(parameters, z, c_noise, cond) -> output of a tiny network, compiled."""
    graph, _ = nnx.split(abstract(TINY))
    return jax.jit(lambda state, *args: nnx.merge(graph, state)(*args))


@pytest.fixture(scope="module")
def weights():
    return nnx.state(built(TINY))


@pytest.fixture(scope="module")
def tiny(run, weights):
    """(z, c_noise, cond) -> output of one such network."""
    return lambda *args: run(weights, *args)


def inputs(shape=SHAPE, seed=1):
    kz, kc, kt, kv, kx = jax.random.split(jax.random.key(seed), 5)
    b, t, *_ = shape
    cond = Cond(
        tokens={"image": Tokens(jax.random.normal(kt, (b, 1, 6)), jnp.ones((b, 1), bool))},
        vec=10 * jax.random.uniform(kv, (b, t, 3)),
        concat=jax.random.normal(kx, shape),
        image_only=jnp.zeros((b, t), bool),
    )
    return jax.random.normal(kz, shape), jax.random.normal(kc, (b, t)), cond


def change(a, b):
    """Largest difference per frame, "b t"."""
    return np.abs(np.asarray(a - b)).max((2, 3, 4))


def test_frames_that_are_all_pictures_are_single_pictures(tiny):
    z, c_noise, cond = inputs()
    b, t = c_noise.shape
    whole = tiny(z, c_noise, replace(cond, image_only=jnp.ones((b, t), bool)))

    def alone(a):
        return a.reshape(b * t, 1, *a.shape[2:])

    image = cond.tokens["image"]
    tokens = {"image": jax.tree.map(lambda a: jnp.repeat(a, t, axis=0), image)}
    ports = {"vec": alone(cond.vec), "concat": alone(cond.concat)}
    pictures = Cond(tokens=tokens, image_only=jnp.ones((b * t, 1), bool), **ports)
    single = tiny(alone(z), alone(c_noise), pictures)
    np.testing.assert_allclose(whole, single.reshape(whole.shape), atol=2e-5)


def test_nothing_changes_a_picture_but_a_picture_is_seen_by_the_video_beside_it(tiny):
    z, c_noise, cond = inputs()
    cond = replace(cond, image_only=jnp.array([[False, False, True]] * 2))
    before = tiny(z, c_noise, cond)
    other_video = change(before, tiny(z.at[:, 0].add(1), c_noise, cond))
    assert (other_video[:, 2] == 0).all() and (other_video[:, :2] > 1e-4).all()
    other_picture = change(before, tiny(z.at[:, 2].add(1), c_noise, cond))
    assert (other_picture > 1e-4).all()


def test_level_and_features_are_those_of_their_frame(tiny):
    z, c_noise, cond = inputs()
    cond = replace(cond, image_only=jnp.ones((2, 3), bool))
    before = tiny(z, c_noise, cond)
    for other in (
        tiny(z, c_noise.at[:, 1].add(0.3), cond),
        tiny(z, c_noise, replace(cond, vec=cond.vec.at[:, 1].add(0.3))),
    ):
        moved = change(before, other)
        assert (moved[:, 1] > 1e-4).all()
        assert (moved[:, [0, 2]] == 0).all()


def test_absent_conditions_are_their_nulls(tiny):
    z, c_noise, cond = inputs()
    null = Tokens(jnp.zeros((2, 1, 6)), jnp.zeros((2, 1), bool))
    video = jnp.zeros((2, 3), bool)
    nulls = Cond(tokens={"image": null}, vec=0 * cond.vec, concat=0 * z, image_only=video)
    np.testing.assert_allclose(tiny(z, c_noise, Cond()), tiny(z, c_noise, nulls), atol=1e-5)


def test_order_in_time_matters(tiny):
    """By the index of the frame: everything else in time is symmetric, or convolves."""
    z, c_noise, cond = inputs()
    turned = replace(cond, vec=cond.vec[:, ::-1], concat=cond.concat[:, ::-1])
    got = tiny(z[:, ::-1], c_noise[:, ::-1], turned)
    assert (change(got[:, ::-1], tiny(z, c_noise, cond)) > 1e-3).all()


def test_zeroing_a_skip_changes_the_output(run, tiny):
    args = inputs()
    out = tiny(*args)
    model = built(TINY)
    for stage, width in zip(model.up, (64, 32), strict=True):
        for resnet in stage.resnets:
            kernel, shortcut = resnet.space.conv1.kernel, resnet.space.conv_shortcut.kernel
            saved = kernel[...], shortcut[...]
            kernel[...] = saved[0].at[:, :, width:].set(0)
            shortcut[...] = saved[1].at[width:].set(0)
            assert (change(out, run(nnx.state(model), *args)) > 1e-3).all()
            kernel[...], shortcut[...] = saved


def test_a_new_network_says_zero(run):
    with unplaced():
        model = TINY.build(rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(run(nnx.state(model), *inputs()), 0)


def idle(path):
    """Whether a context of one token leaves this parameter no work."""
    if "resnets" in path:
        return False
    return "norm2" in path or ("attn2" in path and path[-2] in ("to_q", "to_k"))


def test_gradients_are_finite_and_reach_every_parameter_at_work():
    config = replace(TINY, attention_levels=(), dtype="bfloat16")  # the middle attends
    graph, state = nnx.split(built(config))

    @jax.jit
    def gradients(state, args):
        return jax.grad(lambda state: (nnx.merge(graph, state)(*args) ** 2).mean())(state)

    for path, gradient in nnx.to_flat_state(gradients(state, inputs())):
        values = gradient[...]
        assert values.dtype == jnp.float32, path
        assert jnp.isfinite(values).all(), path
        assert (jnp.abs(values).max() > 0) == (not idle(path)), path


def test_half_precision_is_near_full_precision(tiny, weights):
    args = inputs()
    graph, _ = nnx.split(abstract(replace(TINY, dtype="bfloat16")))
    out = jax.jit(lambda state, *a: nnx.merge(graph, state)(*a))(weights, *args)
    exact = tiny(*args)
    assert out.dtype == jnp.float32
    assert 1e-5 < jnp.linalg.norm(out - exact) / jnp.linalg.norm(exact) < 0.05


def traced(config, dtype="float32"):
    """The program of the network's output, its parameters stored as `dtype`."""
    graph, state = nnx.split(abstract(config))
    state = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, dtype), state)
    return jax.make_jaxpr(lambda s, *args: nnx.merge(graph, s)(*args))(state, *inputs())


def test_parameters_may_be_stored_in_half_precision():
    program = traced(replace(TINY, dtype="bfloat16"), "bfloat16")
    assert [out.dtype for out in program.out_avals] == [jnp.float32]
    products = [
        eqn.outvars[0].aval
        for eqn in program.eqns
        if eqn.primitive.name in ("dot_general", "conv_general_dilated")
    ]
    low = [aval for aval in products if aval.dtype == jnp.bfloat16]
    assert len(low) > 0.7 * len(products)  # all but the embeddings


def test_remat_covers_every_block_or_every_layer():
    def parts(remat):
        return str(traced(replace(TINY, remat=remat))).count("remat2[")

    kept = parts(KEEP_ALL)  # what CPU computes in pieces
    # blocks: down 1 + 1, middle 2, up 2 + 2; each two residual layers; 1 + 1 + 2 transformers
    assert parts(RematBlocks()) - kept == 8
    assert parts(RematLayers()) - kept == 2 * 8 + 2 * 4


@pytest.mark.parametrize(
    ("shape", "cond", "words"),
    [
        ((1, 2, 8, 8, 3), Cond(), "z has 3 channels.*takes 4"),
        ((1, 2, 8, 8, 4), Cond(concat=jnp.zeros((1, 2, 8, 8, 1))), "concat has 1.*takes 4"),
        ((1, 2, 8, 8, 4), Cond(concat=jnp.zeros((1, 2, 4, 8, 4))), "concat is.*must be like z"),
        ((1, 2, 8, 8, 4), Cond(vec=jnp.zeros((1, 2, 4))), "vec has 4.*takes 3"),
        (
            (1, 2, 8, 8, 4),
            Cond(tokens={"image": Tokens(jnp.zeros((1, 2, 9)), jnp.ones((1, 2), bool))}),
            "has 9 channels.*takes 6",
        ),
        (
            (1, 2, 8, 8, 4),
            Cond(tokens={"text": Tokens(jnp.zeros((1, 2, 6)), jnp.ones((1, 2), bool))}),
            "text.*reads only 'image'",
        ),
    ],
)
def test_refuses_what_it_cannot_take(shape, cond, words):
    with pytest.raises(Refusal, match=words):
        abstract(TINY)(jnp.zeros(shape), jnp.zeros(shape[:2]), cond)


def test_refuses_ports_that_it_was_built_without():
    model = abstract(replace(TINY, in_channels=4, vec_features=None))
    z, c_noise, cond = inputs()
    with pytest.raises(Refusal, match="concat has 4 channels; this network takes 0"):
        model(z, c_noise, replace(cond, vec=None))
    with pytest.raises(Refusal, match="vec has 3 channels; this network takes 0"):
        model(z, c_noise, replace(cond, concat=None))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"widths": ()}, "must be at least 1"),
        ({"blocks": 0}, "must be at least 1"),
        ({"heads": (1,)}, "heads is for 1 levels; widths is for 2"),
        ({"transformer_layers": (1, 1, 1)}, "transformer_layers is for 3 levels"),
        ({"heads": (5, 2)}, "32 channels.*5 heads"),
        ({"groups": 5}, "32 channels.*5 groups"),
        ({"attention_levels": (2,)}, "levels are 0 to 1"),
        ({"in_channels": 3}, "in_channels is 3.*at least the 4"),
        ({"vec_width": 7}, "vec_width is 7; it must be even"),
    ],
)
def test_refuses_an_impossible_configuration(changes, words):
    with pytest.raises(Refusal, match=words):
        replace(TINY, **changes)


def parameters(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_the_published_network_has_its_parameters_and_takes_its_videos():
    model = abstract(SVD)
    assert SVD_XT == SVD
    assert parameters(model) == 1_524_623_082
    graph, state = nnx.split(model)
    z = jax.ShapeDtypeStruct((1, 14, 72, 128, 4), jnp.float32)
    c_noise = jax.ShapeDtypeStruct((1, 14), jnp.float32)
    out = jax.eval_shape(lambda s, *a: nnx.merge(graph, s)(*a, Cond()), state, z, c_noise)
    assert out.shape == z.shape


def test_the_other_presets_have_their_parameters():
    assert parameters(abstract(SVD_TEXT)) == 1_521_987_562  # the paper's 1521 M
    assert parameters(abstract(SVD_TINY)) == 5_117_456


def of_norms(stage):
    """eps of a stage's group norms: of its residual blocks, of its transformers."""
    parts = [part for resnet in stage.resnets for part in (resnet.space, resnet.time)]
    norms = itertools.chain.from_iterable((part.norm1, part.norm2) for part in parts)
    return {norm.eps for norm in norms}, {part.norm.eps for part in stage.transformers}


def test_eps_differs_by_place_as_in_diffusers_or_nowhere_as_in_training():
    model = abstract(TINY)
    assert [of_norms(stage) for stage in model.down] == [({1e-6}, {1e-6}), ({1e-5}, set())]
    assert of_norms(model.middle) == ({1e-5}, {1e-6})
    assert [of_norms(stage) for stage in model.up] == [({1e-6}, set()), ({1e-6}, {1e-6})]
    assert model.norm_out.eps == 1e-5
    model = abstract(replace(TINY, eps=STABILITY_EPS))
    for stage in (*model.down, model.middle, *model.up):
        assert of_norms(stage)[0] == {1e-5}
    assert Eps(attending_down=1e-5, up=1e-5) == STABILITY_EPS


def test_every_matrix_names_its_logical_axes():
    known = {None, "conv_in", "conv_out", "embed", "mlp", "heads"}
    for path, variable in nnx.to_flat_state(nnx.state(abstract(TINY), nnx.Param)):
        if path[-1] == "kernel":
            names = variable.get_metadata()["out_sharding"]
            assert len(names) == len(variable.shape), path
            assert set(names) <= known, path
            assert any(names), path
