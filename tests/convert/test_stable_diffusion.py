"""Stable Diffusion 2 comes over whole: the same network, text encoder and autoencoder, and back."""

import json
from dataclasses import replace
from shutil import copytree, rmtree

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from conditioning.test_tokenizer import CAPTIONS
from conditioning.test_tokenizer import write as write_tokenizer
from diffusers import StableDiffusionPipeline
from flax import nnx
from reference.stable_diffusion import CONTEXT, LENGTH, older_text, older_vae, pipeline
from safetensors.numpy import load_file, save_file

from vdm_jax.adapters import inflate
from vdm_jax.convert import original, plan
from vdm_jax.convert.__main__ import main
from vdm_jax.convert.pipelines import STABLE_DIFFUSION
from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.core.arrays import named
from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.precond import Eps, V
from vdm_jax.models.cond import Cond, Tokens
from vdm_jax.models.svd_unet import SVD_TEXT
from vdm_jax.sample import load
from vdm_jax.tasks.stable_text import StableText
from vdm_jax.tasks.task import abstract
from vdm_jax.train import begin
from vdm_jax.train.config import PartFrom

pytestmark = pytest.mark.parity

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    settings = {"pad_token": "!", "model_max_length": LENGTH}
    return pipeline(write_tokenizer(tmp_path_factory.mktemp("words") / "tokenizer", settings))


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    """ "diffusers" and what became of it, "ours"."""
    path = tmp_path_factory.mktemp("models")
    theirs.save_pretrained(path / "diffusers")
    assert main(["--from", str(path / "diffusers"), "--output", str(path / "ours")]) == 0
    return path


@pytest.fixture(scope="module")
def ours(folder):
    """The model and its config, as sampling loads them."""
    directory = folder / "ours"
    config = load.describe(directory)
    graphdef, _ = abstract(config.model)
    mesh = meshes.MeshConfig().build()
    params = load.weights(directory, config, config.model, mesh, "float32")
    return config, nnx.merge(graphdef, jax.tree.map(jnp.asarray, jax.device_get(params)))


def relative(got, wanted):
    wanted = np.moveaxis(wanted.numpy(), 1, -1) if wanted.ndim == 4 else wanted.numpy()
    got = np.asarray(got).reshape(wanted.shape)
    return np.linalg.norm(got - wanted) / np.linalg.norm(wanted)


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def frames(pictures):
    """(b, c, h, w) of theirs to (b, h, w, c)."""
    return jnp.asarray(np.moveaxis(pictures.numpy(), 1, -1))


# ---- The same answers ----------------------------------------------------------------------------


def test_the_network_answers_the_same_to_the_same_numbers(theirs, ours):
    sample, context = drawn(2, 4, 8, 10), drawn(2, 5, CONTEXT)
    graph, state = nnx.split(ours[1].network)

    @jax.jit
    def network(state, z, level, context):
        tokens = Tokens(context, jnp.ones(context.shape[:2], bool))
        return nnx.merge(graph, state)(z, level, Cond(tokens={"text": tokens}))

    for steps in ([0.3, -1.2], [981.0, 20.0]):
        with torch.no_grad():
            wanted = theirs.unet(sample, torch.tensor(steps), context).sample
        level = jnp.asarray(steps)[:, None]
        with meshes.unplaced():
            got = network(state, frames(sample)[:, None], level, jnp.asarray(context.numpy()))
        assert relative(got, wanted) <= 2e-5, steps


def test_captions_become_the_same_tokens(theirs, ours):
    config, model = ours
    words = theirs.tokenizer(
        CAPTIONS, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    )
    ids = config.model.text.tokenize(CAPTIONS)
    np.testing.assert_array_equal(ids, words.input_ids)
    with torch.no_grad():
        wanted = theirs.text_encoder(words.input_ids).last_hidden_state
    with meshes.unplaced():
        assert relative(model.text(jnp.asarray(ids)).embedding, wanted) <= 1e-5


