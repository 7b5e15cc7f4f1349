"""Pictures to CLIP's and the autoencoder's pixels, as diffusers' pipeline makes them."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    _resize_with_antialiasing,
)
from flax import nnx
from PIL import Image
from transformers import CLIPImageProcessor

from vdm_jax.conditioning.image import (
    clip_pixels,
    encode_image,
    image_latents,
    resize_matrix,
    vae_pixels,
)
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.clip_vision import CLIPVisionConfig
from vdm_jax.models.vae import VAEConfig

TOLERANCE = 1e-6
SIZES = (
    (224, 224),
    (576, 1024),
    (225, 223),
    (101, 57),
    (2, 900),
    (3, 2),
    (448, 449),
    (1999, 31),
)


def picture(h, w, seed=0):
    """Noise: every error of a weight shows."""
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def reference(array, size):
    """CLIP pixels by the calls of diffusers' pipeline, for a PIL picture."""
    processor = VaeImageProcessor()
    x = processor.numpy_to_pt(processor.pil_to_numpy(Image.fromarray(array)))
    x = (_resize_with_antialiasing(x * 2.0 - 1.0, (size, size)) + 1.0) / 2.0
    x = CLIPImageProcessor()(
        images=x,
        do_normalize=True,
        do_center_crop=False,
        do_resize=False,
        do_rescale=False,
        return_tensors="pt",
    ).pixel_values
    return x[0].permute(1, 2, 0).numpy()


def distance(got, wanted):
    return np.linalg.norm(got - wanted) / np.linalg.norm(wanted)


@pytest.mark.parity
@pytest.mark.parametrize("sides", SIZES)
@pytest.mark.parametrize("size", [224, 30])
def test_clip_pixels_are_those_of_diffusers(sides, size):
    array = picture(*sides)
    got = clip_pixels(array, size)
    assert got.shape == (size, size, 3) and got.dtype == np.float32
    assert distance(got, reference(array, size)) <= TOLERANCE


@pytest.mark.parity
def test_a_side_of_one_pixel_is_refused_where_torch_fails():
    for sides in ((1, 40), (40, 1)):
        with pytest.raises(RuntimeError):
            reference(picture(*sides), 224)
        with pytest.raises(Refusal, match=f"{sides[0]}x{sides[1]}; sides of 2 to 32768"):
            clip_pixels(picture(*sides))


@pytest.mark.parity
@pytest.mark.parametrize("sides", SIZES)
def test_pixels_for_the_autoencoder_are_those_of_diffusers(sides):
    array = picture(*sides)
    processor = VaeImageProcessor(do_resize=True, vae_scale_factor=8)
    wanted = processor.preprocess(Image.fromarray(array), height=64, width=128)
    got = vae_pixels(array, 64, 128)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, wanted[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("length", [2, 30, 224, 500, 9000])
def test_the_weights_of_a_pixel_sum_to_one_and_the_picture_may_be_mirrored(length):
    matrix = resize_matrix(length, 224)
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(matrix[::-1, ::-1], matrix, atol=2e-3)


def test_a_large_picture_takes_little_memory_beyond_its_own():
    large = np.zeros((5000, 4000, 3), np.uint8)
    tracemalloc.start()
    clip_pixels(large)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < large.nbytes
    with pytest.raises(Refusal, match="32769"):
        clip_pixels(np.zeros((2, 32769, 3), np.uint8))


def test_one_token_for_each_picture():
    config = CLIPVisionConfig(
        width=8, hidden=8, layers=1, heads=2, patch_size=5, image_size=10, projection=6
    )
    with meshes.unplaced():
        encoder = config.build(rngs=nnx.Rngs(0))
    pixels = jnp.asarray(np.stack([clip_pixels(picture(9, 7, seed), 10) for seed in (1, 2)]))
    tokens = encode_image(encoder, pixels)
    assert tokens.embedding.shape == (2, 1, 6) and tokens.mask.shape == (2, 1) and tokens.mask.all()
    np.testing.assert_array_equal(tokens.embedding[:, 0], encoder(pixels))


def test_latents_of_a_picture_are_the_mode_of_the_noised_pixels_unscaled():
    with meshes.unplaced():
        vae = VAEConfig(widths=(8, 8), groups=2).build(rngs=nnx.Rngs(0))
    pixels = jnp.asarray(np.stack([vae_pixels(picture(9, 7, seed), 8, 12) for seed in (1, 2)]))
    noise = jnp.asarray(np.random.default_rng(3).normal(size=pixels.shape), jnp.float32)
    latents = image_latents(vae, pixels, jnp.array([0.0, 0.5]), noise)
    np.testing.assert_allclose(latents[:1], vae.encode(pixels[:1]).mean, atol=1e-5)
    np.testing.assert_allclose(
        latents[1:], vae.encode(pixels[1:] + 0.5 * noise[1:]).mean, atol=1e-5
    )
    assert np.abs(latents[1:] - vae.encode(pixels[1:]).mean).max() > 1e-3
