"""Large pictures that are made small while they are read."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from vdm_jax.core.container import Limits
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.still import read_image, read_reduced


def saved(pixels, form="PNG", **how):
    out = BytesIO()
    Image.fromarray(pixels).save(out, form, **how)
    return out.getvalue()


def test_a_picture_within_the_bound_is_as_it_was():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    assert (read_reduced(saved(pixels), Limits(), 600) == pixels).all()


@pytest.mark.parametrize("height, width, factor", [(640, 400, 2), (601, 399, 3), (1, 900, 2)])
def test_a_larger_one_is_the_mean_of_its_blocks(height, width, factor):
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    most = -(-height * width // factor**2)
    small = read_reduced(saved(pixels), Limits(), most)
    tall, wide = max(1, height // factor), width // factor
    cut = pixels[: tall * factor, : wide * factor].reshape(tall, -1, wide, factor, 3)
    assert small.shape == (tall, wide, 3)
    assert np.abs(small - cut.mean((1, 3))).max() < 0.6  # Pillow rounds by halves, nearly


def test_a_larger_one_is_upright_and_over_white():
    pixels = np.zeros((64, 32, 4), np.uint8)
    pixels[:32] = 255, 0, 0, 255
    turned = Image.Exif()
    turned[0x0112] = 6  # its first row is its right side
    content = saved(pixels, exif=turned.tobytes())
    small = read_reduced(content, Limits(), 512)
    assert small.shape == (16, 32, 3)
    assert (small[:, -8:] == (255, 0, 0)).all() and (small[:, :8] == 255).all()
    assert (read_image(content)[::2, ::2] == small).all()


def test_a_jpeg_is_decoded_small_and_a_bomb_is_not():
    flat = np.full((600, 400, 3), 90, np.uint8)
    assert np.abs(read_reduced(saved(flat, "JPEG"), Limits(), 60_000).astype(int) - 90).max() <= 2
    with pytest.raises(Refusal, match="over the limit of 1000 pixels"):
        read_reduced(saved(flat), Limits(pixels=1000), 500)
