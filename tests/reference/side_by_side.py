"""The frames of one request by our pipeline and by diffusers', from the same noise."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image

from vdm_jax.core.mesh import MeshConfig
from vdm_jax.sample.pipeline import Pipeline


def distance(
    theirs: StableVideoDiffusionPipeline,
    folder: Path,
    pictures: list[np.ndarray],
    *,
    seed: int = 3,
    frames: int = 3,
    height: int = 32,
    width: int = 48,
    **settings: Any,
) -> float:
    """Relative L2 distance of the frames. folder: of the same model or of a run."""
    latents, pixels = noises(theirs, len(pictures), frames, height, width, seed)
    shared = {"num_frames": frames, "height": height, "width": width, "num_steps": 4}
    shared = {**shared, "fps": 5.0, **settings}
    one = MeshConfig().build_on(jax.devices()[:1])
    ours = Pipeline(folder, dtype="float32", mesh=one, batch_size=len(pictures), **shared)
    given = {"latents": latents, "image_noise": pixels}
    frames_of_ours = ours(pictures, given=given)
    shared["num_inference_steps"] = shared.pop("num_steps")
    shared["fps"] = int(shared["fps"])
    with torch.no_grad():
        frames_of_theirs = theirs(
            [Image.fromarray(p) for p in pictures],
            generator=torch.Generator().manual_seed(seed),
            latents=torch.from_numpy(latents.transpose(0, 1, 4, 2, 3)),
            decode_chunk_size=frames,
            output_type="pt",
            **shared,
        ).frames
    wanted = frames_of_theirs.permute(0, 1, 3, 4, 2).numpy()
    return float(np.linalg.norm(frames_of_ours - wanted) / np.linalg.norm(wanted))


def noises(theirs, count, frames, height, width, seed):
    """Unit noise of the latents and of the pictures, "n t h w c" and "n h w c"."""
    rng = np.random.default_rng(seed)
    factor = theirs.vae_scale_factor
    latents = rng.standard_normal((count, frames, height // factor, width // factor, 4))
    generator = torch.Generator().manual_seed(seed)  # what diffusers will draw for the pictures
    pixels = torch.randn((count, 3, height, width), generator=generator).numpy()
    return latents.astype(np.float32), pixels.transpose(0, 2, 3, 1)
