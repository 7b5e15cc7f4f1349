"""The whole way from pictures to frames, beside diffusers' pipeline with the same weights."""

import pytest
from PIL import Image
from reference.side_by_side import distance
from reference.stable_video import Sizes, picture, pipeline

from vdm_jax.convert.__main__ import main as convert
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.video import read
from vdm_jax.sample.__main__ import main as sample

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


def compared(models, pictures, **settings):
    theirs, folder = models
    return distance(theirs, folder, pictures, **settings)


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
    with pytest.raises(Refusal, match="videos from pictures: give it one"):
        sample(["--model", str(folder), "--output", str(tmp_path / "out.mp4")])
    with pytest.raises(Refusal, match="convert it first"):
        sample(["--model", str(folder.parent / "diffusers"), "--image", "a.png"])
