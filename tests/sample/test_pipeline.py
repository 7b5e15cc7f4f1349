"""The whole way from pictures to frames, beside diffusers' pipeline with the same weights."""

import jax
import numpy as np
import pytest
import torch
from PIL import Image
from reference.stable_video import Sizes, picture, pipeline

from vdm_jax.convert.__main__ import main as convert
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.sample.pipeline import Pipeline

pytestmark = pytest.mark.parity

CASES = {
    "two levels": Sizes(),
    "three levels": Sizes((64, 64, 128), (1, 2, 4), 2, 1, 32, (32, 64, 64), 2, 1),
    "deep transformers": Sizes((96, 64), (3, 2), 1, 2, 64, (64, 32), 2, 3),
}


@pytest.fixture(scope="module", params=CASES)
def models(request, tmp_path_factory):
    """(diffusers' pipeline, the folder of the same model, converted)."""
    folder = tmp_path_factory.mktemp("models")
    theirs = pipeline(CASES[request.param], seed=len(request.param))
    theirs.save_pretrained(folder / "diffusers")
    code = convert(["--from", str(folder / "diffusers"), "--output", str(folder / "ours")])
    assert code == 0
    return theirs, folder / "ours"


def distance(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def noises(theirs, count, frames, height, width, seed):
    """Unit noise of the latents and of the pictures, "n t h w c" and "n h w c"."""
    rng = np.random.default_rng(seed)
    factor = theirs.vae_scale_factor
    latents = rng.standard_normal((count, frames, height // factor, width // factor, 4))
    generator = torch.Generator().manual_seed(seed)  # what diffusers will draw for the pictures
    pixels = torch.randn((count, 3, height, width), generator=generator).numpy()
    return latents.astype(np.float32), pixels.transpose(0, 2, 3, 1)


def compared(models, pictures, *, seed=3, frames=3, height=32, width=48, chunk=2, **settings):
    """Relative distance of the frames, by both ways, from the same noise."""
    theirs, folder = models
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
    return distance(frames_of_ours, frames_of_theirs.permute(0, 1, 3, 4, 2).numpy())


def test_a_picture_of_another_size_and_guidance(models):
    assert compared(models, [picture(41, 50, 0)]) <= 1e-4


def test_without_guidance(models):
    one = {"min_guidance_scale": 1.0, "max_guidance_scale": 1.0}
    assert compared(models, [picture(32, 48, 1)], **one) <= 1e-4


def test_two_pictures_and_much_noise_on_them(models):
    settings = {"noise_aug_strength": 0.7, "motion_bucket_id": 30, "max_guidance_scale": 2.5}
    assert compared(models, [picture(60, 90, 2), picture(60, 90, 3)], **settings) <= 1e-4
