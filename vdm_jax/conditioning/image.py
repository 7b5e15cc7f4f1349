"""Pictures as Stable Video Diffusion sees them: one token of CLIP, and the latents of a still.

The picture reaches the network twice (Blattmann et al. 2023, section 4.3). `clip_pixels` and
`encode_image` make the token that is attended to; `vae_pixels` and `image_latents` make the
channels that stand beside every frame.

The resizing to CLIP's size is that of the published model: a Gaussian blur, then bicubic
interpolation under which corner pixels stay corners. Both are linear and act on rows and columns
separately, so that each side of the picture has one small matrix, in float64 on the host.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from vdm_jax.core.refusal import Refusal
from vdm_jax.models.clip_vision import CLIPVision
from vdm_jax.models.cond import Tokens
from vdm_jax.models.vae import VAE

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training pictures: red, green, blue
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
MIN_SIDE = 2  # pixels; the blur reflects a picture at its edge, beyond which one pixel must lie
MAX_SIDE = 32768
CUBIC = -0.75  # the slope of the cubic at a distance of one pixel


def clip_pixels(
    picture: UInt8[np.ndarray, "h w 3"], size: int = 224
) -> Float[np.ndarray, "{size} {size} 3"]:
    """A picture stretched to CLIP's square, normalised by CLIP's mean and deviation; float32.

    Raises:
        Refusal: for a picture with fewer than 2 or more than 32768 pixels on a side.
    """
    h, w, _ = picture.shape
    if min(h, w) < MIN_SIDE or max(h, w) > MAX_SIDE:
        raise Refusal(f"the picture is {h}x{w}; sides of {MIN_SIDE} to {MAX_SIDE} are taken")
    rows = _apply_to_rows(resize_matrix(h, size), picture)
    small = np.matmul(resize_matrix(w, size), rows)
    return ((small / 255 - CLIP_MEAN) / CLIP_STD).astype(np.float32)


def resize_matrix(length: int, size: int) -> Float[np.ndarray, "{size} {length}"]:
    """What turns `length` pixels in a row into `size`: each a weighted mean of some of them.

    A pixel of the result is interpolated from four blurred ones, each a mean of some of the old.
    """
    places, cubic = _bicubic(length, size)
    offsets, gauss = _gaussian(length / size)
    index = _reflected(places[:, :, None] + offsets, length)
    matrix = np.zeros((size, length))
    np.add.at(matrix, (np.arange(size)[:, None, None], index), cubic[:, :, None] * gauss)
    return matrix


def _gaussian(factor: float) -> tuple[Int[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Offsets and weights of a blur that suits shrinking by `factor`: up to two sigma each way."""
    sigma = max((factor - 1) / 2, 0.001)
    reach = int(max(4 * sigma, 3)) // 2
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    return offsets, weights / weights.sum()


def _bicubic(
    length: int, size: int
) -> tuple[Int[np.ndarray, "{size} 4"], Float[np.ndarray, "{size} 4"]]:
    """The four pixels nearest to each new one, and their weights: Keys's cubic convolution (1981).

    New pixels lie from the first old one to the last. Their places are rounded to float32, as in
    the reference; it shows in the fifth digit. Beyond an edge, its pixel is repeated.
    """
    scale = np.float32(length - 1) / np.float32(max(size - 1, 1))
    place = scale * np.arange(size, dtype=np.float32)
    left = np.minimum(np.floor(place).astype(int), length - 1)
    t = np.clip(place - left, 0, 1).astype(np.float64)[:, None]
    near, far = np.concatenate([t, 1 - t], 1), np.concatenate([t + 1, 2 - t], 1)
    inner = ((CUBIC + 2) * near - (CUBIC + 3)) * near**2 + 1
    outer = ((CUBIC * far - 5 * CUBIC) * far + 8 * CUBIC) * far - 4 * CUBIC
    weights = np.stack([outer[:, 0], inner[:, 0], inner[:, 1], outer[:, 1]], axis=1)
    return np.clip(left[:, None] + np.arange(-1, 3), 0, length - 1), weights


def _reflected(index, length):
    """Indices beyond an edge, less than `length` away, mirrored at the edge's pixel."""
    index = np.abs(index)
    return np.where(index < length, index, 2 * (length - 1) - index)


def _apply_to_rows(matrix, picture):
    """matrix "o h" times the rows of a picture "h w 3": "o w 3" in float64.

    A row of the result at a time, from the rows of the picture that it depends on, so that a
    large picture is never whole in float64.
    """
    result = np.empty((len(matrix), *picture.shape[1:]))
    for row, weights in enumerate(matrix):
        (used,) = np.nonzero(weights)
        near = slice(used[0], used[-1] + 1)
        band = picture[near].astype(np.float64)
        result[row] = (weights[near] @ band.reshape(len(band), -1)).reshape(band.shape[1:])
    return result


def vae_pixels(
    picture: UInt8[np.ndarray, "h w 3"], height: int, width: int
) -> Float[np.ndarray, "{height} {width} 3"]:
    """A picture stretched to a video's size by Pillow's Lanczos filter, in -1..1; float32."""
    resized = Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized).astype(np.float32) / np.float32(255) * 2 - 1


def encode_image(image_encoder: CLIPVision, pixels: Float[Array, "b h w 3"]) -> Tokens:
    """Pictures, as `clip_pixels` makes them, to one token each: "b 1 d", float32."""
    embedding = image_encoder(pixels)[:, None].astype(jnp.float32)
    return Tokens(embedding, jnp.ones(embedding.shape[:2], bool))


def image_latents(
    vae: VAE,
    pixels: Float[Array, "b H W 3"],
    noise_aug_strength: Float[Array, " b"],
    noise: Float[Array, "b H W 3"],
) -> Float[Array, "b h w c"]:
    """The most likely latents of noised pictures, unscaled: the concat port of every frame.

    The noise is added to the pixels, in -1..1, before they are encoded; the network is told its
    strength (`conditioning.micro`). The latents are not multiplied by the autoencoder's
    scaling_factor, unlike those of the video.
    """
    strength = noise_aug_strength.reshape(-1, 1, 1, 1)
    return vae.encode(pixels + strength * noise).mode()


def square(picture: UInt8[np.ndarray, "h w 3"], size: int) -> Float[np.ndarray, "{size} {size} 3"]:
    """The middle of a picture as CLIP was trained on it; float32.

    The shorter side is scaled to `size` by Pillow's bicubic filter, the longer one cut, and what
    remains normalised by CLIP's mean and deviation.
    """
    h, w, _ = picture.shape
    height, width = (size, size * w // h) if h < w else (size * h // w, size)
    small = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
    top, left = (height - size) // 2, (width - size) // 2
    middle = np.asarray(small)[top : top + size, left : left + size]
    return ((middle / 255 - CLIP_MEAN) / CLIP_STD).astype(np.float32)
