"""Videos from some of their frames: by training for it, or by reconstruction guidance."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.conditioning.known import EndFrames, NoFrames
from vdm_jax.conditioning.text import WordEncoderConfig
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.density import LogNormal, Uniform
from vdm_jax.diffusion.level import Level
from vdm_jax.diffusion.loss import UniformWeight
from vdm_jax.diffusion.precond import V
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.sampler import DDIM, Euler
from vdm_jax.diffusion.schedule import Cosine, Karras
from vdm_jax.models.svd_unet import SVDUNetConfig
from vdm_jax.models.vae import VAEConfig
from vdm_jax.models.vdm_unet import VDMUNetConfig
from vdm_jax.models.video_vae import VideoVAEConfig
from vdm_jax.nn.pieces import Whole
from vdm_jax.tasks.completion import Completion, ContextSampling, Noised
from vdm_jax.tasks.denoising import GIVEN, KNOWN
from vdm_jax.tasks.reconstruction import Reconstruction, completing
from vdm_jax.tasks.task import ModelConfig, Sampling, VideoShape, tuned
from vdm_jax.tasks.text_to_video import TextToVideo

PROCESS = Process(schedule=Cosine(), precond=V(), density=Uniform(Cosine()), weight=UniformWeight())
EDM = Process(schedule=Karras(0.02, 80.0), precond=V(), density=LogNormal(), weight=UniformWeight())
VIDEO = VideoShape(num_frames=4, height=8, width=8, fps=8.0)
WORDS = WordEncoderConfig(width=8, max_words=4, table_rows=64)
NETWORK = VDMUNetConfig(
    channels=8, multipliers=(1,), blocks=1, space_attention=(), time_attention=(0,), heads=2,
    head_size=4, groups=2, patch_size=2, token_width=8,
)  # fmt: skip
PIXELS = ModelConfig(replace(NETWORK, concat_channels=4), WORDS)
LATENTS = ModelConfig(
    SVDUNetConfig(
        in_channels=9, out_channels=4, widths=(8,), attention_levels=(0,), heads=(2,), blocks=1,
        context="text", context_width=8, vec_features=None, groups=2,
    ),
    WORDS,
    vae=VAEConfig(widths=(8, 8), blocks=1, groups=2),
)  # fmt: skip
TASK = Completion(
    process=PROCESS, video=VIDEO, sampling=ContextSampling(DDIM(), num_steps=3), given=(0, -1)
)
LATENT_TASK = replace(
    TASK, process=EDM, sampling=ContextSampling(Euler(), num_steps=3),
    video=replace(VIDEO, height=9),
)  # fmt: skip
SEVERAL = replace(LATENTS, vae=VideoVAEConfig(widths=(8, 8), time_stride=2, groups=2))
SEVERAL_TASK = replace(LATENT_TASK, given=(0, 1), decoding=Whole())
CASES = {"pixels": (TASK, PIXELS), "latents": (LATENT_TASK, LATENTS)}
EACH = pytest.mark.parametrize("case", CASES)


@cache
def built(config):
    """A model whose every weight counts."""
    with meshes.unplaced():
        model = config.build(rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model, nnx.Param)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [a + 0.2 * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
    return nnx.merge(graphdef, jax.tree.unflatten(tree, drawn))


@cache
def runner(task, config, what):
    model = built(config)
    return jax.jit(
        lambda arrays, key: getattr(task, what)(model, arrays, key, around=lambda denoise: denoise)
    )


def run(task, config, arrays, what="generate", seed=0):
    arrays = {"row": np.arange(len(next(iter(arrays.values()))), dtype=np.int32), **arrays}
    return np.asarray(runner(task, config, what)(jax.tree.map(jnp.asarray, arrays), key_of(seed)))


def key_of(seed):
    return jax.random.key(seed)


def pictures(count, seed=0, size=(8, 8)):
    return list(np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8))


@EACH
def test_given_frames_come_out_as_they_went_in_and_the_others_heed_them(case):
    task, config = CASES[case]
    size = task.video.sizes[1:3]
    given = pictures(4, size=size)
    video = run(task, config, task.request(config, ["a", "b"], given))
    assert video.shape == (2, *task.video.sizes)
    for frame, put in ((0, given[::2]), (-1, given[1::2])):
        np.testing.assert_array_equal(np.round((video[:, frame] + 1) * 127.5), np.stack(put))
    np.testing.assert_array_equal(video, run(task, config, task.request(config, ["a", "b"], given)))
    for other in (pictures(4, 1, size), None):
        changed = run(task, config, task.request(config, ["a", "b"], other))
        assert (np.abs(changed - video)[:, 1:-1].max((1, 2, 3, 4)) > 1e-3).all()
    told = run(task, config, task.request(config, ["c", "b"], given))
    assert np.abs(told - video)[0, 1:-1].max() > 1e-3
    np.testing.assert_allclose(told[1], video[1], atol=1e-5)  # the neighbour of another caption


@EACH
def test_frames_may_be_given_in_the_space_of_the_network(case):
    task, config = CASES[case]
    request = task.request(config, ["a"], pictures(2, size=task.video.sizes[1:3]))
    x0 = jax.jit(lambda arrays: task.clean(built(config), arrays))(request)
    bare = {name: rows for name, rows in request.items() if name != "video"}
    drawn = run(task, config, {**bare, GIVEN: np.asarray(x0)}, "draw")
    np.testing.assert_allclose(drawn, run(task, config, request, "draw"), atol=2e-5)
    np.testing.assert_array_equal(drawn[:, [0, -1]], np.asarray(x0)[:, [0, -1]])


def test_context_guidance_of_one_is_the_model_as_it_is_and_none_knows_nothing():
    videos = {}
    request = TASK.request(PIXELS, ["a"], pictures(2))
    for scale in (1.0, 0.0, 3.0):
        videos[scale] = run(tuned(TASK, {"context_scale": scale}), PIXELS, request)
    np.testing.assert_array_equal(videos[1.0], run(TASK, PIXELS, request))
    assert np.abs(videos[3.0] - videos[1.0]).max() > 1e-3
    # u + 0 (i - u) + 1 (c - i): without a caption only u is left, which is told nothing
    silent = {**request, "text": np.zeros_like(request["text"])}
    none = tuned(TASK, {"context_scale": 0.0})
    other = {**silent, **TASK.request(PIXELS, ["a"], pictures(2, 5)), "text": silent["text"]}
    at = {KNOWN: request[KNOWN]}
    seen = [run(none, PIXELS, {**a, **at}, "draw") for a in (silent, other)]
    assert np.abs(seen[0] - seen[1])[:, 1:-1].max() > 0  # held frames mix with the rest in time
    task = replace(none, given=())
    a, b = (run(task, PIXELS, task.request(PIXELS, [text], None)) for text in ("", ""))
    np.testing.assert_array_equal(a, b)


def test_the_loss_prices_what_is_not_known():
    task = replace(TASK, known=EndFrames(), caption_drop=0.0)
    x0 = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 8, 8, 3)), "float32")
    known = jnp.array([[True, False, False, True]] * 2)
    cond = task._told(built(PIXELS), {"text": jnp.zeros((2, 4, 2), int)}, x0, known,
                      Level(jnp.float32(1), jnp.float32(0)), 0 * x0)  # fmt: skip
    marks = jnp.where(known[..., None, None, None], 100.0, 0.0)
    price = task.price(lambda z, level, cond: x0 + marks, x0, cond, key_of(0))
    assert price == 0
    assert task.price(lambda z, level, cond: x0 + 1.0, x0, cond, key_of(0)) == pytest.approx(1.0)


def test_latents_of_several_frames_are_known_where_all_of_them_are():
    given = pictures(4, size=(9, 8))
    request = SEVERAL_TASK.request(SEVERAL, ["a", "b"], given)
    assert request[KNOWN].tolist() == [[True, False]] * 2
    video = run(SEVERAL_TASK, SEVERAL, request)
    assert video.shape == (2, *SEVERAL_TASK.video.sizes)
    put = np.stack(given).reshape(2, 2, 9, 8, 3)
    np.testing.assert_array_equal(np.round((video[:, :2] + 1) * 127.5), put)
    other = run(SEVERAL_TASK, SEVERAL, SEVERAL_TASK.request(SEVERAL, ["a", "b"], given[::-1]))
    assert np.abs(other - video)[:, 2:].max() > 1e-3
    with pytest.raises(Refusal, match="takes 2 frames at once"):
        replace(SEVERAL_TASK, given=(0, 1, 2)).check(SEVERAL)


def test_what_is_not_known_tells_nothing_though_the_autoencoder_mixes_frames():
    """Not even of a clip whose every frame is there, as one of a data set's."""
    video = np.random.default_rng(0).integers(0, 256, (1, *SEVERAL_TASK.video.sizes), np.uint8)
    batches = [{"video": video, "caption": ["a"]}, {"video": video.copy(), "caption": ["a"]}]
    batches[1]["video"][:, 2:] = 0
    seen, hidden = (SEVERAL_TASK.prepare(SEVERAL, batch) for batch in batches)
    drawn = [run(SEVERAL_TASK, SEVERAL, arrays, "draw") for arrays in (seen, hidden)]
    np.testing.assert_array_equal(*drawn)


