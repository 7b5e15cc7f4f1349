"""A network of videos made of one of pictures answers as that does, frame by frame."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.adapters import inflate
from vdm_jax.adapters.trainable import TIME_LAYERS, dotted
from vdm_jax.core.mesh import build_abstract, unplaced
from vdm_jax.models.cond import Cond, Tokens
from vdm_jax.models.svd_unet import SVD_PICTURE, SVD_TEXT, SVD_TINY, SVDUNetConfig
from vdm_jax.nn.mixing import FrameByFrame, SpaceTime
from vdm_jax.tasks.task import ModelConfig, abstract

PICTURE = replace(
    SVD_TINY, widths=(16,), attention_levels=(), heads=(2,), groups=8, context_width=12,
    vec_width=8, in_channels=4, context="text", vec_features=None, mixing=FrameByFrame(),
)  # fmt: skip
TEXT = replace(PICTURE, mixing=SpaceTime(), vec_features=2)
IMAGE = replace(TEXT, in_channels=8, context="image", vec_features=3)


def drawn(config: SVDUNetConfig, noise=0.0):
    with unplaced():
        params = nnx.state(config.build(rngs=nnx.Rngs(0)), nnx.Param)
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda a: a + jnp.asarray(noise * rng.standard_normal(a.shape), a.dtype), params
    )


def runner(config):
    """(params, z, c_noise, cond) -> output, compiled once."""
    graphdef, _ = nnx.split(build_abstract(lambda: config.build(rngs=nnx.Rngs(0))), nnx.Param)
    return jax.jit(lambda params, *inputs: nnx.merge(graphdef, params)(*inputs))


@pytest.fixture(scope="module")
def inputs():
    """Videos of 3 frames with a level each, and a context of two tokens."""
    keys = jax.random.split(jax.random.key(0), 3)
    tokens = Tokens(jax.random.normal(keys[0], (2, 2, 12)), jnp.ones((2, 2), bool))
    z = jax.random.normal(keys[1], (2, 3, 8, 8, 4))
    return z, jax.random.normal(keys[2], (2, 3)), Cond(tokens={"text": tokens})


@pytest.fixture(scope="module")
def pictures():
    return drawn(PICTURE, 0.1)


@pytest.fixture(scope="module")
def frame_by_frame(inputs, pictures):
    """What the network of pictures makes of each frame by itself."""
    z, level, cond = inputs
    flat = jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, axis=0), cond)
    made = runner(PICTURE)(pictures, z.reshape(6, 1, 8, 8, 4), level.reshape(6, 1), flat)
    return np.asarray(made.reshape(z.shape))


@pytest.fixture(scope="module")
def text():
    return runner(TEXT)


@pytest.fixture(scope="module")
def image():
    return runner(IMAGE)


def told(cond, features):
    return replace(cond, vec=jnp.full((2, 3, features), 7.0))


def test_at_first_a_video_is_its_pictures_whatever_is_told(inputs, pictures, frame_by_frame, text):
    z, level, cond = inputs
    params = inflate.inflated(pictures, drawn(TEXT))
    largest = np.abs(frame_by_frame).max()
    for given in (cond, told(cond, 2)):
        made = text(params, z, level, given)
        np.testing.assert_allclose(made / largest, frame_by_frame / largest, rtol=0, atol=1e-6)


@pytest.mark.parametrize("left_out", range(1, len(inflate.SILENT)))
def test_each_of_the_silent_layers_must_be_silent(
    inputs, pictures, frame_by_frame, text, left_out, monkeypatch
):
    """All but the first, which a fresh block has at zero anyway."""
    z, level, cond = inputs
    kept = inflate.SILENT[:left_out] + inflate.SILENT[left_out + 1 :]
    monkeypatch.setattr(inflate, "SILENT", kept)
    made = text(inflate.inflated(pictures, drawn(TEXT)), z, level, told(cond, 2))
    assert np.abs(made - frame_by_frame).max() > 1e-3


def test_a_picture_beside_the_video_and_a_further_number_change_nothing_at_first(
    inputs, text, image
):
    """From a text to a picture: without either, both networks answer alike."""
    z, level, _ = inputs
    before = drawn(TEXT, 0.1)
    after = inflate.inflated(before, drawn(IMAGE))
    beside = jax.random.normal(jax.random.key(5), z.shape)
    wanted = text(before, z, level, told(Cond(), 2))
    blind = Tokens(jnp.zeros((2, 1, 12)), jnp.zeros((2, 1), bool))
    given = replace(told(Cond(tokens={"image": blind}), 3), concat=beside)
    np.testing.assert_allclose(image(after, z, level, given), wanted, rtol=0, atol=2e-6)


def test_every_layer_over_time_can_learn(inputs, pictures, text):
    """After one step of the silent layers, all that is behind them has a gradient too."""
    z, level, cond = inputs
    params = inflate.inflated(pictures, drawn(TEXT))
    graphdef, _ = nnx.split(build_abstract(lambda: TEXT.build(rngs=nnx.Rngs(0))), nnx.Param)

    @jax.jit
    def gradients(params):
        def loss(params):
            made = nnx.merge(graphdef, params)(z, level, told(cond, 2))
            return jnp.mean((made - z[:, ::-1]) ** 2)

        return jax.grad(loss)(params)

    def silent(grads, named):
        # the blends mix what is the same until the layers over time say something
        return [
            dotted(path)
            for path, leaf in nnx.to_flat_state(grads)
            if named(dotted(path)) and not np.abs(leaf.get_value()).max() > 0
        ]

    first = gradients(params)
    ends = lambda name: inflate._among(name, inflate.SILENT)  # noqa: E731
    assert silent(first, ends) == []
    moved = jax.tree.map(lambda p, g: p - 1e-2 * g, params, first)
    assert silent(gradients(moved), lambda _: True) == []


def test_what_is_made_of_what():
    assert inflate.fits(PICTURE, TEXT) and inflate.fits(TEXT, IMAGE) and inflate.fits(TEXT, TEXT)
    assert inflate.fits(TEXT, replace(TEXT, context_width=16))
    for pair in ((TEXT, PICTURE), (IMAGE, TEXT), (None, TEXT), (PICTURE, None),
                 (replace(PICTURE, blocks=2), TEXT)):  # fmt: skip
        assert not inflate.fits(*pair)


def test_another_width_of_context_has_keys_and_values_of_its_own():
    before, fresh = drawn(TEXT, 0.1), drawn(replace(TEXT, context_width=16))
    after = dict(nnx.to_flat_state(inflate.inflated(before, fresh)))
    for path, leaf in nnx.to_flat_state(before):
        same = leaf.get_value().shape == after[path].get_value().shape
        wanted = leaf if same else dict(nnx.to_flat_state(fresh))[path]
        np.testing.assert_array_equal(after[path].get_value(), wanted.get_value())
        assert same or ".attn2." in dotted(path)


def test_the_published_network_of_pictures_is_the_spatial_part_of_that_of_videos():
    """Stable Diffusion 2.1's 865,910,724 parameters, and the 656,076,838 of the layers in time."""
    shapes = {
        dotted(path): leaf.get_value().shape
        for path, leaf in nnx.to_flat_state(abstract(ModelConfig(SVD_TEXT))[1])
    }
    pictures = {
        dotted(path): leaf.get_value().shape
        for path, leaf in nnx.to_flat_state(abstract(ModelConfig(SVD_PICTURE))[1])
    }
    assert pictures.items() <= shapes.items()
    size = lambda names: sum(int(np.prod(shapes[name])) for name in names)  # noqa: E731
    assert size(pictures) == 865_910_724
    assert size(shapes.keys() - pictures.keys()) == 656_076_838
    in_time, _ = TIME_LAYERS.split(abstract(ModelConfig(SVD_TEXT))[1], jax.random.key(0))
    assert {dotted(path) for path, _ in nnx.to_flat_state(in_time)} == shapes.keys() - pictures
