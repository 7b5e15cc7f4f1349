"""What FID and the Inception Score see of frames: the Inception network on them.

Heusel et al. 2017 (arXiv:1706.08500) and Salimans et al. 2016 (arXiv:1606.03498). As pytorch-fid
feeds it: frames are scaled to 299x299 by torch's bilinear interpolation, which aligns the centres
of pixels. Where TensorFlow's old resize is imitated (torch-fidelity, StyleGAN), which aligns their
corners, figures differ: compare those of one kind only.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from vdm_jax.models.inception import Inception
from vdm_jax.nn.resize import bilinear

SIZE = (299, 299)


def inception_features(
    model: Inception, frames: UInt8[Array, "n h w 3"]
) -> tuple[Float[Array, "n features"], Float[Array, "n classes"]]:
    """Features, and logits of the classes; pure, for use under `jax.jit`.

    In full float32 on every platform: accelerators round it where they are not told otherwise.
    """
    with jax.default_matmul_precision("highest"):
        pixels = 2 * bilinear(frames.astype(jnp.float32) / 255, SIZE) - 1
        seen = model(pixels)
    return seen.features, seen.logits