@EACH
def test_every_weight_learns_and_the_autoencoder_does_not(case):
    task, config = CASES[case]
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (3, *task.video.sizes), dtype=np.uint8)
    arrays = task.prepare(config, {"video": video, "caption": ["a", "b", "c"]})
    graphdef, params = nnx.split(built(config), nnx.Param)
    grads = jax.jit(
        jax.grad(lambda p: task.loss(nnx.merge(graphdef, p), jax.tree.map(jnp.asarray, arrays),
                                     key_of(0))[0])
    )(params)  # fmt: skip
    for path, grad in nnx.to_flat_state(grads):
        assert jnp.isfinite(grad.get_value()).all(), path
        assert (grad.get_value() != 0).any() == (path[0] != "vae"), path


def test_noise_on_the_known_frames_is_told_and_hides_a_part_of_them():
    task = replace(TASK, noised=Noised(most=0.5, drawing=0.4))
    request = task.request(PIXELS, ["a"], pictures(2))
    noised = run(task, PIXELS, request)
    assert np.abs(noised - run(TASK, PIXELS, request)).max() > 1e-3
    np.testing.assert_array_equal(noised[:, 0], run(TASK, PIXELS, request)[:, 0])  # still exact
    with pytest.raises(Refusal, match="drawing <= most"):
        Noised(most=0.1, drawing=0.2)