def test_pictures_become_the_same_latents_and_back(theirs, ours):
    vae = ours[1].vae
    picture, latents = drawn(1, 3, 16, 32), drawn(1, 4, 8, 16)
    with torch.no_grad(), meshes.unplaced():
        posterior = theirs.vae.encode(picture).latent_dist
        assert relative(vae.encode(frames(picture)).mean, posterior.mean) <= 5e-5
        wanted = theirs.vae.decode(latents).sample
        assert relative(vae.decode(frames(latents)[:, None]), wanted) <= 5e-5


# ---- The model directory -------------------------------------------------------------------------


def test_the_directory_describes_pictures(ours, folder):
    config, _ = ours
    assert isinstance(config.task, StableText) and config.task.process.precond == V()
    assert (config.task.video.num_frames, config.task.video.height) == (1, 16)
    assert config.task.video.width == 32
    config.task.check(config.model)
    note = json.loads((folder / "ours" / "source.json").read_text())
    assert [file["folder"] for file in note["files"]] == ["text_encoder", "unet", "vae"]


def test_the_recipes_begin_with_it(folder, ours):
    """Stage I and stage II with a network, text and autoencoder of its shape."""
    model, stored = ours[0].model, checkpoint.stored_weights(folder / "ours")
    parts = tuple(PartFrom(part, str(folder / "ours")) for part in ("network", "vae", "text"))
    videos = replace(
        SVD_TEXT,
        **{
            name: getattr(model.network, name)
            for name in ("widths", "attention_levels", "heads", "blocks", "context_width")
        },
        vec_features=2,
    )
    assert inflate.fits(model.network, videos)
    stage = configs.load("configs/svd_stage2_video.py:smoke")
    stage = replace(stage, model=replace(model, network=videos), parts_from=parts)
    built = begin.build(stage, meshes.MeshConfig().build())
    state, frozen = built.init()
    started = named(built.trainable.join(state.params, frozen))
    names = list(stored.kinds)
    assert set(names) < set(started)
    for name, array in stored.read(names).items():
        np.testing.assert_array_equal(started[name], array, err_msg=name)
    assert (started["network/down/0/resnets/0/time/conv2/kernel"] == 0).all()


@pytest.fixture(scope="module")
def back(folder):
    """What diffusers loads of the way back."""
    path = folder / "back"
    args = ["--from", str(folder / "ours"), "--to", "diffusers", "--output", str(path)]
    assert main(args) == 0
    return StableDiffusionPipeline.from_pretrained(path, local_files_only=True)


def test_the_way_back_is_the_original(back, theirs):
    for part in ("unet", "vae", "text_encoder"):
        mine, wanted = (getattr(p, part).state_dict() for p in (back, theirs))
        assert mine.keys() == wanted.keys()
        assert all(torch.equal(mine[name], wanted[name]) for name in wanted), part
    assert back.tokenizer(CAPTIONS).input_ids == theirs.tokenizer(CAPTIONS).input_ids
    assert back.scheduler.config.timestep_type == "continuous"
    for name in ("unet", "vae"):
        mine, wanted = (dict(getattr(p, name).config) for p in (back, theirs))
        silent = ("_", "sample_size")
        assert {k: v for k, v in mine.items() if not k.startswith(silent)} == {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in wanted.items()
            if not k.startswith(silent)
        }


def test_diffusers_makes_the_same_picture_of_the_way_back(back, ours):
    """At our noise levels, of a caption without guidance: its null there is the empty caption."""
    config, model = ours
    sampling = replace(config.task.sampling, num_steps=2, guidance_scale=1.0)
    task = replace(config.task, sampling=sampling)
    noise = drawn(1, 4, 8, 16)
    back.set_progress_bar_config(disable=True)
    wanted = back(
        "red cab", height=16, width=32, num_inference_steps=2, guidance_scale=1.0, latents=noise,
        output_type="np",
    ).images  # fmt: skip
    arrays = task.request(config.model, ["red cab"], None)
    arrays |= {"row": np.arange(1), "latents": frames(noise)[:, None]}
    with meshes.unplaced():
        arrays = jax.tree.map(jnp.asarray, arrays)
        got = task.generate(model, arrays, jax.random.key(0), around=lambda denoise: denoise)
    np.testing.assert_allclose(np.clip(got[0] / 2 + 0.5, 0, 1), wanted, rtol=0, atol=1e-4)


