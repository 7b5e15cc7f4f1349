"""The verb at the shell: what it prints, and one line for each mistake."""

import hashlib
import json
import subprocess
import sys
from shutil import copytree

import numpy as np
import pytest
from convert.original_names import original
from reference.stable_video import Sizes, pipeline
from safetensors.numpy import load_file, save_file

from vdm_jax.convert import __main__ as verb
from vdm_jax.convert.__main__ import check_room, main
from vdm_jax.core.refusal import Refusal

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    made = pipeline(Sizes(vae_blocks=1), seed=5)
    made.save_pretrained(path / "diffusers")
    save_file(original(made), path / "svd.safetensors")
    return path


def changed(models, tmp_path, file, **values):
    """A copy of the diffusers folder with values of one JSON file changed."""
    copytree(models / "diffusers", tmp_path / "changed")
    path = tmp_path / "changed" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return str(tmp_path / "changed")


def refusal(*args):
    with pytest.raises(Refusal) as raised:
        main(list(args))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_check_reports_and_writes_nothing(models, capsys):
    before = sorted(models.rglob("*"))
    digest = hashlib.sha256((models / "svd.safetensors").read_bytes()).hexdigest()
    args = ["--from", str(models / "svd.safetensors"), "--configs", str(models / "diffusers")]
    assert main([*args, "--check", "--sha256", digest.upper()]) == 0
    printed = capsys.readouterr().out
    assert "single file, 14 frames a video" in printed and "all numbers are finite" in printed
    assert "unet             424 tensors      5,150,224 parameters  float32" in printed
    assert sorted(models.rglob("*")) == before


def test_another_file_is_refused_by_its_sum(models):
    args = ["--from", str(models / "svd.safetensors"), "--configs", str(models / "diffusers")]
    assert "its SHA-256 is" in refusal(*args, "--check", "--sha256", "0" * 64)
    assert "64 hexadecimal digits" in refusal(*args, "--check", "--sha256", "beef")
    folder = str(models / "diffusers")
    assert "--from is a folder" in refusal("--from", folder, "--check", "--sha256", "0" * 64)


