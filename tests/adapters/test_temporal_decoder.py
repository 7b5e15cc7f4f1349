"""A temporal decoder made of a picture decoder decodes as it did, frame by frame."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.adapters.temporal_decoder import fits, inflated
from vdm_jax.core import mesh as meshes
from vdm_jax.models.vae import ImageDecoderConfig, TemporalDecoderConfig, VAEConfig

IMAGE = VAEConfig(
    widths=(4, 8), blocks=1, latent_channels=2, groups=2, decoder=ImageDecoderConfig()
)
CLIPS = replace(IMAGE, decoder=TemporalDecoderConfig())


def drawn(config, noise):
    with meshes.unplaced():
        graphdef, params = nnx.split(config.build(rngs=nnx.Rngs(0)), nnx.Param)
    rng = np.random.default_rng(1)
    return graphdef, jax.tree.map(
        lambda a: a + noise * rng.standard_normal(a.shape, np.float32), params
    )


@pytest.fixture(scope="module")
def both():
    """(decode as pictures, decode as clips, parameters before, those after)."""
    picture, before = drawn(IMAGE, 0.1)
    clips, fresh = drawn(CLIPS, 0.0)
    after = inflated(before, fresh)
    decoders = (
        jax.jit(lambda params, z, graphdef=graphdef: nnx.merge(graphdef, params).decode(z))
        for graphdef in (picture, clips)
    )
    return *decoders, before, after


def latents():
    return jax.random.normal(jax.random.key(0), (2, 3, 9, 9, 2))


def test_frames_are_decoded_as_before_where_no_edge_is_seen(both):
    """Without the shift of the map before the decoder the two agree everywhere."""
    picture, clips, before, after = both
    flat = dict(nnx.to_flat_state(before))
    shift = flat["post_quant", "bias"]
    flat["post_quant", "bias"] = shift.replace(0 * shift.get_value())
    before = nnx.from_flat_state(flat)
    after = inflated(before, after)
    wanted = picture(before, latents())
    np.testing.assert_allclose(clips(after, latents()), wanted, rtol=0, atol=2e-5)
    assert float(jnp.abs(wanted).max()) > 0.1


def test_the_shift_is_in_the_first_convolution(both):
    """Exact for a convolution that sees no edge: compare it inside the frame."""
    _, _, before, after = both
    pictures, clips = dict(nnx.to_flat_state(before)), dict(nnx.to_flat_state(after))
    z = latents()[0]

    def first(weights, z):
        kernel = weights["decoder", "conv_in", "kernel"].get_value()
        z = jax.lax.conv_general_dilated(
            z, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return z + weights["decoder", "conv_in", "bias"].get_value().reshape(1, 1, 1, -1)

    matrix, shift = (pictures["post_quant", name].get_value() for name in ("kernel", "bias"))
    wanted = first(pictures, z @ matrix + shift.reshape(1, 1, 1, -1))
    np.testing.assert_allclose(first(clips, z), wanted, rtol=0, atol=1e-5)


def test_blocks_over_time_can_learn_and_the_encoder_is_the_same(both):
    _, _, before, after = both
    pictures, clips = dict(nnx.to_flat_state(before)), dict(nnx.to_flat_state(after))
    for path, leaf in pictures.items():
        if path[0] in ("encoder", "quant"):
            np.testing.assert_array_equal(leaf.get_value(), clips[path].get_value())
    assert not any(path[0] == "post_quant" for path in clips)
    assert any("time" in path and (leaf.get_value() != 0).any() for path, leaf in clips.items())


def test_what_is_made_of_what():
    assert fits(IMAGE, CLIPS)
    for pair in ((CLIPS, CLIPS), (IMAGE, IMAGE), (CLIPS, IMAGE), (None, CLIPS), (IMAGE, None)):
        assert not fits(*pair)