def test_requests_and_models_that_do_not_fit_are_refused():
    with pytest.raises(Refusal, match="each video takes 2 pictures"):
        TASK.request(PIXELS, ["a"], pictures(3))
    with pytest.raises(Refusal, match="with 4 beside them"):
        TASK.check(ModelConfig(NETWORK, WORDS))
    with pytest.raises(Refusal, match="frames"):
        replace(TASK, given=(0, 7))
    TASK.check(PIXELS)
    LATENT_TASK.check(LATENTS)


# ---- Any other model, by reconstruction guidance ---

TEXT = TextToVideo(process=PROCESS, video=VIDEO, sampling=Sampling(DDIM(), num_steps=4))
PLAIN = ModelConfig(NETWORK, WORDS)


def known_of(frames, seed=0):
    x0 = np.random.default_rng(seed).uniform(-1, 1, (2, *VIDEO.sizes)).astype(np.float32)
    which = np.zeros((2, VIDEO.num_frames), bool)
    which[:, list(frames)] = True
    return {KNOWN: which, GIVEN: x0}


def test_reconstruction_holds_known_frames_and_without_any_is_the_task_to_the_bit():
    request = TEXT.request(PLAIN, ["a", "b"], None)
    guided = Reconstruction(task=TEXT)
    np.testing.assert_array_equal(run(guided, PLAIN, request), run(TEXT, PLAIN, request))
    known = known_of((0, 1))
    drawn = run(guided, PLAIN, {**request, **known})
    np.testing.assert_array_equal(drawn[:, :2], known[GIVEN][:, :2])
    replaced = run(replace(guided, frames_weight=0.0), PLAIN, {**request, **known})
    np.testing.assert_array_equal(replaced[:, :2], known[GIVEN][:, :2])
    assert np.abs(replaced - drawn)[:, 2:].max() > 1e-4
    # videos of one batch may know other frames: each is as it is alone
    mixed = {**known, KNOWN: known[KNOWN].copy()}
    mixed[KNOWN][1] = False
    both = run(guided, PLAIN, {**request, **mixed})
    np.testing.assert_allclose(both[0], drawn[0], atol=1e-5)
    np.testing.assert_allclose(both[1], run(TEXT, PLAIN, request)[1], atol=1e-5)


def test_a_task_is_made_to_heed_known_frames_only_where_it_does_not():
    assert completing(TASK) is TASK
    assert completing(TEXT) == Reconstruction(task=TEXT)
    assert NoFrames() != EndFrames()
    with pytest.raises(Refusal, match="frames_weight"):
        Reconstruction(task=TEXT, frames_weight=-1.0)
