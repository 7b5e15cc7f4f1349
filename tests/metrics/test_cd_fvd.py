"""Videos reach VideoMAE as the package of content-debiased FVD feeds it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from vdm_jax.core import mesh as meshes
from vdm_jax.metrics.cd_fvd import videomae_features
from vdm_jax.models.videomae import VideoMAEConfig

SMALL = VideoMAEConfig(width=16, hidden=20, layers=2, heads=2, patch_size=8, image_size=32)


@pytest.mark.parity
@pytest.mark.parametrize("frames", [16, 6])
def test_colours_are_in_0_to_1_and_frames_scaled_as_in_torch(frames):
    with meshes.unplaced():
        model = SMALL.build(rngs=nnx.Rngs(0))
    videos = np.random.default_rng(0).integers(0, 256, (2, frames, 20, 50, 3), np.uint8)
    got = jax.jit(videomae_features)(model, jnp.asarray(videos))
    each = torch.tensor(videos).flatten(0, 1).permute(0, 3, 1, 2) / 255
    square = torch.nn.functional.interpolate(each, (32, 32), mode="bilinear").permute(0, 2, 3, 1)
    wanted = jax.jit(model)(jnp.asarray(square.reshape(2, frames, 32, 32, 3).numpy()))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
    assert float(jnp.abs(wanted[0] - wanted[1]).max()) > 1e-3
    assert got.dtype == jnp.float32