# ---- What lies in folders ------------------------------------------------------------------------


def changed(folder, tmp_path, file, **values):
    """A copy of the diffusers folder with values of one JSON file changed."""
    copytree(folder / "diffusers", tmp_path / "changed")
    path = tmp_path / "changed" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return tmp_path / "changed"


def with_weights(folder, tmp_path, file, change):
    """A copy of it with the tensors of one file changed."""
    copytree(folder / "diffusers", tmp_path / "changed")
    weights = load_file(tmp_path / "changed" / file)
    save_file(change(weights), tmp_path / "changed" / file)
    return tmp_path / "changed"


def refusal(*args):
    with pytest.raises(Refusal) as raised:
        main([str(arg) for arg in args])
    assert "\n" not in str(raised.value)
    return str(raised.value)


def same(model, wanted):
    ours, theirs = (checkpoint.stored_weights(path) for path in (model, wanted))
    assert ours.kinds == theirs.kinds
    ours, theirs = (weights.read(list(weights.kinds)) for weights in (ours, theirs))
    return all(ours[name].tobytes() == array.tobytes() for name, array in theirs.items())


def test_every_tensor_that_does_not_fit_is_named(folder, tmp_path):
    gone, renamed = "conv_in.bias", "mid_block.resnets.0.conv1.weight"

    def change(weights):
        del weights[gone]
        weights["mid_block.resnets.0.conv9.weight"] = weights.pop(renamed)
        return weights | {"add_embedding.linear_1.bias": np.ones(3, np.float32)}

    said = refusal("--from", with_weights(folder, tmp_path, UNET, change), "--check")
    assert "(4 tensors)" in said
    for name in (gone, renamed):
        assert f"unet/{name} is missing" in said
    for name in ("mid_block.resnets.0.conv9.weight", "add_embedding.linear_1.bias"):
        assert f"unet/{name} is not a weight of this model" in said


OLDER = {
    VAE: (older_vae, "encoder.mid_block.attentions.0.{}.weight", "query", "to_q"),
    TEXT: (older_text, "{}final_layer_norm.bias", "", "text_model."),
}


@pytest.mark.parametrize("file", OLDER)
def test_older_names_are_known_and_none_counts_twice(folder, tmp_path, file):
    """Whatever spelling comes second is a stranger, and not what diffusers' table calls it."""
    change, name, stranger, known = OLDER[file]
    source = with_weights(folder, tmp_path, file, change)
    assert main(["--from", str(source), "--output", str(tmp_path / "model")]) == 0
    assert same(tmp_path / "model", folder / "ours")
    weights = load_file(source / file)
    stranger, known = name.format(stranger), name.format(known)
    both = weights.get(stranger, weights.get(known))
    save_file(weights | {stranger: both, known: both}, source / file)
    said = refusal("--from", source, "--check")
    assert said.endswith(f": {file.split('/')[0]}/{stranger} is not a weight of this model")


