"""Super-resolution: what the network is told of the small video, in training and in drawing."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.conditioning.drop import null
from vdm_jax.conditioning.text import WordEncoderConfig
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.degrade import AreaMean, Bicubic
from vdm_jax.data.transform import cover
from vdm_jax.diffusion.density import Uniform
from vdm_jax.diffusion.loss import UniformWeight
from vdm_jax.diffusion.precond import V
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.sampler import DDIM
from vdm_jax.diffusion.schedule import Cosine
from vdm_jax.models.svd_unet import SVDUNetConfig
from vdm_jax.models.vae import VAEConfig
from vdm_jax.models.vdm_unet import VDMUNetConfig
from vdm_jax.tasks.super_resolution import ENLARGED, SuperResolution
from vdm_jax.tasks.task import ModelConfig, Sampling, VideoShape, to_signal, tuned

PROCESS = Process(schedule=Cosine(), precond=V(), density=Uniform(Cosine()), weight=UniformWeight())
TASK = SuperResolution(
    process=PROCESS,
    video=VideoShape(num_frames=3, height=8, width=12),
    degrade=AreaMean(4),
    sampling=Sampling(DDIM(), num_steps=2),
    noise_aug=0.2,
    most_noise=0.6,
)
WORDS = WordEncoderConfig(width=8, max_words=4, table_rows=64)
PIXELS = ModelConfig(
    VDMUNetConfig(
        channels=8, multipliers=(1,), blocks=1, space_attention=(), time_attention=(0,), heads=2,
        head_size=4, groups=2, patch_size=2, token_width=8, concat_channels=4,
    ),
    WORDS,
)  # fmt: skip
LATENTS = ModelConfig(
    SVDUNetConfig(
        in_channels=5, out_channels=2, widths=(8, 8), attention_levels=(0,), heads=(2, 2), blocks=1,
        context="text", context_width=8, vec_features=None, groups=2,
    ),
    WORDS,
    vae=VAEConfig(latent_channels=2, widths=(8, 8, 8), blocks=1, groups=2),
)  # fmt: skip


@cache
def built(config):
    """A model whose every weight counts: those that start at zero are drawn as well."""
    with meshes.unplaced():
        model = config.build(rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model, nnx.Param)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [a + 0.2 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return nnx.merge(graphdef, jax.tree.unflatten(tree, drawn))


def batch():
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (4, *TASK.video.sizes), dtype=np.uint8)
    return {"video": video, "caption": ["red", "blue", "up", "down"]}


def prepared(config=PIXELS, task=TASK):
    return jax.tree.map(jnp.asarray, task.prepare(config, batch()))


@cache
def runner(task, config):
    """One compilation for each task and model."""
    model = built(config)
    return jax.jit(lambda arrays, key: task.generate(model, arrays, key, around=lambda d: d))


def generate(captions, small, seed=0, rows=None, task=TASK):
    arrays = task.request(PIXELS, captions, [picture for video in small for picture in video])
    arrays["row"] = np.arange(len(captions), dtype=np.int32) if rows is None else rows
    run = runner(task, PIXELS)
    return np.asarray(run(jax.tree.map(jnp.asarray, arrays), jax.random.key(seed)))


def watched(config=PIXELS, task=TASK):
    """The model with a network that keeps what stands beside what it sees, and the list of that."""
    model, seen = nnx.merge(*nnx.split(built(config))), []

    def network(z, c_noise, cond):
        jax.debug.callback(lambda concat: seen.append(np.asarray(concat)), cond.concat)
        return jnp.zeros_like(z)

    model.network = network
    return model, seen


@pytest.mark.parametrize("degrade", [AreaMean(2), Bicubic(4)])
def test_beside_the_noisy_video_stands_the_small_one_enlarged(degrade):
    task = replace(TASK, degrade=degrade)
    concat = task.condition(built(PIXELS), prepared(task=task)).concat
    wanted = [cover(degrade(video), (8, 12)) for video in batch()["video"]]
    assert concat.shape == (4, 3, 8, 12, 4)
    np.testing.assert_array_equal(concat[..., :3], to_signal(jnp.asarray(np.stack(wanted))))
    assert (concat[..., 3] == 1).all()


def test_a_small_video_asked_for_is_told_like_one_trained_on():
    small = [AreaMean(4)(video) for video in batch()["video"]]
    assert TASK.small == (2, 3) and TASK.pictures == 3
    pictures = [picture for video in small for picture in video]
    asked = TASK.request(PIXELS, batch()["caption"], pictures)
    trained = TASK.prepare(PIXELS, batch())
    for name, rows in asked.items():
        np.testing.assert_array_equal(rows, trained[name], err_msg=name)
    assert set(trained) - set(asked) == {"video"}


def test_training_adds_to_each_video_noise_of_its_own_and_says_how_much(key):
    """Beside stands signal x + sqrt(1 - signal^2) eps; times up to 0.6 of a cosine schedule."""
    model, seen = watched()
    arrays = prepared()
    for number in range(8):
        TASK.loss(model, arrays, jax.random.fold_in(key, number))
    jax.effects_barrier()
    clean = np.asarray(TASK.condition(model, arrays).concat[..., :3])
    signals = np.stack(seen)[..., 3]
    assert (signals == signals[:, :, :1, :1, :1]).all()
    each = np.sort(signals[:, :, 0, 0, 0].ravel())
    least = float(Cosine().level(jnp.float32(0.6)).alpha)
    assert len(np.unique(each)) == 32 and least < each[0] < 0.75 and each[-1] > 0.99
    signal = np.stack(seen)[..., 3:]
    eps = (np.stack(seen)[..., :3] - signal * clean) / np.sqrt(1 - signal**2)
    assert abs(eps.std() - 1) < 0.02 and abs(eps.mean()) < 0.02


@pytest.mark.parametrize("noise_aug", [0.0, 0.35])
def test_drawing_adds_as_much_as_is_set(noise_aug):
    model, seen = watched()
    task = tuned(TASK, {"noise_aug": noise_aug})
    arrays = prepared() | {"row": jnp.arange(4)}
    task.draw(model, arrays, jax.random.key(0), around=lambda denoise: denoise)
    jax.effects_barrier()
    alpha = float(Cosine().level(jnp.float32(noise_aug)).alpha)
    clean = TASK.condition(model, arrays).concat[..., :3]
    assert seen
    for concat in seen:
        np.testing.assert_allclose(concat[..., 3], alpha, rtol=1e-6)
        off = concat[..., :3] - alpha * clean
        assert abs(off.std() - np.sqrt(1 - alpha**2)) < 0.03


def test_every_input_of_generation_counts_and_a_row_stands_alone():
    small = [AreaMean(4)(video) for video in batch()["video"][:2]]
    base = generate(["red", "blue"], small)
    assert base.shape == (2, 3, 8, 12, 3)
    np.testing.assert_array_equal(base, generate(["red", "blue"], small))
    assert (base != generate(["blue", "red"], small)).any()
    assert (base != generate(["red", "blue"], small[::-1])).any()
    assert (base != generate(["red", "blue"], small, seed=1)).any()
    assert runner(TASK, PIXELS)._cache_size() == 1
    alone = generate(["blue"], small[1:], rows=np.array([1], np.int32))
    np.testing.assert_allclose(base[1], alone[0], atol=2e-5)


def test_the_loss_has_a_gradient_for_every_weight_and_a_step_lowers_it(key):
    graphdef, params = nnx.split(built(PIXELS), nnx.Param)
    arrays = prepared()
    loss = jax.jit(jax.value_and_grad(lambda p: TASK.loss(nnx.merge(graphdef, p), arrays, key)[0]))
    before, grads = loss(params)
    for path, grad in jax.tree.leaves_with_path(grads):
        assert jnp.isfinite(grad).all() and (grad != 0).any(), path
    after = loss(jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads))[0]
    assert jnp.isfinite(after) and after < before


def test_a_caption_that_is_always_dropped_and_a_null_port_have_no_say(key):
    model, arrays = built(PIXELS), prepared()
    other = arrays | {"text": jnp.roll(arrays["text"], 1, axis=0)}
    loss = jax.jit(lambda arrays: replace(TASK, caption_drop=1.0).loss(model, arrays, key)[0])
    assert loss(arrays) == loss(other)
    cond, z = TASK.condition(model, arrays), TASK.clean(model, arrays)
    level = jnp.full((4, 3), 0.3)
    run = jax.jit(lambda cond: model.network(z, level, cond))
    hidden = run(null(cond, ("concat",)))
    np.testing.assert_allclose(hidden, run(replace(cond, concat=None)), atol=1e-5)
    assert jnp.abs(hidden - run(cond)).max() > 1e-2


def test_in_latents_the_enlarged_video_is_encoded_as_the_large_one_is(key):
    """9 x 13 pixels are no multiple of the stride of 4, and padded."""
    video = VideoShape(num_frames=2, height=9, width=13)
    task = replace(TASK, video=video, degrade=AreaMean(1))
    task.check(LATENTS)
    model = built(LATENTS)
    frames = np.random.default_rng(0).integers(0, 256, (2, *video.sizes), dtype=np.uint8)
    arrays = task.prepare(LATENTS, {"video": frames, "caption": ["red", "blue"]})
    arrays = jax.tree.map(jnp.asarray, arrays)

    def all_of(arrays):
        drawn = task.generate(model, arrays, key, around=lambda denoise: denoise)
        concat = task.condition(model, arrays).concat
        return task.clean(model, arrays), concat, task.loss(model, arrays, key)[0], drawn

    x0, concat, loss, drawn = jax.jit(all_of)(arrays | {"row": jnp.arange(2)})
    assert x0.shape == (2, 2, 3, 4, 2) and jnp.isfinite(loss)
    np.testing.assert_allclose(concat[..., :2], x0, atol=1e-6)  # a factor of 1 changes nothing
    assert drawn.shape == (2, 2, 9, 13, 3) and jnp.isfinite(drawn).all()


def test_what_does_not_fit_is_refused():
    plain = replace(PIXELS, network=replace(PIXELS.network, concat_channels=3))
    with pytest.raises(Refusal, match=r"3 channels with 4 beside them.*got 3 channels with 3"):
        TASK.check(plain)
    with pytest.raises(Refusal, match="takes the 3 frames of a small one of 2x3; got 2 for 1"):
        TASK.request(PIXELS, ["red"], [np.zeros((2, 3, 3), np.uint8)] * 2)
    with pytest.raises(Refusal, match="9x12 has no 4 times smaller one"):
        tuned(TASK, {"height": 9})
    with pytest.raises(Refusal, match="noise_aug <= most_noise"):
        tuned(TASK, {"noise_aug": 0.7})
    with pytest.raises(Refusal, match="these samples hold latents"):
        TASK.prepare(LATENTS, {"latents": np.zeros((1, 3, 2, 3, 2)), "caption": [""]})
    assert ENLARGED in TASK.prepare(PIXELS, batch())
