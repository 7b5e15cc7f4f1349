"""Frames reach the network of FID as pytorch-fid feeds it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from reference.inception import pair

from vdm_jax.metrics.fid import inception_features


@pytest.mark.parity
def test_frames_are_scaled_as_in_torch(tmp_path):
    ours, theirs = pair(1, tmp_path)
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), np.uint8)
    features, logits = jax.jit(inception_features)(ours, jnp.asarray(frames))
    large = torch.nn.functional.interpolate(
        torch.tensor(frames).permute(0, 3, 1, 2) / 255, (299, 299), mode="bilinear"
    )
    wanted, scored = theirs(2 * large - 1)
    np.testing.assert_allclose(features, wanted, rtol=0, atol=1e-5 * float(wanted.max()))
    np.testing.assert_allclose(jax.nn.softmax(logits), scored.softmax(1), rtol=1e-4, atol=1e-9)
