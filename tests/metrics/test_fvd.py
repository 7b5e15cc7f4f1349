"""Frames are resized as the published protocols resize them, and clips become logits."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics.fvd import Framing, ShortSideCrop, Stretch, i3d_logits
from vdm_jax.models.i3d import I3DConfig

SIZES = [(7, 5), (224, 224), (240, 427), (100, 1000), (1, 1), (225, 223), (448, 448), (31, 300)]
TINY = I3DConfig(
    stem=(4, 4, 6),
    stages=(((2, 3, 4, 2, 3, 2),), ((3, 2, 3, 2, 2, 3),), ((4, 3, 5, 2, 3, 2),)),
    classes=5,
)


def drawn(h, w, t=2):
    return np.random.default_rng(h * w).integers(0, 256, (1, t, h, w, 3), np.uint8)


def interpolated(videos, height, width):
    """torch's, of floats 0..255."""
    frames = torch.tensor(videos[0]).permute(0, 3, 1, 2).float()
    return torch.nn.functional.interpolate(
        frames, size=(height, width), mode="bilinear", align_corners=False
    )


@pytest.mark.parity
@pytest.mark.parametrize(("h", "w"), SIZES)
def test_stretch_is_the_protocol_of_cd_fvd(h, w):
    videos = drawn(h, w)
    wanted = 2.0 * interpolated(videos, 224, 224) / 255.0 - 1
    got = Stretch()(jnp.asarray(videos))[0]
    np.testing.assert_allclose(got, wanted.permute(0, 2, 3, 1), rtol=0, atol=2e-6)


@pytest.mark.parity
@pytest.mark.parametrize(("h", "w"), SIZES)
def test_short_side_crop_is_the_protocol_of_videogpt(h, w):
    videos = drawn(h, w)
    scale = 224 / min(h, w)
    height, width = (224, math.ceil(w * scale)) if h < w else (math.ceil(h * scale), 224)
    large = interpolated(videos, height, width) / 255
    top, left = (height - 224) // 2, (width - 224) // 2
    wanted = 2 * (large[:, :, top : top + 224, left : left + 224] - 0.5)
    got = ShortSideCrop()(jnp.asarray(videos))[0]
    np.testing.assert_allclose(got, wanted.permute(0, 2, 3, 1), rtol=0, atol=2e-6)


def test_framings_are_parts_and_agree_on_squares():
    videos = jnp.asarray(drawn(40, 40))
    np.testing.assert_array_equal(Stretch()(videos), ShortSideCrop()(videos))
    wide = jnp.asarray(drawn(40, 60))
    assert float(jnp.abs(Stretch()(wide) - ShortSideCrop()(wide)).max()) > 0.5
    assert all(isinstance(part, Framing) for part in (Stretch(), ShortSideCrop()))


def test_logits_of_clips_are_those_of_the_framed_pixels():
    with meshes.unplaced():
        model = TINY.build(rngs=nnx.Rngs(0))
    videos = jnp.asarray(np.concatenate([drawn(20, 30, 9), drawn(60, 40, 9)[:, :, :20, :30]]))
    framing = Stretch(side=32)
    got = jax.jit(i3d_logits, static_argnums=2)(model, videos, framing)
    assert got.shape == (2, 5) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, jax.jit(model)(framing(videos)), rtol=0, atol=1e-5)
    alone = jax.jit(i3d_logits, static_argnums=2)(model, videos[1:], framing)
    np.testing.assert_allclose(got[1:], alone, rtol=0, atol=1e-5)
    assert float(jnp.abs(got[0] - got[1]).max()) > 1e-3


def test_too_few_frames_are_refused():
    with meshes.unplaced():
        model = replace(TINY, classes=2).build(rngs=nnx.Rngs(0))
    with pytest.raises(Refusal, match="9 frames or more, got 8"):
        i3d_logits(model, jnp.asarray(drawn(20, 20, 8)))
