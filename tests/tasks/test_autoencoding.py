"""Two players in one backward pass: each learns from its own loss, and nothing else changes."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from vdm_jax.adapters.trainable import EVERYTHING
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.lpips import RandomLPIPSConfig
from vdm_jax.models.patch_discriminator import PatchDiscriminatorConfig
from vdm_jax.models.vae import ImageDecoderConfig, TemporalDecoderConfig, VAEConfig
from vdm_jax.models.vdm_unet import VDMUNetConfig
from vdm_jax.nn.conv import fold
from vdm_jax.tasks import autoencoding
from vdm_jax.tasks.autoencoding import DECODER, PLAYERS, AdaptiveWeight, Autoencoding, FixedWeight
from vdm_jax.tasks.task import ModelConfig, VideoShape, to_signal
from vdm_jax.train import state as states
from vdm_jax.train.step import update

VAE = VAEConfig(widths=(8, 8), blocks=1, latent_channels=2, groups=4, decoder=ImageDecoderConfig())
MODEL = ModelConfig(
    vae=replace(VAE, decoder=TemporalDecoderConfig()),
    lpips=RandomLPIPSConfig(stages=((8,), (8,))),
    discriminator=PatchDiscriminatorConfig(channels=8, layers=1, groups=4, kernel_frames=3),
)
PICTURES = replace(MODEL, vae=VAE, discriminator=replace(MODEL.discriminator, kernel_frames=1))
TASK = Autoencoding(
    video=VideoShape(num_frames=2, height=12, width=12), kl_weight=1e-2, disc_start=3
)


def built(config):
    """A model whose every weight counts."""
    with meshes.unplaced():
        model = config.build(rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model, nnx.Param)
    rng = np.random.default_rng(1)
    drawn = jax.tree.map(lambda a: a + 0.1 * rng.standard_normal(a.shape, np.float32), params)
    return graphdef, drawn


@pytest.fixture(scope="module")
def model():
    return built(MODEL)


def arrays(step, count=2, seed=0):
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 256, (count, *TASK.video.sizes), dtype=np.uint8)
    return {"video": jnp.asarray(video), "step": jnp.int32(step)}


@pytest.fixture(scope="module")
def learn(model):
    """(params, step) -> ((loss, scalars), gradients), of both players at once."""
    graphdef, _ = model

    @jax.jit
    def gradients(params, step):
        def loss(params):
            return TASK.loss(nnx.merge(graphdef, params), arrays(step), jax.random.key(7))

        return jax.value_and_grad(loss, has_aux=True)(params)

    return gradients


def forward(model, key):
    """What the losses are written down from, below: the plain forward pass."""
    video = to_signal(arrays(0)["video"])
    posterior = model.vae.encode(fold(video))
    latents = posterior.sample(key)
    return video, posterior, model.vae.decode(latents.reshape(2, 2, *latents.shape[1:]))


def of_generator(graphdef, params, weight):
    model = nnx.merge(graphdef, params)
    video, posterior, made = forward(model, jax.random.key(7))
    mean, logvar = posterior
    kl = 0.5 * (mean**2 + jnp.exp(logvar) - 1 - logvar).sum((1, 2, 3)).mean() / (12 * 12 * 3)
    seen = model.lpips(fold(made), fold(video)).mean()
    return (
        jnp.abs(made - video).mean() + seen + 1e-2 * kl - weight * model.discriminator(made).mean()
    )


def of_discriminator(graphdef, params):
    model = nnx.merge(graphdef, params)
    video, _, made = forward(model, jax.random.key(7))
    true, false = model.discriminator(video), model.discriminator(made)
    return 0.5 * (jnp.maximum(0, 1 - true).mean() + jnp.maximum(0, 1 + false).mean())


@pytest.fixture(scope="module")
def alone(model):
    """(params, weight) -> (loss, gradients) of the generator, and those of the discriminator."""
    graphdef, _ = model
    generator = jax.value_and_grad(partial(of_generator, graphdef))
    discriminator = jax.value_and_grad(partial(of_discriminator, graphdef))
    return jax.jit(lambda params, weight: (generator(params, weight), discriminator(params)))


def agree(got, wanted):
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted))
    assert scale > 1e-4
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=2e-6 * scale)


def test_each_player_has_the_gradient_of_its_own_loss_alone(model, learn, alone):
    _, params = model
    (loss, scalars), gradients = learn(params, 3)
    weight = scalars["generator_weight"]
    assert weight > 0
    generator, discriminator = alone(params, weight)
    np.testing.assert_allclose(loss, generator[0] + discriminator[0], rtol=1e-5)
    np.testing.assert_allclose(scalars["discriminator_loss"], discriminator[0], rtol=1e-5)
    agree(gradients["vae"], generator[1]["vae"])
    agree(gradients["discriminator"], discriminator[1]["discriminator"])
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients["lpips"]))


def test_the_adaptive_weight_makes_both_demands_on_the_last_layer_alike(model, learn, alone):
    """share * |d likeness / d W| / |d opinion / d W|, W the kernel that makes the frames."""
    _, params = model
    (_, scalars), _ = learn(params, 3)

    def of(weight):
        (_, gradients), _ = alone(params, jnp.float32(weight))
        return gradients["vae"]["decoder"]["time_conv_out"]["kernel"].get_value()

    likeness, opinion = optax.tree.norm(of(0)), optax.tree.norm(of(1) - of(0))
    expected = 0.5 * likeness / (opinion + 1e-4)
    np.testing.assert_allclose(scalars["generator_weight"], expected, rtol=1e-4)


def test_before_its_start_the_discriminator_neither_learns_nor_is_heard(model, learn, alone):
    _, params = model
    (_, scalars), gradients = learn(params, 2)
    assert scalars["generator_weight"] == 0 < scalars["discriminator_loss"]
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients["discriminator"]))
    (_, wanted), _ = alone(params, jnp.float32(0))
    agree(gradients["vae"], wanted["vae"])


def trained(config, task, trainable, steps, samples):
    """(state before, state after, frozen, the scalars of each step) of a run on two devices."""
    mesh = meshes.MeshConfig(data=2).build_on(jax.devices()[:2])
    optimizer = optax.adam(3e-3)
    graphdef, params = built(config)
    abstract = graphdef, jax.eval_shape(lambda: params)

    def initial(shapes):
        return meshes.put(params, jax.tree.map(lambda leaf: leaf.sharding, shapes))

    made = states.build(abstract, trainable, optimizer, mesh, initial)
    step = jax.jit(update(made.model, task.loss, optimizer, ema_decay=0.9, accumulate=1))
    state, frozen = made.init()
    before, seen = jax.tree.map(np.asarray, state), []
    with jax.set_mesh(mesh):
        batch = meshes.put_whole_batch({"video": samples}, mesh)
        for _ in range(steps):
            state, scalars = step(state, frozen, batch, jax.random.key(0))
            seen.append({name: float(value) for name, value in scalars.items()})
    return before, state, frozen, seen


def smooth(count, num_frames):
    """Frames of two colours each, which a few channels can say."""
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 256, (count, num_frames, 2, 1, 3), dtype=np.uint8)
    return np.repeat(np.repeat(corner, 6, axis=2), 12, axis=3)


def test_a_decoder_learns_while_its_encoder_stays_bitwise(model):
    """A few dozen steps make it better; what is not selected does not change by a bit."""
    task = replace(TASK, kl_weight=0.0, disc_start=50)
    before, state, frozen, seen = trained(MODEL, task, DECODER, 60, smooth(8, 2))
    assert max(step["l1"] for step in seen[-5:]) < 0.75 * seen[0]["l1"]
    assert seen[-1]["lpips"] < 0.8 * seen[0]["lpips"]
    assert seen[49]["generator_weight"] == 0 < seen[50]["generator_weight"]
    assert seen[-1]["discriminator_loss"] < 0.8 * seen[50]["discriminator_loss"]
    assert int(state.skipped) == 0
    drawn, kept = dict(nnx.to_flat_state(model[1])), nnx.to_flat_state(frozen)
    assert {path[:2] for path, _ in kept} >= {("vae", "encoder"), ("vae", "quant")}
    for path, leaf in kept:
        np.testing.assert_array_equal(leaf.get_value(), drawn[path].get_value())
    moved = dict(nnx.to_flat_state(state.params))
    for path, leaf in nnx.to_flat_state(before.params):
        assert path[0] == "discriminator" or path[:2] == ("vae", "decoder")
        assert (moved[path].get_value() != leaf.get_value()).any(), path


def test_what_comes_back_is_what_is_priced(model):
    task, (graphdef, params) = replace(TASK, video=VideoShape(3, 12, 12)), model
    request = task.request(MODEL, [""], [np.full((20, 30, 3), 200, np.uint8)])
    assert request["video"].shape == (1, 3, 12, 12, 3) and (request["video"] == 200).all()

    @jax.jit
    def both(params, arrays):
        model, key = nnx.merge(graphdef, params), jax.random.key(0)
        x0, cond = task.clean(model, arrays), task.condition(model, arrays)
        back = task.generate(model, arrays, key, around=lambda denoise: denoise)
        return jnp.abs(back - x0).mean(), task.price(task.answer(model), x0, cond, key)

    difference, price = both(params, jax.tree.map(jnp.asarray, request))
    np.testing.assert_allclose(price, difference, rtol=1e-6)
    assert price > 0


def test_weights_of_the_opinion():
    likeness, opinion = jnp.full((4,), 3.0), jnp.full((4,), 1.5)
    np.testing.assert_allclose(AdaptiveWeight(0.5)(likeness, opinion), 1.0, rtol=1e-4)
    np.testing.assert_allclose(AdaptiveWeight(0.5)(1e9 * likeness, 0 * opinion), 5e3, rtol=1e-4)
    assert FixedWeight(0.25)(likeness, opinion) == 0.25


def test_a_gradient_that_is_given():
    given = jnp.array([1.0, -2.0])
    value, gradient = jax.value_and_grad(
        lambda x: autoencoding.with_gradient((x**2).sum(), 3 * x, given)
    )(jnp.array([2.0, 5.0]))
    assert value == 29
    np.testing.assert_array_equal(gradient, 3 * given)


def test_what_does_not_fit_is_refused():
    TASK.check(MODEL)
    network = VDMUNetConfig(channels=8)
    cases = {
        "needs model.vae, and model.network None": replace(MODEL, network=network),
        "takes multiples of 8": replace(MODEL, vae=replace(VAE, widths=(8, 8, 8, 8))),
        "model.lpips takes 16 and more": replace(MODEL, lpips=RandomLPIPSConfig()),
        "model.discriminator takes 24": replace(MODEL, discriminator=PatchDiscriminatorConfig()),
    }
    for message, config in cases.items():
        with pytest.raises(Refusal, match=message):
            TASK.check(config)
    with pytest.raises(Refusal, match="lpips_weight must not be below 0"):
        replace(TASK, lpips_weight=-1.0)
    with pytest.raises(Refusal, match="give it one"):
        TASK.request(MODEL, [""], None)
    with pytest.raises(Refusal, match="nothing in the model is called discriminator"):
        PLAYERS.split(built(replace(MODEL, discriminator=None))[1], jax.random.key(0))
    assert EVERYTHING.split(built(MODEL)[1], jax.random.key(0))
