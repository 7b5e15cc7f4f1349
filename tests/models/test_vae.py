from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.core.config import from_json, to_json
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.vae import (
    SVD_IMAGE_VAE,
    SVD_VAE,
    ImageDecoderConfig,
    Posterior,
    TemporalDecoderConfig,
    VAEConfig,
)
from vdm_jax.nn.pieces import Chunked, Overlapped, Tiled, Whole

TINY = VAEConfig(widths=(16, 24), blocks=1, groups=8)
FLAT = replace(TINY, widths=(8,), groups=2, decoder=TemporalDecoderConfig(middle_blocks=1))
IMAGE = replace(TINY, decoder=ImageDecoderConfig())
LATENTS = (2, 5, 4, 6, 4)


def new(config):
    with nnx.use_eager_sharding(False):  # noqa: FBT003
        return config.build(rngs=nnx.Rngs(0))


def build(config, seed=0):
    """An autoencoder whose zero-initialised layers hold noise, as after training."""
    model = new(config)
    rng = np.random.default_rng(seed)
    for _, variable in nnx.iter_graph(model):
        if isinstance(variable, nnx.Param):
            noise = rng.normal(0, 0.1, variable.shape)
            variable[...] = variable[...] + jnp.asarray(noise, jnp.float32)
    return model


class Compiled:
    """Both directions of an autoencoder, compiled."""

    def __init__(self, config):
        graph, self.state = nnx.split(build(config))
        self._encode = jax.jit(lambda state, x: nnx.merge(graph, state).encode(x))
        self._decode = jax.jit(lambda state, z: nnx.merge(graph, state).decode(z))

    def encode(self, video, state=None):
        return self._encode(self.state if state is None else state, video)

    def decode(self, latents):
        return self._decode(self.state, latents)


@pytest.fixture(scope="module")
def tiny():
    return Compiled(TINY)


@pytest.fixture(scope="module")
def image():
    return Compiled(IMAGE)


def latents_of(key, shape=LATENTS):
    return jax.random.normal(key, shape)


def error(got, wanted):
    return np.linalg.norm(got - wanted) / np.linalg.norm(wanted)


def test_frames_become_latents_and_back(tiny, key):
    video = jax.random.uniform(key, (3, 8, 12, 3), minval=-1)
    posterior = tiny.encode(video)
    assert posterior.mean.shape == posterior.logvar.shape == (3, 4, 6, 4)
    assert tiny.decode(posterior.mode()[None]).shape == (1, 3, 8, 12, 3)


def test_the_encoder_sees_one_frame_at_a_time(tiny, key):
    video = jax.random.uniform(key, (3, 8, 12, 3), minval=-1)
    moved = tiny.encode(video.at[1].add(0.5))
    change = jnp.abs(moved.mean - tiny.encode(video).mean).max((1, 2, 3))
    assert change[1] > 1e-3
    assert change[0] == change[2] == 0


def test_the_image_decoder_sees_one_frame_at_a_time(image, key):
    latents = latents_of(key)
    moved = image.decode(latents.at[:, 1].add(0.5))
    change = jnp.abs(moved - image.decode(latents)).max((0, 2, 3, 4))
    assert change[1] > 1e-3
    assert (change[jnp.array([0, 2, 3, 4])] == 0).all()


def test_the_temporal_decoder_sees_all_frames_of_one_video(tiny, key):
    latents = latents_of(key)
    moved = tiny.decode(latents.at[0, 1].add(0.5))
    change = jnp.abs(moved - tiny.decode(latents)).max((2, 3, 4))
    assert (change[0] > 1e-4).all()
    assert (change[1] == 0).all()


def test_the_order_of_frames_matters(tiny, key):
    latents = latents_of(key)
    turned = tiny.decode(latents[:, ::-1])[:, ::-1]
    assert error(turned, tiny.decode(latents)) > 1e-3


def test_posterior_is_a_normal(key):
    mean = jnp.full((1, 200, 200, 1), 3.0)
    posterior = Posterior(mean, jnp.full_like(mean, 2 * np.log(0.5)))
    drawn = posterior.sample(key)
    np.testing.assert_array_equal(posterior.mode(), mean)
    np.testing.assert_allclose([drawn.mean(), drawn.std()], [3, 0.5], atol=0.01)


