"""Pictures beside videos, for the network of Video Diffusion Models: neither teaches the other."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.conditioning.drop import drop
from vdm_jax.conditioning.text import WordEncoderConfig
from vdm_jax.core import mesh as meshes
from vdm_jax.data.joint import WithPictures
from vdm_jax.data.loader import stack
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.diffusion.density import Uniform
from vdm_jax.diffusion.loss import UniformWeight
from vdm_jax.diffusion.precond import V
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.schedule import Cosine
from vdm_jax.models.vdm_unet import VDMUNetConfig
from vdm_jax.tasks.joint import ALONE
from vdm_jax.tasks.task import ModelConfig, VideoShape
from vdm_jax.tasks.text_to_video import TextToVideo

MODEL = ModelConfig(
    VDMUNetConfig(
        channels=8, multipliers=(1,), blocks=1, space_attention=(), time_attention=(0,), heads=2,
        head_size=4, groups=2, patch_size=2, token_width=8,
    ),
    WordEncoderConfig(width=8, max_words=4, table_rows=64),
)  # fmt: skip
TASK = TextToVideo(
    process=Process(
        schedule=Cosine(), precond=V(), density=Uniform(Cosine()), weight=UniformWeight()
    ),
    video=VideoShape(num_frames=3, height=8, width=8),
    caption_drop=0.5,
)
CLIPS = MovingShapes(num_frames=3, height=8, width=8, radius=(0.08, 0.1))
SOURCE = WithPictures(videos=CLIPS, pictures=replace(CLIPS, num_frames=1, seed=1), count=2).build()


@pytest.fixture(scope="module")
def parts():
    """A model apart from its parameters, and those, every one of which counts."""
    with meshes.unplaced():
        graphdef, params = nnx.split(MODEL.build(rngs=nnx.Rngs(0)), nnx.Param)
    rng = np.random.default_rng(0)
    return graphdef, jax.tree.map(
        lambda a: a + 0.2 * jnp.asarray(rng.standard_normal(a.shape), a.dtype), params
    )


@pytest.fixture(scope="module")
def joint():
    return jax.tree.map(jnp.asarray, TASK.prepare(MODEL, stack([SOURCE[0], SOURCE[1]])))


@pytest.fixture(scope="module")
def learn(parts):
    """arrays -> (scalars, gradient of the loss of the videos)."""
    graphdef, params = parts

    @jax.jit
    def run(arrays):
        def loss(params):
            both, told = TASK.loss(nnx.merge(graphdef, params), arrays, jax.random.key(0))
            return told["video_loss"], {**told, "both": both}

        grads, told = jax.grad(loss, has_aux=True)(params)
        return told, grads

    return run


def test_another_picture_changes_no_bit_of_what_videos_teach(joint, learn):
    assert joint[ALONE + "video"].shape == (2, 2, 1, 8, 8, 3)
    before, taught = learn(joint)
    other = {**joint, ALONE + "video": 255 - joint[ALONE + "video"]}
    other[ALONE + "text"] = joint[ALONE + "text"][::-1]
    after, again = learn(other)
    assert after["video_loss"] == before["video_loss"]
    assert after["picture_loss"] != before["picture_loss"]
    jax.tree.map(np.testing.assert_array_equal, again, taught)


def test_another_video_changes_no_bit_of_what_pictures_cost(joint, learn):
    before, _ = learn(joint)
    after, _ = learn({**joint, "video": 255 - joint["video"]})
    assert after["picture_loss"] == before["picture_loss"]
    assert after["video_loss"] != before["video_loss"]


def test_each_frame_counts_alike(joint, learn):
    told, _ = learn(joint)
    wanted = (3 * told["video_loss"] + 2 * told["picture_loss"]) / 5
    assert float(told["both"]) == pytest.approx(float(wanted), rel=1e-6)


def test_without_pictures_the_loss_is_that_of_the_videos(parts, joint):
    """Of the key as it is: half to hide captions, half to noise."""
    graphdef, params = parts
    videos = {name: rows for name, rows in joint.items() if not name.startswith(ALONE)}

    @jax.jit
    def both(params, arrays, key):
        model = nnx.merge(graphdef, params)
        drop_key, loss_key = jax.random.split(key)
        cond = drop(TASK.condition(model, arrays), drop_key, {"tokens": TASK.caption_drop})
        priced = TASK.price(TASK.answer(model), TASK.clean(model, arrays), cond, loss_key)
        return TASK.loss(model, arrays, key), priced

    (loss, scalars), priced = both(params, videos, jax.random.key(3))
    assert loss == priced and scalars == {}