MISTAKES = {
    "nothing": ([], "--from is missing"),
    "no output": (["--from", "{m}/diffusers"], "--output is missing"),
    "check with output": (["--from", "{m}/diffusers", "--check", "--output", "x"], "leave out"),
    "no such file": (["--from", "{m}/none", "--check"], "no such file or folder"),
    "full output": (["--from", "{m}/diffusers", "--output", "{m}"], "is not empty"),
    "file as output": (
        ["--from", "{m}/diffusers", "--output", "{m}/svd.safetensors"],
        "is not empty",
    ),
    "no variant": (["--from", "{m}/diffusers", "--variant", "fp16", "--check"], "fp16"),
    "bad variant": (["--from", "{m}/diffusers", "--variant", "../x", "--check"], "no part of a"),
    "variant of a file": (["--from", "{m}/svd.safetensors", "--variant", "a", "--check"], "folder"),
    "configs of a folder": (
        ["--from", "{m}/diffusers", "--configs", "{m}/diffusers", "--check"],
        "--configs is for a single file",
    ),
    "no configs": (
        ["--from", "{m}/svd.safetensors", "--configs", "{m}", "--check"],
        "is not a diffusers folder",
    ),
    "no folder of a model": (["--from", "{m}", "--check"], "is not a diffusers folder"),
    "dtype": (["--from", "{m}/diffusers", "--dtype", "int8", "--check"], "--dtype: got 'int8'"),
    "frames": (["--from", "{m}/diffusers", "--num-frames", "0", "--check"], "at least 1, got 0"),
    "nothing to export": (
        ["--from", "{m}/diffusers", "--to", "diffusers", "--output", "x"],
        "convert it first",
    ),
    "option not for export": (
        ["--from", "{m}/diffusers", "--to", "diffusers", "--output", "x", "--num-frames", "3"],
        "--num-frames is not for --to diffusers",
    ),
    "misspelt": (["--form", "x"], "no option --form"),
    "output under a file": (
        ["--from", "{m}/diffusers", "--output", "{m}/svd.safetensors/x"],
        "is no directory",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(models, name):
    args, said = MISTAKES[name]
    assert said in refusal(*(arg.format(m=models) for arg in args))


CONFIGS = {
    "activation": ("image_encoder/config.json", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
    "norm": ("image_encoder/config.json", {"layer_norm_eps": 1e-6}, "layer_norm_eps is 1e-06"),
    "class": ("unet/config.json", {"_class_name": "UNet2D"}, "unet: _class_name is 'UNet2D'"),
    "block": ("unet/config.json", {"down_block_types": ["DownBlock2D"]}, "down_block_types is"),
    "mirror": (
        "unet/config.json",
        {"up_block_types": ["UpBlockSpatioTemporal"] * 2},
        "the mirror of down_block_types",
    ),
    "time embedding": (
        "unet/config.json",
        {"time_embedding_type": "fourier"},
        "time_embedding_type is 'fourier'; it is not known here",
    ),
    "number": ("unet/config.json", {"in_channels": -8}, "in_channels is -8; a whole number"),
    "levels": ("unet/config.json", {"num_attention_heads": [1, 2, 3]}, "num_attention_heads"),
    "heads": ("unet/config.json", {"num_attention_heads": 7}, "7 heads"),
    "wide": ("unet/config.json", {"cross_attention_dim": 49}, "to_k.weight has the shape"),
    "vae": ("vae/config.json", {"down_block_types": ["X", "X"]}, "vae: down_block_types is"),
    "colours": ("vae/config.json", {"in_channels": 1}, "in_channels is 1; 3 is needed"),
    "prediction": (
        "scheduler/scheduler_config.json",
        {"prediction_type": "epsilon"},
        "prediction_type is 'epsilon'; 'v_prediction' is needed",
    ),
    "sigmas": ("scheduler/scheduler_config.json", {"sigma_max": 0.001}, "sigma_min"),
    "pipeline": ("model_index.json", {"_class_name": "FluxPipeline"}, "is of a FluxPipeline"),
    "mean": (
        "feature_extractor/preprocessor_config.json",
        {"image_mean": [0.5, 0.5, 0.5]},
        "image_mean is [0.5, 0.5, 0.5]",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_config_cannot_say_is_named(models, tmp_path, name):
    file, values, said = CONFIGS[name]
    assert said in refusal("--from", changed(models, tmp_path, file, **values), "--check")


def test_a_config_that_is_no_config_is_named(models, tmp_path):
    folder = changed(models, tmp_path, "unet/config.json")
    file = tmp_path / "changed" / "unet" / "config.json"
    for text in ("", "[]", "{", '{"a": NaN}', "[" * 100_000, '{"down_block_types": {}}'):
        file.write_text(text)
        assert "unet" in refusal("--from", folder, "--check")
    file.unlink()
    assert "unet/config.json" in refusal("--from", folder, "--check")


def test_position_numbers_are_passed_over_and_strangers_are_not(models, tmp_path, capsys):
    folder = changed(models, tmp_path, "unet/config.json")
    file = tmp_path / "changed" / "image_encoder" / "model.safetensors"
    weights = load_file(file)
    weights["vision_model.embeddings.position_ids"] = np.arange(50)[None]
    save_file(weights, file)
    assert main(["--from", folder, "--check"]) == 0
    assert "not used           1 tensors" in capsys.readouterr().out
    weights["vision_model.embeddings.other"] = np.ones(3, np.float32)
    del weights["vision_model.post_layernorm.bias"]
    save_file(weights, file)
    said = refusal("--from", folder, "--check")
    assert "(2 tensors)" in said
    assert "image_encoder/vision_model.embeddings.other is not a weight of this model" in said
    assert "image_encoder/vision_model.post_layernorm.bias is missing" in said


def test_nothing_is_left_of_a_conversion_that_fails(models, tmp_path):
    folder = changed(models, tmp_path, "unet/config.json")
    file = tmp_path / "changed" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.bias"][0] = np.nan
    save_file(weights, file)
    said = refusal("--from", folder, "--output", str(tmp_path / "out"))
    assert said == "unet/conv_out.bias has 1 values that are NaN or infinite"
    assert [path.name for path in tmp_path.iterdir()] == ["changed"]


def test_a_disk_without_room_is_refused_before_reading(tmp_path):
    with pytest.raises(Refusal, match=r"needs 1000000\.00 GB, .* are free"):
        check_room(tmp_path / "not" / "there", 10**15)


def test_at_the_shell(models):
    command = [sys.executable, "-m", "vdm_jax.cli", "convert", "--from", str(models), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert (
        verb.PROG
        in subprocess.run(
            [*command[:4], "--help"], capture_output=True, text=True, timeout=300
        ).stdout
    )