def test_variants_in_shards_and_smaller_types(folder, theirs, tmp_path, capsys):
    theirs.save_pretrained(tmp_path / "shards", variant="fp16", max_shard_size="200KB")
    assert len(list((tmp_path / "shards" / "unet").glob("*fp16*.safetensors"))) > 1
    args = ["--from", str(tmp_path / "shards"), "--variant", "fp16"]
    assert main([*args, "--check"]) == 0
    printed = capsys.readouterr().out
    assert "diffusers folder, pictures of 16x32, predicting V()" in printed
    assert "text_encoder" in printed and "all numbers are finite" in printed
    assert main([*args, "--output", str(tmp_path / "model")]) == 0
    assert same(tmp_path / "model", folder / "ours")
    assert main([*args, "--output", str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    kinds = checkpoint.stored_weights(tmp_path / "half").kinds
    assert all(kind.startswith("bfloat16[") for kind in kinds.values())


def test_a_network_that_predicts_the_noise_is_described_so(folder, tmp_path):
    file = "scheduler/scheduler_config.json"
    source = changed(folder, tmp_path, file, prediction_type="epsilon")
    (source / "model_index.json").unlink()  # the U-Net's class tells whose folder it is
    with original.opened(source) as opened:
        assert plan.plan(opened).pretrained.task.process.precond == Eps()
        assert opened.pipeline is STABLE_DIFFUSION


CONFIGS = {
    "Stable Diffusion 1": (
        "unet/config.json",
        {"use_linear_projection": False},
        "transformers with convolutions (Stable Diffusion 1) are not known here",
    ),
    "Stable Diffusion XL": (
        "model_index.json",
        {"_class_name": "StableDiffusionXLPipeline"},
        "is of a StableDiffusionXLPipeline; a StableVideoDiffusionPipeline or a "
        "StableDiffusionPipeline is needed",
    ),
    "its U-Net": ("unet/config.json", {"addition_embed_type": "text_time"}, "Stable Diffusion XL"),
    "another U-Net": ("unet/config.json", {"_class_name": "UNet2DModel"}, "UNet2DConditionModel"),
    "heads": ("unet/config.json", {"num_attention_heads": 4}, "num_attention_heads is 4; it is"),
    "classes": ("unet/config.json", {"num_class_embeds": 9}, "num_class_embeds is 9; it is"),
    "norm": ("unet/config.json", {"norm_eps": 1e-6}, "norm_eps is 1e-06; 1e-05 is needed"),
    "block": (
        "unet/config.json",
        {"down_block_types": ["AttnDownBlock2D"]},
        "down_block_types is ['AttnDownBlock2D']",
    ),
    "mirror": (
        "unet/config.json",
        {"up_block_types": ["UpBlock2D"] * 2},
        "the mirror of down_block_types",
    ),
    "text": ("text_encoder/config.json", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
    "width": (
        "text_encoder/config.json",
        {"hidden_size": 48},
        f"cross_attention_dim is {CONTEXT}; text_encoder: hidden_size is 48",
    ),
    "class": (
        "text_encoder/config.json",
        {"architectures": ["T5EncoderModel"]},
        "architectures is ['T5EncoderModel']; CLIPTextModel is needed",
    ),
    "prediction": (
        "scheduler/scheduler_config.json",
        {"prediction_type": "sample"},
        "prediction_type is 'sample'; 'epsilon' or 'v_prediction' is needed",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_config_cannot_say_is_named(folder, tmp_path, name):
    file, values, said = CONFIGS[name]
    assert said in refusal("--from", changed(folder, tmp_path, file, **values), "--check")


def test_frames_and_single_files_are_for_videos(folder, tmp_path):
    source = folder / "diffusers"
    said = refusal("--from", source, "--num-frames", 4, "--check")
    assert said == "--num-frames is for videos; Stable Diffusion 2 makes pictures"
    copytree(source, tmp_path / "sd")
    (tmp_path / "sd" / "v2-1.safetensors").write_bytes((source / UNET).read_bytes())
    said = refusal("--from", tmp_path / "sd" / "v2-1.safetensors", "--check")
    assert "a single file is read of Stable Video Diffusion only" in said


def test_words_are_plain_files(folder, tmp_path):
    source = changed(folder, tmp_path, "unet/config.json")
    words = source / "tokenizer"
    (words / "tokenizer_config.json").write_text('{"a": 1, "a": 2}')
    assert "its tokenizer is not what it should be" in refusal("--from", source, "--check")
    (words / "tokenizer_config.json").write_bytes(b"\xff\xfe")
    assert "tokenizer_config.json" in refusal("--from", source, "--check")
    (words / "tokenizer_config.json").unlink()
    (words / "tokenizer_config.json").symlink_to(folder / "diffusers" / "model_index.json")
    assert "is a symbolic link" in refusal("--from", source, "--check")
    rmtree(words)
    assert "holds no tokenizer: it must have" in refusal("--from", source, "--check")
    words.mkdir()
    (words / "vocab.json").write_text("{}")
    (words / "merges.txt").write_bytes(b"\xff")
    assert "merges.txt: is not text in UTF-8" in refusal("--from", source, "--check")
