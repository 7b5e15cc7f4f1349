"""PSNR and SSIM equal scikit-image's."""

import numpy as np
import pytest
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vdm_jax.core.refusal import Refusal
from vdm_jax.metrics.frames import psnr, ssim, unit


@pytest.fixture(scope="module")
def pairs():
    """A photograph in two crops, and both with noise: uint8 "2 1 h w 3"."""
    picture = data.astronaut()[40:91, 100:177]
    clean = np.stack([picture, picture[::-1, ::-1]])[:, None]
    noise = np.random.default_rng(0).normal(0, 12, clean.shape)
    return clean, np.clip(clean + noise, 0, 255).astype(np.uint8)


def peers(a, b, peak):
    flat = [
        (x.astype(np.float64), y.astype(np.float64)) for x, y in zip(a[:, 0], b[:, 0], strict=True)
    ]
    alike = [
        structural_similarity(
            x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            data_range=peak, channel_axis=-1,
        )
        for x, y in flat
    ]  # fmt: skip
    return [peak_signal_noise_ratio(x, y, data_range=peak) for x, y in flat], alike


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_both_equal_scikit_images(pairs, kind):
    a, b = pairs if kind == "uint8" else ((x / 255).astype(kind) for x in pairs)
    decibels, alike = peers(a, b, 255 if kind == "uint8" else 1)
    assert psnr(a, b).shape == ssim(a, b).shape == (2, 1)
    np.testing.assert_allclose(psnr(a, b)[:, 0], decibels, rtol=0, atol=1e-10)
    np.testing.assert_allclose(ssim(a, b)[:, 0], alike, rtol=0, atol=1e-10)


def test_equal_and_unlike_frames(pairs):
    a, _ = pairs
    np.testing.assert_array_equal(psnr(a, a), 100)
    np.testing.assert_allclose(ssim(a, a), 1)
    noise = np.random.default_rng(1).integers(0, 256, (2, *a.shape), np.uint8)
    assert np.abs(ssim(*noise)).max() < 0.05


def test_psnr_is_that_of_a_known_error():
    black, grey = np.zeros((2, 4, 4, 3), np.uint8), np.full((2, 4, 4, 3), 51, np.uint8)
    np.testing.assert_allclose(psnr(black, grey), [20 * np.log10(5)] * 2)  # 51 is a fifth of 255
    np.testing.assert_allclose(psnr(black / 255.0, grey / 255.0), [20 * np.log10(5)] * 2)


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_what_cannot_be_compared_is_refused(measure):
    a = np.zeros((2, 12, 13, 3), np.float32)
    with pytest.raises(Refusal, match=r"got float32 \(2, 12, 13, 3\) and float32 \(2, 13, 12, 3\)"):
        measure(a, a.swapaxes(1, 2))
    with pytest.raises(Refusal, match=r"uint8 \(2, 12, 13, 3\) and float32"):
        measure(a.astype(np.uint8), a)
    bad = a.copy()
    bad[1, 5, 5] = np.nan
    with pytest.raises(Refusal, match="frame 1 has pixels that are not finite"):
        measure(a, bad)
    with pytest.raises(Refusal, match=r"floats are in \[0, 1\], these in \[-1, -1\]"):
        measure(a - 1, a)
    with pytest.raises(Refusal, match="uint8, or floats"):
        measure(a.astype(np.int32), a.astype(np.int32))


def test_frames_too_small_or_of_several_sizes_are_refused():
    a = np.zeros((2, 10, 30, 3), np.uint8)
    with pytest.raises(Refusal, match=r"at least 11x11, got \(10, 30\)"):
        ssim(a, a)
    with pytest.raises(Refusal, match="several sizes"):
        unit([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)])
    with pytest.raises(Refusal, match=r"got \(4, 4\)"):
        unit(np.zeros((4, 4), np.uint8))
