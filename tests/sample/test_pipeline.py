"""The whole way from pictures to frames, beside diffusers' pipeline with the same weights."""

import jax
import numpy as np
import pytest
import torch
from PIL import Image
from reference.stable_video import Sizes, picture, pipeline

from vdm_jax.convert.__main__ import main as convert
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.video import read
from vdm_jax.sample.__main__ import main as sample
from vdm_jax.sample.pipeline import Pipeline

pytestmark = pytest.mark.parity

CASES = {
    "two levels": Sizes(),
    "three levels": Sizes((64, 64, 128), (1, 2, 4), 2, 1, 32, (32, 64, 64), 2, 1),
    "deep transformers": Sizes((96, 64), (3, 2), 1, 2, 64, (64, 32), 2, 3),
}


EACH = pytest.mark.parametrize("models", CASES, indirect=True, scope="module")
FIRST = pytest.mark.parametrize("models", ["two levels"], indirect=True, scope="module")


@pytest.fixture(scope="module")
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


def compared(models, pictures, *, seed=3, frames=3, height=32, width=48, **settings):
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


@FIRST
def test_a_smaller_picture_of_another_shape_without_guidance(models):
    one = {"min_guidance_scale": 1.0, "max_guidance_scale": 1.0}
    assert compared(models, [picture(31, 50, 1)], **one) <= 1e-4


@EACH
def test_two_pictures_larger_than_the_video_and_much_noise_on_them(models):
    settings = {"noise_aug_strength": 0.7, "motion_bucket_id": 30, "max_guidance_scale": 2.5}
    assert compared(models, [picture(60, 90, 2), picture(60, 90, 3)], **settings) <= 1e-4


@FIRST
def test_the_command_says_what_it_takes_and_writes_a_video_of_each_picture(
    models, tmp_path, monkeypatch, capsys
):
    _, folder = models
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        Image.fromarray(picture(41, 50, len(name))).save(name)
    args = ["--model", str(folder), "--image", "a.png", "b.png", "--output", "out.mp4"]
    args += ["--num-frames", "3", "--height", "32", "--width", "48", "--num-steps", "2"]
    assert sample([*args, "--fps", "5", "--motion-bucket-id", "60"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [
        f"{n}: 50x41 cropped to 50x33, the shape of the video" for n in ("a.png", "b.png")
    ]
    assert said[2].startswith("3 frames of 48x32 in 2 steps, in float32: about 0.")
    for number in (0, 1):
        assert read(f"out_{number}.mp4").frames.shape == (3, 32, 48, 3)


@FIRST
@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (["--height", "16384", "--width", "16384"], r"GB of memory, there are .* fit$"),
        (["--guidance-scale", "3"], "no setting guidance_scale"),
        (["--prompt", "a cat"], "without captions"),
        (["--motion-bucket-id", "-5"], "motion_bucket_id is -5"),
        (["--decode-chunk-size", "0"], "at least 1"),
        (["--num-frames", "0"], "at least 1"),
        (["--mesh.context", "3"], "8 devices"),
    ],
)  # fmt: skip
def test_requests_that_cannot_be_met_are_refused_before_anything_compiles(
    models, tmp_path, monkeypatch, args, wanted
):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(41, 50, 0)).save("a.png")
    with pytest.raises(Refusal, match=wanted):
        sample(["--model", str(models[1]), "--image", "a.png", "--output", "out.mp4", *args])
    assert not (tmp_path / "out.mp4").exists()


@FIRST
def test_a_missing_picture_and_a_folder_of_diffusers_are_refused_first(models, tmp_path):
    folder = models[1]
    with pytest.raises(Refusal, match="--image is missing"):
        sample(["--model", str(folder), "--output", str(tmp_path / "out.mp4")])
    with pytest.raises(Refusal, match="convert it first"):
        sample(["--model", str(folder.parent / "diffusers"), "--image", "a.png"])
