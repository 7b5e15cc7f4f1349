"""Bilinear resizing equals torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from vdm_jax.nn.resize import bilinear, mixing


def torch_resized(x, size):
    frames = torch.tensor(x).permute(0, 3, 1, 2)
    y = torch.nn.functional.interpolate(frames, size=size, mode="bilinear", align_corners=False)
    return y.permute(0, 2, 3, 1).numpy()


@pytest.mark.parity
@pytest.mark.parametrize(
    ("before", "after"),
    [((240, 320), (299, 299)), ((64, 64), (224, 224)), ((37, 5), (11, 23)), ((1, 3), (4, 1))],
)
def test_it_equals_torch(before, after):
    x = np.random.default_rng(0).uniform(0, 1, (2, *before, 3)).astype("float32")
    ours = jax.jit(bilinear, static_argnums=1)(jnp.asarray(x), after)
    np.testing.assert_allclose(ours, torch_resized(x, after), rtol=0, atol=3e-7)


@pytest.mark.parity
def test_places_are_torchs_to_the_last_bit():
    ramp = np.arange(320, dtype="float32").reshape(1, 1, 320, 1)
    places = mixing(320, 299, 320 / 299) @ np.arange(320)
    np.testing.assert_allclose(places, torch_resized(ramp, (1, 299)).ravel(), rtol=1e-7)


def test_a_frame_of_that_size_is_left_as_it_is():
    x = np.random.default_rng(0).uniform(0, 1, (1, 7, 9, 2)).astype("float32")
    np.testing.assert_array_equal(bilinear(jnp.asarray(x), (7, 9)), x)


def test_each_point_is_mixed_of_all_of_something():
    for before, after in ((5, 12), (12, 5), (1, 4)):
        np.testing.assert_allclose(mixing(before, after, before / after).sum(1), 1, atol=1e-6)
