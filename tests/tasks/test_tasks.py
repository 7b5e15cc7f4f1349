"""A task's loss and generation agree on what is known, what is hidden and what is asked for."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.conditioning.text import WordEncoderConfig
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.density import Uniform
from vdm_jax.diffusion.loss import UniformWeight
from vdm_jax.diffusion.precond import V
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.sampler import DDIM
from vdm_jax.diffusion.schedule import Cosine, Karras
from vdm_jax.models.vdm_unet import VDMUNetConfig
from vdm_jax.tasks.image_to_video import PICTURE_CHANNELS, TIME_FEATURES, ImageToVideo
from vdm_jax.tasks.task import ModelConfig, Sampling, VideoShape, to_bytes, to_signal, tuned
from vdm_jax.tasks.text_to_video import TextToVideo

PROCESS = Process(schedule=Cosine(), precond=V(), density=Uniform(Cosine()), weight=UniformWeight())
VIDEO = VideoShape(num_frames=3, height=8, width=8, fps=8.0)
TEXT = TextToVideo(process=PROCESS, video=VIDEO, sampling=Sampling(DDIM(), num_steps=2))
IMAGE = ImageToVideo(process=PROCESS, video=VIDEO, sampling=Sampling(DDIM(), num_steps=2))
NETWORK = VDMUNetConfig(
    channels=8, multipliers=(1,), blocks=1, space_attention=(), time_attention=(0,), heads=2,
    head_size=4, groups=2, patch_size=2, token_width=8,
)  # fmt: skip
WORDS = WordEncoderConfig(width=8, max_words=4, table_rows=64)
WITHOUT = ModelConfig(NETWORK, WORDS)
WITH = ModelConfig(
    replace(NETWORK, concat_channels=PICTURE_CHANNELS, vec_features=TIME_FEATURES), WORDS
)


def built(config):
    """A model whose every weight counts: those that start at zero are drawn as well."""
    with meshes.unplaced():
        model = config.build(rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model, nnx.Param)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [a + 0.2 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return nnx.merge(graphdef, jax.tree.unflatten(tree, drawn))


@pytest.fixture(scope="module")
def text_model():
    return built(WITHOUT)


@pytest.fixture(scope="module")
def image_model():
    return built(WITH)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (4, 3, 8, 8, 3), dtype=np.uint8)
    return {"video": video, "caption": ["red", "blue", "up", "down"]}


def same(denoise):
    return denoise


@cache
def runner(task, model):
    """One compilation for each task and model."""
    return jax.jit(lambda arrays, key: to_bytes(task.generate(model, arrays, key, around=same)))


def generate(task, model, config, captions, pictures, seed=0, rows=None):
    arrays = task.request(config, captions, None if pictures is None else list(pictures))
    arrays["row"] = np.arange(len(captions), dtype=np.int32) if rows is None else rows
    return np.asarray(runner(task, model)(jax.tree.map(jnp.asarray, arrays), jax.random.key(seed)))


def test_bytes_survive_the_way_to_signals_and_back():
    values = jnp.arange(256, dtype=jnp.uint8)
    np.testing.assert_array_equal(to_bytes(to_signal(values)), values)
    np.testing.assert_array_equal(to_bytes(jnp.array([-2.0, 2.0])), [0, 255])


def test_the_first_frame_of_image_to_video_is_the_picture_exactly(image_model, batch):
    pictures = batch["video"][:, 0]
    videos = generate(IMAGE, image_model, WITH, batch["caption"], pictures)
    np.testing.assert_array_equal(videos[:, 0], pictures)
    assert (videos[:, 1] != pictures).any()


def test_every_input_of_generation_counts(image_model, batch):
    pictures, captions = batch["video"][:2, 0], batch["caption"][:2]
    base = generate(IMAGE, image_model, WITH, captions, pictures)
    np.testing.assert_array_equal(base, generate(IMAGE, image_model, WITH, captions, pictures))
    others = {
        "caption": generate(IMAGE, image_model, WITH, captions[::-1], pictures),
        "picture": generate(IMAGE, image_model, WITH, captions, pictures[::-1]),
        "no picture": generate(IMAGE, image_model, WITH, captions, None),
        "seed": generate(IMAGE, image_model, WITH, captions, pictures, seed=1),
    }
    for name, other in others.items():
        assert (other[:, 1:] != base[:, 1:]).any(), name


@pytest.mark.parametrize("sampler", [DDIM(), DDIM(eta=1.0)])
def test_a_row_does_not_depend_on_its_neighbours(text_model, sampler):
    task = tuned(TEXT, {"sampler": sampler})
    both = generate(task, text_model, WITHOUT, ["red", "blue"], None)
    alone = generate(task, text_model, WITHOUT, ["blue"], None, rows=np.array([1], np.int32))
    assert np.abs(both[1].astype(int) - alone[0]).max() <= 1  # one step of rounding


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_rows_with_keys_of_their_own_are_those_that_one_key_draws(text_model, eta):
    """Row 2 of key 5 beside row 0 of key 9, each as where its key is that of all."""
    task = tuned(TEXT, {"sampler": DDIM(eta=eta)})
    arrays = jax.tree.map(jnp.asarray, task.request(WITHOUT, ["red", "blue"], None))
    arrays["row"], keys = jnp.array([2, 0]), [jax.random.key(5), jax.random.key(9)]
    draw = jax.jit(lambda arrays, key: task.generate(text_model, arrays, key, around=same))
    both = draw(arrays, jnp.stack(keys))
    for row, key in enumerate(keys):
        np.testing.assert_array_equal(both[row], draw(arrays, key)[row])
    assert (both != draw(arrays, keys[0])).any()


def test_guidance_of_each_row_is_that_of_its_video(text_model):
    both = tuned(TEXT, {"guidance_scale": 3.0})
    arrays = jax.tree.map(jnp.asarray, both.request(WITHOUT, ["red", "red"], None))
    arrays["row"], key = jnp.zeros(2, int), jax.random.key(0)
    draw = partial(runner(TEXT, text_model), key=key)
    wanted = [
        runner(tuned(TEXT, {"guidance_scale": scale}), text_model)(arrays, key)
        for scale in (3.0, 0.5)
    ]
    got = draw({**arrays, "guidance_scale": jnp.array([3.0, 0.5])})
    for row in (0, 1):
        assert jnp.abs(got[row].astype(int) - wanted[row][row].astype(int)).max() <= 1
    assert (got[0] != got[1]).any()


def test_guidance_of_one_is_the_model_as_it_is_and_more_is_not(text_model):
    videos = []
    for scale in (1.0, 0.0, 3.0):
        task = tuned(TEXT, {"guidance_scale": scale})
        videos.append(generate(task, text_model, WITHOUT, ["red"], None))
    plain, unguided, guided = videos
    np.testing.assert_array_equal(plain, generate(TEXT, text_model, WITHOUT, ["red"], None))
    free = generate(TEXT, text_model, WITHOUT, [""], None)
    assert np.abs(unguided.astype(int) - free).max() <= 1  # scale 0 is the null caption
    assert (guided != plain).any() and (plain != free).any()


def test_generation_starts_at_the_noise_of_the_schedule(text_model):
    """A denoiser that answers zero is seen at the first level: sigma 80 there, not 1."""
    seen = []

    def watch(denoise):
        def watched(z, level, cond):
            jax.debug.callback(lambda z: seen.append(float(np.std(z))), z)
            return 0 * z

        return watched

    loud = replace(PROCESS, schedule=Karras(sigma_min=0.002, sigma_max=80.0, rho=7.0))
    task = replace(TEXT, process=loud, sampling=Sampling(DDIM(), num_steps=3))
    arrays = task.request(WITHOUT, ["red"], None) | {"row": np.zeros(1, np.int32)}
    run = jax.jit(lambda a, k: task.generate(text_model, a, k, around=watch))
    jax.block_until_ready(run(jax.tree.map(jnp.asarray, arrays), jax.random.key(0)))
    jax.effects_barrier()
    assert 70 < max(seen) < 90


@pytest.mark.parametrize("port", ["caption_drop", "picture_drop"])
def test_a_port_that_is_always_dropped_has_no_say_in_the_loss(image_model, batch, key, port):
    task = replace(IMAGE, **{"caption_drop": 0.0, "picture_drop": 0.0, port: 1.0})
    arrays = jax.tree.map(jnp.asarray, IMAGE.prepare(WITH, batch))
    other = dict(arrays)
    name = "text" if port == "caption_drop" else "picture"
    other[name] = jnp.roll(arrays[name], 1, axis=0)
    loss = jax.jit(lambda arrays: task.loss(image_model, arrays, key)[0])
    kept = jax.jit(lambda arrays: replace(task, **{port: 0.0}).loss(image_model, arrays, key)[0])
    assert loss(arrays) == loss(other)
    assert kept(arrays) != kept(other)


def test_the_loss_does_not_price_the_known_frame(image_model, batch):
    arrays = jax.tree.map(jnp.asarray, IMAGE.prepare(WITH, batch))
    cond = IMAGE.condition(image_model, arrays)

    def answers(first):
        """Right everywhere but in the first frame."""
        truth = to_signal(arrays["video"])
        return lambda z, level, cond: truth.at[:, 0].add(first)

    x0 = IMAGE.clean(image_model, arrays)
    price = lambda first: IMAGE.price(answers(first), x0, cond, jax.random.key(0))  # noqa: E731
    assert price(0.0) == price(5.0) == 0


def test_a_hidden_picture_makes_its_first_frame_unknown(image_model, batch):
    arrays = jax.tree.map(jnp.asarray, IMAGE.prepare(WITH, batch))
    arrays["has_picture"] = jnp.array([True, False, True, False])
    cond = IMAGE.condition(image_model, arrays)
    known = IMAGE.known(cond)
    np.testing.assert_array_equal(known[:, 0], arrays["has_picture"])
    assert not known[:, 1:].any()
    assert (cond.concat[1] == 0).all()


@pytest.mark.parametrize("task, config", [(TEXT, WITHOUT), (IMAGE, WITH)])
def test_the_loss_has_a_gradient_for_every_weight(task, config, batch, key):
    graphdef, params = nnx.split(built(config), nnx.Param)
    arrays = jax.tree.map(jnp.asarray, task.prepare(config, batch))
    grads = jax.jit(
        jax.grad(lambda params: task.loss(nnx.merge(graphdef, params), arrays, key)[0])
    )(params)
    for path, grad in jax.tree.leaves_with_path(grads):
        assert jnp.isfinite(grad).all() and (grad != 0).any(), path


def test_a_task_refuses_a_model_or_a_request_that_does_not_fit():
    with pytest.raises(Refusal, match="with 4 beside them, and 3 out of it; got 3"):
        IMAGE.check(WITHOUT)
    with pytest.raises(Refusal, match="takes no picture"):
        TEXT.request(WITHOUT, ["red"], [np.zeros((8, 8, 3), np.uint8)])
    with pytest.raises(Refusal, match="no setting fpss"):
        tuned(TEXT, {"fpss": 3})
    with pytest.raises(Refusal, match="num_steps"):
        Sampling(DDIM(), num_steps=0)
