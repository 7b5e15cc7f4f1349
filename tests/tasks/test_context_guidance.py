"""Context guidance (Blattmann et al. 2023, equation 4) of a task that is told frames."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.conditioning.drop import null
from vdm_jax.core import mesh as meshes
from vdm_jax.diffusion.level import Level
from vdm_jax.diffusion.sampler import Euler
from vdm_jax.models.svd_unet import SVD_TINY
from vdm_jax.tasks.completion import Completion, ContextSampling
from vdm_jax.tasks.latent import PROCESS
from vdm_jax.tasks.task import ModelConfig, VideoShape

MODEL = ModelConfig(
    replace(
        SVD_TINY, in_channels=7, out_channels=3, widths=(8,), attention_levels=(), heads=(1,),
        groups=4, context_width=8, vec_features=None, context="text",
    )
)  # fmt: skip
TASK = Completion(
    process=PROCESS,
    video=VideoShape(num_frames=3, height=8, width=8),
    sampling=ContextSampling(Euler(), num_steps=1),
)


SCALES = (0.0, 1.0, 2.5)


@pytest.fixture(scope="module")
def answers():
    """What the sampler is answered at each scale, and the model itself: told, and told nothing."""
    with meshes.unplaced():
        graphdef, params = nnx.split(MODEL.build(rngs=nnx.Rngs(0)), nnx.Param)
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda a: a + 0.2 * jnp.asarray(rng.standard_normal(a.shape), a.dtype), params
    )
    picture = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    arrays = TASK.request(MODEL, [""], [picture]) | {"row": np.zeros(1, np.int32)}
    level = Level(jnp.ones(()), jnp.float32(0.7))

    @jax.jit
    def run(params, arrays, z):
        model = nnx.merge(graphdef, params)
        cond, plain = TASK.condition(model, arrays), TASK.answer(model)
        by_scale = {s: guided(model, arrays, s)(z, level, cond) for s in SCALES}
        return by_scale, plain(z, level, cond), plain(z, level, null(cond, ("concat",)))

    z = jax.random.normal(jax.random.key(1), (1, 3, 8, 8, 3))
    return run(params, jax.tree.map(jnp.asarray, arrays), z)


def guided(model, arrays, scale):
    """The denoiser that `draw` shows from outside."""
    task = replace(TASK, sampling=replace(TASK.sampling, context_scale=scale))
    shown = []

    def around(denoise):
        shown.append(denoise)
        return lambda z, level, cond: z

    task.draw(model, arrays, jax.random.key(0), around=around)
    return shown[0]


def test_a_scale_of_one_is_the_model_itself(answers):
    by_scale, told, _ = answers
    np.testing.assert_array_equal(by_scale[1.0], told)


def test_a_scale_of_zero_knows_no_frame(answers):
    by_scale, told, blind = answers
    np.testing.assert_allclose(by_scale[0.0], blind, rtol=0, atol=1e-5)
    assert np.abs(told - blind).max() > 1e-2


def test_any_scale_goes_as_far_from_what_is_unknown(answers):
    by_scale, told, blind = answers
    wanted = blind + 2.5 * (told - blind)
    np.testing.assert_allclose(by_scale[2.5], wanted, rtol=0, atol=1e-4)