def test_the_posterior_has_bounds(tiny):
    model = build(TINY)
    model.quant.bias[...] = jnp.array([0.0, 0, 0, 0, -999, 999, 0, 0])
    posterior = tiny.encode(jnp.zeros((3, 8, 12, 3)), nnx.state(model))
    assert (posterior.logvar[..., 0] == -30).all()
    assert (posterior.logvar[..., 1] == 20).all()


def test_a_diffusion_model_has_scaled_latents(key):
    latents = latents_of(key)
    model = nnx.eval_shape(lambda: new(SVD_VAE))
    scaled = model.scaled(latents)
    np.testing.assert_allclose(scaled, latents * 0.18215, rtol=1e-6)
    np.testing.assert_allclose(model.unscaled(scaled), latents, rtol=1e-6)


@pytest.mark.parametrize("config", [TINY, replace(FLAT, decoder=ImageDecoderConfig())])
def test_gradients_are_finite_and_reach_every_parameter(config, key):
    graph, state = nnx.split(build(config))
    video = jax.random.uniform(key, (2, 8, 8, 3), minval=-1)

    @jax.jit
    def gradients(state, video):
        def loss(state, video):
            model = nnx.merge(graph, state)
            posterior = model.encode(video)
            again = model.decode(posterior.sample(key)[None])[0]
            return ((again - video) ** 2).mean() + (posterior.logvar**2).mean()

        return jax.grad(loss, (0, 1))(state, video)

    of_state, of_video = gradients(state, video)
    assert jnp.isfinite(of_video).all()
    assert jnp.abs(of_video).max() > 0
    for path, gradient in nnx.to_flat_state(of_state):
        assert jnp.isfinite(gradient[...]).all(), path
        assert jnp.abs(gradient[...]).max() > 0, path


def test_gradients_reach_the_parameters_through_chunks(key):
    """The backward pass computes each chunk again, and comes to what a batch of clips has."""
    graph, state = nnx.split(build(FLAT))
    latents = latents_of(key, (1, 4, 2, 2, 4))

    def gradients(latents, part):
        def loss(state):
            return (part(nnx.merge(graph, state).decode)(latents) ** 2).mean()

        return jax.tree.leaves(jax.jit(jax.grad(loss))(state))

    got = gradients(latents, Chunked(2))
    wanted = gradients(latents.reshape(2, 2, 2, 2, 4), Whole())
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * max(1, np.abs(b).max()))


def test_bfloat16_is_near_float32(tiny, key):
    graph, state = nnx.split(build(replace(TINY, dtype="bfloat16")))
    latents = latents_of(key)
    decode = jax.jit(lambda state, z: nnx.merge(graph, state).decode(z))
    stored_half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), state)
    for parameters in (state, stored_half):
        got = decode(parameters, latents)
        assert got.dtype == jnp.float32
        assert 1e-5 < error(got, tiny.decode(latents)) < 0.05


def moving(frames):
    """Latents of a pattern that travels a position every three frames."""
    time, row, column, channel = np.meshgrid(*map(np.arange, (frames, 4, 8, 4)), indexing="ij")
    wave = np.sin(0.7 * (column + time / 3) + channel) * np.cos(0.5 * row + channel)
    return jnp.asarray(wave[None], jnp.float32)


def test_overlapping_chunks_have_no_seam(tiny):
    """Nearer to the whole where chunks meet, and a step from frame to frame like the others."""
    latents = moving(16)
    whole = tiny.decode(latents)
    border = slice(7, 9)

    def at_border(part):
        video = part(tiny.decode)(latents)
        frames = jnp.linalg.norm((video - whole).reshape(16, -1), axis=1)
        steps = jnp.diff(video, axis=1) - jnp.diff(whole, axis=1)
        return frames[border].max(), jnp.linalg.norm(steps.reshape(15, -1), axis=1).max()

    chunked, jump = at_border(Chunked(8))
    faded, step = at_border(Overlapped(8, 4))
    assert faded < 0.6 * chunked
    assert step < 0.5 * jump


def test_tiles_are_near_the_whole_without_seams(image, key):
    """Tiles see other statistics than the whole frame: close, not equal; the same on both sides
    of a border."""
    latents = jax.random.normal(key, (1, 1, 12, 16, 4))
    video = Tiled(8, 8, 4)(image.decode)(latents)
    whole = image.decode(latents)
    assert error(video, whole) < 0.5
    steps = jnp.abs(jnp.diff(video - whole, axis=3)).mean((0, 1, 2, 4))
    assert steps.max() < 3 * jnp.median(steps)


