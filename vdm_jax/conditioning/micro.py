"""Micro-conditioning: three numbers that Stable Video Diffusion is told of every clip.

Podell et al. 2023 (arXiv:2307.01952, section 2.2) told a network the size of its training pictures;
Blattmann et al. 2023 (arXiv:2311.15127) tell it the frame rate, the amount of motion, and the
noise of the picture. All frames of a video share the three, and guidance keeps them.

- fps: frames a second of the video. The network receives fps - 1: the usual 7 enters as 6, which
  is also what the 1.1 weights were tuned at, alone.
- motion_bucket_id: how much moves, after the mean optical flow of the training clips. 127 is
  usual, and what the 1.1 weights were tuned at; lower is calmer.
- noise_aug_strength: standard deviation of the noise added to the picture's pixels, in -1..1,
  before its latents are taken. 0.02 is usual; more lets the video depart further from the picture.
  Training drew its logarithm from a normal with mean -3 and deviation 0.5.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from vdm_jax.core.refusal import Refusal

MICRO_FEATURES = 3
RANGES = {
    "fps": (1, 1000),
    "motion_bucket_id": (0, 1023),
    "noise_aug_strength": (0, 10),
}


def check_micro(
    *, fps: float | int, motion_bucket_id: float | int, noise_aug_strength: float | int
) -> None:
    """Refuse, naming it, a value outside `RANGES` or one that is not a number."""
    values = {
        "fps": fps,
        "motion_bucket_id": motion_bucket_id,
        "noise_aug_strength": noise_aug_strength,
    }
    for name, value in values.items():
        low, high = RANGES[name]
        if not low <= value <= high:
            raise Refusal(f"{name} is {value}; it must be from {low} to {high}")


def micro(
    fps: Float[Array, " b"],
    motion_bucket_id: Float[Array, " b"],
    noise_aug_strength: Float[Array, " b"],
    num_frames: int,
) -> Float[Array, "b {num_frames} 3"]:
    """The vec port: [fps - 1, motion_bucket_id, noise_aug_strength] of each video, float32.

    The numbers go in as they are; the network makes sinusoids of them.
    """
    features = jnp.stack([fps - 1, motion_bucket_id, noise_aug_strength], axis=-1)
    features = features.astype(jnp.float32)[:, None]
    return jnp.broadcast_to(features, (len(fps), num_frames, MICRO_FEATURES))
