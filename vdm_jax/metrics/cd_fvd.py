"""What content-debiased FVD sees of videos: VideoMAE on them.

Ge et al. 2024 (arXiv:2404.12391). As the authors' package feeds it: colours in 0..1, not normalised
by any mean, each frame scaled to a square by torch's bilinear interpolation, whatever its aspect.
Its published figures are of 16 frames and of `VIDEOMAE_V2_GIANT`, fine-tuned on Something-Something
V2 (vit_g_hybrid_pt_1200e_ssv2_ft.pth).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from vdm_jax.models.videomae import VideoMAE
from vdm_jax.nn.conv import fold
from vdm_jax.nn.resize import bilinear


def videomae_features(
    model: VideoMAE, videos: UInt8[Array, "b t h w 3"]
) -> Float[Array, "b width"]:
    """One vector for each video; pure, for use under `jax.jit`.

    In full float32 on every platform: accelerators round it where they are not told otherwise.
    """
    size = model.config.image_size
    with jax.default_matmul_precision("highest"):
        frames = bilinear(fold(videos.astype(jnp.float32) / 255), (size, size))
        return model(frames.reshape(*videos.shape[:2], size, size, 3))