def test_encoding_in_chunks_of_frames_is_exact(tiny, key):
    video = jax.random.uniform(key, (7, 8, 12, 3), minval=-1)
    whole, chunked = tiny.encode(video), Chunked(3)(tiny.encode)(video)
    assert isinstance(chunked, Posterior)
    for a, b in zip(chunked, whole, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_encoding_in_tiles_has_the_latents_of_the_whole_size(tiny, key):
    video = jax.random.uniform(key, (2, 24, 16, 3), minval=-1)
    whole, tiled = tiny.encode(video), Tiled(6, 6, 2, frames=Chunked(1))(tiny.encode)(video)
    assert tiled.mean.shape == whole.mean.shape
    assert error(tiled.mean, whole.mean) < 0.5


def test_memory_to_decode_is_that_of_one_chunk():
    wide = replace(FLAT, widths=(32,), groups=8)
    graph, state = nnx.split(nnx.eval_shape(lambda: new(wide)))

    def held(part, frames):
        def decode(state, z):
            return part(nnx.merge(graph, state).decode)(z)

        latents = jax.ShapeDtypeStruct((1, frames, 16, 16, 4), jnp.float32)
        return jax.jit(decode).lower(state, latents).compile().memory_analysis().temp_size_in_bytes

    whole = held(Whole(), 32)
    assert whole > 3 * held(Whole(), 8)
    few, many = (held(Chunked(2), frames) for frames in (8, 32))
    assert many < 1.5 * few
    assert many < 0.2 * whole
    assert held(Overlapped(2, 1), 32) < 0.2 * whole


def test_a_mesh_changes_nothing(key):
    graph, state = nnx.split(build(FLAT))
    latents = latents_of(key, (2, 8, 4, 4, 4))

    def decode(state, z):
        return Chunked(4)(nnx.merge(graph, state).decode)(z)

    alone = jax.jit(decode)(state, latents)
    with jax.set_mesh(MeshConfig(data=2, context=4).build()):
        apart = jax.jit(decode)(state, latents)
    assert len(apart.sharding.device_set) == 8
    assert error(apart, alone) < 1e-5


@pytest.mark.parametrize(
    ("config", "parameters"), [(SVD_VAE, 97_742_847), (SVD_IMAGE_VAE, 83_653_863)]
)
def test_presets_have_their_parameter_count(config, parameters):
    model = nnx.eval_shape(lambda: new(config))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == parameters
    graph, state = nnx.split(model)
    latents = jax.ShapeDtypeStruct((1, 25, 72, 128, 4), jnp.float32)
    video = jax.eval_shape(lambda s, z: nnx.merge(graph, s).decode(z), state, latents)
    assert video.shape == (1, 25, 576, 1024, 3)
    frames = jax.ShapeDtypeStruct(video.shape[1:], jnp.float32)
    posterior = jax.eval_shape(lambda s, x: nnx.merge(graph, s).encode(x), state, frames)
    assert posterior.mean.shape == latents.shape[1:]


def test_every_matrix_names_its_logical_axes():
    model = nnx.eval_shape(lambda: new(TINY))
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if path[-1] == "kernel":
            names = variable.get_metadata()["out_sharding"]
            assert len(names) == len(variable.shape), path
            assert any(names), path


@pytest.mark.parametrize("config", [TINY, IMAGE, SVD_VAE])
def test_a_config_survives_json(config):
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"blocks": 0}, "blocks is 0; it must be at least 1"),
        ({"widths": ()}, "widths is empty"),
        ({"widths": (16, 20)}, "20 channels do not divide into 8 groups"),
        ({"scaling_factor": 0.0}, "scaling_factor is 0.0; it must be positive"),
        ({"latent_channels": 0}, "latent_channels is 0"),
    ],
)
def test_refuses_an_impossible_configuration(changes, words):
    with pytest.raises(Refusal, match=words):
        replace(TINY, **changes)


def test_refuses_an_impossible_decoder():
    with pytest.raises(Refusal, match="middle_blocks is 3; it must be 1 or 2"):
        TemporalDecoderConfig(middle_blocks=3)


def test_refuses_what_it_cannot_take():
    model = nnx.eval_shape(lambda: new(TINY))
    with pytest.raises(Refusal, match=r"frames are 8x7; .* multiples of 2"):
        model.encode(jnp.zeros((1, 8, 7, 3)))
    with pytest.raises(Refusal, match=r"latents have 3 channels; .* takes 4"):
        model.decode(jnp.zeros((1, 1, 4, 4, 3)))
