"""Text to video in latents: what is told counts, pictures pass time by; and frames between two."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.adapters.trainable import dotted
from vdm_jax.conditioning.text import WordEncoderConfig
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.joint import WithPictures
from vdm_jax.data.loader import stack
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.diffusion.sampler import Euler
from vdm_jax.models.svd_unet import SVD_TEXT
from vdm_jax.models.vae import SVD_IMAGE_VAE
from vdm_jax.nn.mixing import FrameByFrame
from vdm_jax.tasks import latent
from vdm_jax.tasks.joint import ALONE
from vdm_jax.tasks.stable_interpolation import StableInterpolation
from vdm_jax.tasks.stable_text import StableText
from vdm_jax.tasks.task import ModelConfig, Sampling, VideoShape, to_bytes, tuned

VIDEO = VideoShape(num_frames=3, height=15, width=16, fps=8.0)
NETWORK = replace(
    SVD_TEXT, widths=(16,), attention_levels=(), heads=(2,), blocks=1, groups=8,
    context_width=8, vec_features=2, vec_width=8,
)  # fmt: skip
MODEL = ModelConfig(
    NETWORK,
    WordEncoderConfig(width=8, max_words=8, table_rows=64),
    vae=replace(SVD_IMAGE_VAE, widths=(8, 8), blocks=1, groups=4),
)
TASK = StableText(video=VIDEO, sampling=Sampling(Euler(), num_steps=2, guidance_scale=3.0))
PICTURE = replace(MODEL, network=replace(NETWORK, mixing=FrameByFrame(), vec_features=None))
ONE = replace(TASK, video=replace(VIDEO, num_frames=1))
BETWEEN = StableInterpolation(video=VIDEO, sampling=Sampling(Euler(), num_steps=2))
NINE = replace(MODEL, network=replace(NETWORK, in_channels=9))
CLIPS = MovingShapes(num_frames=3, height=15, width=16, radius=(0.08, 0.1))
STILLS = replace(CLIPS, num_frames=1, seed=1)


def parts(config):
    """A model apart from its parameters, and those, every one of which counts."""
    with meshes.unplaced():
        graphdef, params = nnx.split(config.build(rngs=nnx.Rngs(0)), nnx.Param)
    rng = np.random.default_rng(0)
    return graphdef, jax.tree.map(
        lambda a: a + 0.1 * jnp.asarray(rng.standard_normal(a.shape), a.dtype), params
    )


@pytest.fixture(scope="module")
def text():
    return parts(MODEL)


@pytest.fixture(scope="module")
def joint():
    """Two videos with two pictures beside each, as arrays."""
    source = WithPictures(videos=CLIPS, pictures=STILLS, count=2).build()
    return jax.tree.map(jnp.asarray, TASK.prepare(MODEL, stack([source[0], source[1]])))


@pytest.fixture(scope="module")
def gradients(text):
    """(loss, scalars), gradient; compiled once. The weights of the two losses are arguments."""
    graphdef, params = text

    @jax.jit
    def run(arrays, weights):
        def loss(params):
            both, told = TASK.loss(nnx.merge(graphdef, params), arrays, jax.random.key(0))
            video, picture = weights
            return video * told["video_loss"] + picture * told["picture_loss"], (both, told)

        return jax.grad(loss, has_aux=True)(params)

    return run


def zeros(grads):
    """Names of parameters of the network without a gradient."""
    return {
        dotted(path)
        for path, leaf in nnx.to_flat_state(grads)
        if path[0] == "network" and not np.abs(leaf.get_value()).max() > 0
    }


def test_pictures_pass_the_layers_over_time_by(joint, gradients):
    grads, (both, told) = gradients(joint, jnp.array([0.0, 1.0]))
    in_time = ("time.", "blend.", "frame_embedding.")
    for name in zeros(grads):
        assert any(part in name for part in in_time) or "add_embedding" in name, name
    untouched = {dotted(p) for p, _ in nnx.to_flat_state(grads) if "time" in p or "blend" in p}
    assert untouched <= zeros(grads)
    wanted = (3 * told["video_loss"] + 2 * told["picture_loss"]) / 5  # each frame counts alike
    assert float(both) == pytest.approx(float(wanted), rel=1e-6)


def test_videos_teach_all_layers_and_see_no_picture(joint, gradients):
    video = jnp.array([1.0, 0.0])
    grads, (_, told) = gradients(joint, video)
    assert zeros(grads) == set()
    others = {**joint, ALONE + "video": joint[ALONE + "video"][::-1, ::-1]}
    _, (_, moved) = gradients(others, video)
    assert moved["video_loss"] == told["video_loss"]
    assert moved["picture_loss"] != told["picture_loss"]


def test_latents_that_are_given_are_taken_instead_of_frames(text):
    graphdef, params = text
    model = nnx.merge(graphdef, params)
    batch = stack([CLIPS[0], CLIPS[1]])
    arrays = TASK.prepare(MODEL, batch)
    assert arrays["video"].shape == (2, 3, 16, 16, 3)  # a row of padding, up to a multiple of 2
    x0 = np.asarray(TASK.clean(model, jax.tree.map(jnp.asarray, arrays)))
    assert x0.shape == (2, *latent.sizes(model, VIDEO))
    held = {"latents": x0, "picture": batch["video"][:, 0]}
    given = TASK.prepare(MODEL, {**{n: batch[n] for n in ("caption", "fps")}, **held})
    assert "video" not in given
    np.testing.assert_array_equal(TASK.clean(model, jax.tree.map(jnp.asarray, given)), x0)


def test_a_clip_is_told_what_it_says_of_itself():
    batch = {**stack([CLIPS[0], CLIPS[1]]), "motion_bucket_id": np.float32([3, 250])}
    np.testing.assert_array_equal(TASK.prepare(MODEL, batch)["micro"], [[8, 3], [8, 250]])
    del batch["motion_bucket_id"], batch["fps"]
    np.testing.assert_array_equal(TASK.prepare(MODEL, batch)["micro"], [[8, 127], [8, 127]])


def drawer(task, config, graphdef):
    def draw(params, arrays):
        model = nnx.merge(graphdef, params)
        return task.generate(model, arrays, jax.random.key(0), around=lambda denoise: denoise)

    run = jax.jit(draw)

    def drawn(params, captions, pictures=None, **given):
        arrays = {**task.request(config, captions, pictures), **given}
        arrays["row"] = np.arange(len(captions), dtype=np.int32)
        return np.asarray(run(params, jax.tree.map(jnp.asarray, arrays)))

    return drawn


def test_every_input_of_a_video_counts(text):
    graphdef, params = text
    draw = drawer(TASK, MODEL, graphdef)
    base = draw(params, ["red"])
    assert base.shape == (1, 3, 15, 16, 3) and np.isfinite(base).all()
    np.testing.assert_array_equal(draw(params, ["red"]), base)
    told = TASK.request(MODEL, ["red"], None)["micro"]
    noise = np.random.default_rng(1).standard_normal((1, 3, 8, 8, 4)).astype(np.float32)
    others = {
        "caption": draw(params, ["blue"]),
        "fps": draw(params, ["red"], micro=told * [[2, 1]]),
        "motion": draw(params, ["red"], micro=told * [[1, 2]]),
        "noise": draw(params, ["red"], latents=noise),
    }
    for name, other in others.items():
        assert np.abs(other - base).max() > 1e-4, name


def test_a_picture_is_a_video_of_one_frame():
    graphdef, params = parts(PICTURE)
    picture = drawer(ONE, PICTURE, graphdef)(params, ["red", "blue"])
    assert picture.shape == (2, 1, 15, 16, 3)
    assert np.abs(picture[0] - picture[1]).max() > 1e-4


def test_given_frames_come_out_as_they_went_in_and_decide_what_lies_between():
    graphdef, params = parts(NINE)
    draw = drawer(BETWEEN, NINE, graphdef)
    ends = [CLIPS[0]["video"][0], CLIPS[0]["video"][-1]]
    video = draw(params, [""], ends)
    made = np.asarray(to_bytes(jnp.asarray(video)))
    np.testing.assert_array_equal(made[0, [0, 2]], ends)
    for pair in ([ends[0], CLIPS[1]["video"][-1]], [CLIPS[1]["video"][0], ends[1]], ends[::-1]):
        assert np.abs(draw(params, [""], pair)[:, 1] - video[:, 1]).max() > 1e-4


def test_the_ends_stand_beside_the_frames_that_they_are():
    graphdef, params = parts(NINE)
    model = nnx.merge(graphdef, params)
    arrays = jax.tree.map(jnp.asarray, BETWEEN.prepare(NINE, stack([CLIPS[0], CLIPS[1]])))
    x0, cond = BETWEEN.clean(model, arrays), BETWEEN.condition(model, arrays)
    np.testing.assert_array_equal(cond.concat[..., -1].mean((2, 3)), [[1, 0, 1]] * 2)
    np.testing.assert_allclose(cond.concat[:, ::2, ..., :4], x0[:, ::2], atol=1e-5)
    assert (cond.concat[:, 1] == 0).all()
    again = BETWEEN.condition(model, {**arrays, latent.LATENTS: x0})
    np.testing.assert_allclose(again.concat, cond.concat, atol=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(Refusal, match=r"in_channels 4 and out_channels 4, got 9 and 4"):
        TASK.check(NINE)
    with pytest.raises(Refusal, match=r"in_channels 9 and out_channels 4, got 4 and 4"):
        BETWEEN.check(MODEL)
    with pytest.raises(Refusal, match="vec_features None or 2, got 3"):
        TASK.check(replace(MODEL, network=replace(NETWORK, vec_features=3)))
    with pytest.raises(Refusal, match=r"needs model\.vae"):
        TASK.check(replace(MODEL, vae=None))
    with pytest.raises(Refusal, match="takes no picture"):
        TASK.request(MODEL, ["red"], [CLIPS[0]["video"][0]])
    with pytest.raises(Refusal, match="two pictures a video"):
        BETWEEN.request(NINE, ["red"], [CLIPS[0]["video"][0]])
    with pytest.raises(Refusal, match="there is none"):
        tuned(BETWEEN, {"num_frames": 2})
