"""Super-resolution by guidance, of a model that was never told of a small video.

The model is a U-Net that answers v = 0, as it does before it is trained: that is the exact denoiser
of white noise, which knows nothing, so all that a drawing has of the small video is the guidance.
"""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.core import mesh as meshes
from vdm_jax.diffusion.density import Uniform
from vdm_jax.diffusion.guidance import Downsample
from vdm_jax.diffusion.loss import UniformWeight
from vdm_jax.diffusion.precond import V
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.sampler import DDIM
from vdm_jax.diffusion.schedule import Cosine
from vdm_jax.models.vdm_unet import VDMUNetConfig
from vdm_jax.tasks.denoising import GIVEN, KNOWN
from vdm_jax.tasks.reconstruction import SMALL, Reconstruction
from vdm_jax.tasks.task import ModelConfig, Sampling, VideoShape
from vdm_jax.tasks.text_to_video import TextToVideo

PROCESS = Process(schedule=Cosine(), precond=V(), density=Uniform(Cosine()), weight=UniformWeight())
PLAIN = TextToVideo(
    process=PROCESS,
    video=VideoShape(num_frames=4, height=8, width=8),
    sampling=Sampling(DDIM(), num_steps=12),
)
GUIDED = Reconstruction(task=PLAIN, small_weight=4.0, frames_weight=2.0)
MODEL = ModelConfig(
    VDMUNetConfig(
        channels=8, multipliers=(1,), blocks=1, space_attention=(), time_attention=(0,), heads=2,
        head_size=4, groups=2,
    )
)  # fmt: skip


@cache
def untrained():
    with meshes.unplaced():
        return MODEL.build(rngs=nnx.Rngs(0))


def drawn(task, **arrays):
    arrays, model = {"row": jnp.arange(2), **arrays}, untrained()
    run = jax.jit(lambda a, key: task.generate(model, a, key, around=lambda d: d))
    return run(arrays, jax.random.key(3))


def off(video, small, frames=slice(None)):
    """Root mean square distance of the video, made small, from the small one."""
    seen = Downsample(2).observe(video)
    return float(jnp.sqrt(jnp.mean((seen - small)[:, frames] ** 2)))


@pytest.fixture(scope="module")
def small():
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 4, 3)), "float32")


@pytest.fixture(scope="module")
def known():
    value = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (2, 4, 8, 8, 3)), "float32")
    which = jnp.zeros((2, 4), bool).at[0, 1].set(True).at[1, :2].set(True)
    return {KNOWN: which, GIVEN: value}


def test_made_small_a_guided_drawing_is_the_small_video(small):
    plain, guided = drawn(PLAIN), drawn(GUIDED, **{SMALL: small})
    assert off(guided, small) < off(plain, small) / 20
    inside = guided - jnp.repeat(jnp.repeat(Downsample(2).observe(guided), 2, 2), 2, 3)
    assert inside.std() > 0.5  # what the small video does not say is drawn, not filled in


def test_without_weight_and_without_a_small_video_nothing_changes(small):
    plain = drawn(PLAIN)
    weightless = replace(GUIDED, small_weight=0.0)
    np.testing.assert_array_equal(plain, drawn(weightless, **{SMALL: small}))
    np.testing.assert_array_equal(plain, drawn(GUIDED))


def test_known_frames_and_a_small_video_at_once(small, known):
    plain = drawn(PLAIN)
    both = drawn(GUIDED, **{SMALL: small}, **known)
    which = known[KNOWN][..., None, None, None]
    np.testing.assert_array_equal(jnp.where(which, both, 0), jnp.where(which, known[GIVEN], 0))
    assert off(both, small, slice(2, None)) < off(plain, small, slice(2, None)) / 20
