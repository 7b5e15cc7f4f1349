"""Image to video in latents: what every input does, that rows and padding do what they say."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.core import mesh as meshes
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.level import Level
from vdm_jax.diffusion.windows import FIRST, windowed
from vdm_jax.models.clip_vision import CLIPVisionConfig
from vdm_jax.models.cond import Cond, Tokens, frames_of
from vdm_jax.models.svd_unet import SVDUNetConfig
from vdm_jax.models.vae import VAEConfig
from vdm_jax.nn.pieces import Chunked, Whole
from vdm_jax.sample.generate import Generator
from vdm_jax.tasks.stable_video import FramewiseSampling, StableVideo
from vdm_jax.tasks.task import ModelConfig, Pretrained, VideoShape, tuned

MODEL = ModelConfig(
    network=SVDUNetConfig(
        widths=(16, 32), attention_levels=(0,), heads=(2, 2), blocks=1, context_width=12,
        vec_width=8, groups=8,
    ),
    vae=VAEConfig(widths=(8, 16), blocks=1, groups=4),
    image_encoder=CLIPVisionConfig(
        width=16, hidden=32, layers=1, heads=2, patch_size=14, image_size=28, projection=12
    ),
)  # fmt: skip
TASK = StableVideo(
    video=VideoShape(num_frames=3, height=16, width=24, fps=7.0),
    sampling=FramewiseSampling(num_steps=2),
    decoding=Chunked(2),
)


ONE = MeshConfig()


@pytest.fixture(scope="module")
def params():
    """Every weight counts: those that start at zero are drawn as well."""
    with meshes.unplaced():
        model = MODEL.build(rngs=nnx.Rngs(0))
    _, params = nnx.split(model, nnx.Param)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: a + 0.1 * rng.standard_normal(a.shape).astype(a.dtype), params)


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(3)]


@cache
def generator(task, mesh, batch_size):
    """One compilation for each."""
    sizes = (mesh.data or 1) * mesh.context * mesh.tensor
    built = mesh.build_on(jax.devices()[:sizes])
    return Generator(task, MODEL, built, batch_size=batch_size)


def drawn(params, pictures, task=TASK, *, seed=0, given=None, mesh=ONE, batch_size=1):
    generate = generator(task, mesh, batch_size)
    words = [""] * len(pictures)
    return generate.signal(params, words, pictures, seed=seed, given=given or {})


@pytest.fixture(scope="module")
def base(params, pictures):
    return drawn(params, pictures[:1])


def differ(a, b):
    return np.abs(a - b).max() > 1e-3


def test_a_video_has_the_size_of_the_task(base):
    assert base.shape == (1, 3, 16, 24, 3)
    assert np.isfinite(base).all()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_number_that_is_told_counts(params, pictures, base, number):
    told = TASK.request(MODEL, [""], pictures[:1])["micro"]
    np.testing.assert_array_equal(told, np.float32([[7.0, 127.0, 0.02]]))
    told[:, number] *= 2
    assert differ(drawn(params, pictures[:1], given={"micro": told}), base)


def test_guidance_and_decoding_count(params, pictures, base):
    """Decoded in one piece, and as much guided in every frame as else in the last one only."""
    whole, even = {"decoding": Whole()}, {"min_guidance_scale": 3.0}
    x0 = drawn(params, pictures[:1], tuned(TASK, {**whole, **even}))
    assert differ(x0[:, 0], base[:, 0]) and differ(x0[:, 2], base[:, 2])


def test_picture_and_seed_count_and_the_same_request_gives_the_same_video(params, pictures, base):
    assert differ(drawn(params, pictures[1:2]), base)
    assert differ(drawn(params, pictures[:1], seed=1), base)
    np.testing.assert_array_equal(drawn(params, pictures[:1]), base)


def test_given_noise_replaces_what_the_seed_would_draw(params, pictures):
    rng = np.random.default_rng(2)
    given = {
        "latents": rng.standard_normal((1, 3, 8, 12, 4)).astype(np.float32),
        "image_noise": rng.standard_normal((1, 16, 24, 3)).astype(np.float32),
    }
    one, other = (drawn(params, pictures[:1], seed=seed, given=given) for seed in (0, 1))
    np.testing.assert_array_equal(one, other)
    moved = {**given, "image_noise": -given["image_noise"]}
    assert differ(drawn(params, pictures[:1], given=moved), one)
    with pytest.raises(Refusal, match=r"latents has the shape \(3, 8, 8, 4\)"):
        drawn(params, pictures[:1], given={"latents": np.zeros((1, 3, 8, 8, 4), np.float32)})


def test_a_video_does_not_depend_on_its_neighbours(params, pictures, base):
    """Three videos, two at a time: the last one is drawn with a copy of itself."""
    videos = drawn(params, pictures, batch_size=2)
    alone = [base[0], drawn(params, pictures[2:], given={"row": np.array([2], np.int32)})[0]]
    np.testing.assert_allclose(videos[[0, 2]], alone, atol=2e-4)
    assert differ(videos[0], videos[1])


def test_sizes_between_multiples_are_padded_evenly_and_cropped(params, pictures):
    task = tuned(TASK, {"height": 17, "width": 21})
    arrays = {**task.request(MODEL, [""], pictures[:1]), "row": np.zeros(1, np.int32)}
    run = generator(task, ONE, 1).run
    assert run.eval_shape(params, arrays, jax.random.key(0)).shape == (1, 3, 17, 21, 3)
    assert arrays["picture"].shape == (1, 18, 22, 3)
    np.testing.assert_array_equal(arrays["picture"][:, 16], arrays["picture"][:, 17])  # repeated


@pytest.mark.parametrize(
    "mesh", [MeshConfig(data=2, context=3), MeshConfig(context=2, tensor=2)], ids=str
)
def test_a_mesh_gives_the_same_videos(params, pictures, mesh):
    """Batch and frames; rows (3 frames are no multiple of 2) and the width of layers."""
    alone = drawn(params, pictures[:2], batch_size=2)
    spread = drawn(params, pictures[:2], mesh=mesh, batch_size=2)
    np.testing.assert_allclose(spread, alone, atol=5e-4)


def test_the_unguided_half_sees_no_picture_but_the_numbers(params, pictures):
    """With a guidance scale of 0 only the unconditional answer is left."""
    blind = tuned(TASK, {"min_guidance_scale": 0.0, "max_guidance_scale": 0.0})
    noise = {"image_noise": np.zeros((1, 16, 24, 3), np.float32)}
    one, other = (drawn(params, [p], blind, given=noise) for p in pictures[:2])
    np.testing.assert_allclose(one, other, atol=1e-5)
    told = {"micro": np.float32([[25.0, 127.0, 0.02]])}
    assert differ(drawn(params, pictures[:1], blind, given={**noise, **told}), one)


def test_in_windows_guidance_grows_over_each_window():
    """By a denoiser whose answers are known: what stands beside the frames."""
    sampling = FramewiseSampling(min_guidance_scale=1.0, max_guidance_scale=3.0)
    guided = sampling.guided(lambda z, level, cond: z + cond.concat, {})
    z, level = jnp.zeros((1, 5, 2, 2, 4)), Level(jnp.float32(1), jnp.float32(1))
    cond = Cond(concat=jnp.ones((1, 5, 2, 2, 4)), vec=jnp.ones((1, 5, 3)))
    got = windowed(guided, 3, 1, FIRST, frames_of)(z, level, cond)
    np.testing.assert_allclose(got[0, :, 0, 0, 0], [1, 2, 3, 2, 3])
    np.testing.assert_allclose(guided(z, level, cond)[0, :, 0, 0, 0], [1, 1.5, 2, 2.5, 3])


def test_a_film_is_drawn_by_windows_of_a_clip(params, pictures):
    """Of five frames three at a time; the first window's are those of no other's."""
    task = tuned(TASK, {"num_frames": 5, "decoding": Whole()})
    around = partial(windowed, size=3, overlap=1, merge=FIRST, cut=frames_of)
    mesh = ONE.build_on(jax.devices()[:1])
    film = Generator(task, MODEL, mesh, batch_size=1, around=around)
    noise = np.random.default_rng(2).standard_normal((1, 5, 8, 12, 4)).astype(np.float32)
    given = {"latents": noise, "image_noise": np.zeros((1, 16, 24, 3), np.float32)}
    x0 = film.draw(params, [""], pictures[:1], seed=0, given=given)
    assert x0.shape == (1, 5, 8, 12, 4) and np.isfinite(x0).all()
    clip = Generator(TASK, MODEL, mesh, batch_size=1)
    alone = clip.draw(params, [""], pictures[:1], seed=0, given={**given, "latents": noise[:, :3]})
    np.testing.assert_allclose(x0[:, :3], alone, atol=5e-4)
    assert differ(
        x0[:, 2:],
        clip.draw(params, [""], pictures[:1], seed=0, given={**given, "latents": noise[:, 2:]}),
    )


def test_hidden_pictures_are_hidden_both_ways(params):
    n = 3000
    tokens = Tokens(jnp.ones((n, 1, 2)), jnp.ones((n, 1), bool))
    cond = Cond(tokens={"image": tokens}, vec=jnp.ones((n, 1, 3)), concat=jnp.ones((n, 1, 1, 1, 1)))
    hidden = replace(TASK, picture_drop=0.3)._with_hidden(cond, jax.random.key(0))
    token = np.asarray(hidden.tokens["image"].embedding)[:, 0, 0] == 0
    latents = np.asarray(hidden.concat).ravel() == 0
    assert np.asarray(hidden.vec).all()
    for share in (token & latents, token & ~latents, latents & ~token):
        assert abs(share.mean() - 0.1) < 0.02


def test_models_and_requests_that_do_not_fit_are_refused(pictures):
    with pytest.raises(Refusal, match=r"needs model\.vae"):
        Pretrained(replace(MODEL, vae=None), TASK)
    with pytest.raises(Refusal, match="in_channels 8"):
        Pretrained(replace(MODEL, network=replace(MODEL.network, in_channels=4)), TASK)
    with pytest.raises(Refusal, match="give it one"):
        TASK.request(MODEL, [""], None)
    with pytest.raises(Refusal, match="motion_bucket_id"):
        tuned(TASK, {"motion_bucket_id": -1.0})
    assert MeshConfig(context=2).build().shape["context"] == 2
