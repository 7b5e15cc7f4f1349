"""A published model, tuned on clips, sampled from, and taken back: what users come for.

`pytest -m slow tests/train/test_finetune.py` does all of it: point to diffusers' weights, convert
them, train, sample, export; diffusers' pipeline must then draw the same frames. The clips are made
here; VDM_CLIPS names a folder of real ones. The other tests do without training.
"""

import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
from diffusers import StableVideoDiffusionPipeline
from reference.side_by_side import distance
from reference.stable_video import Sizes, picture, pipeline
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from vdm_jax.adapters.lora import LoRA
from vdm_jax.adapters.trainable import NETWORK
from vdm_jax.convert.__main__ import main as convert
from vdm_jax.core import checkpoint, video
from vdm_jax.core.arrays import named
from vdm_jax.core.checkpoint import Checkpoints
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.transform import Windows
from vdm_jax.nn.pieces import Chunked
from vdm_jax.sample import joined, load
from vdm_jax.tasks.stable_video import FramewiseSampling
from vdm_jax.tasks.task import VideoShape
from vdm_jax.train import begin, rundir
from vdm_jax.train.loop import train
from vdm_jax.train.optim import AdamW

pytestmark = pytest.mark.parity
RATE = 1e-2  # so that three steps change the frames by far more than the two ways differ
EXACT = 1e-4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """ "diffusers", the same model converted as "base", and "clips"."""
    folder = tmp_path_factory.mktemp("finetune")
    pipeline(Sizes(layers=1, vae_blocks=1), seed=8).save_pretrained(folder / "diffusers")
    assert convert(["--from", str(folder / "diffusers"), "--output", str(folder / "base")]) == 0
    if "VDM_CLIPS" not in os.environ:
        (folder / "clips").mkdir()
        for number in range(3):
            wide = picture(40, 90, number)
            frames = np.stack([wide[:, 3 * t : 3 * t + 60] for t in range(8)])
            video.write(folder / "clips" / f"{number}.mp4", frames, 7)
    return folder


def config(place, trainable):
    """configs/finetune_svd.py:lora for a small model and few steps."""
    path = Path(__file__).parents[2] / "configs" / "finetune_svd.py"
    spec = importlib.util.spec_from_file_location("finetune_svd", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.lora()
    clips = os.environ.get("VDM_CLIPS", str(place / "clips"))
    data = replace(
        made.data, directory=clips, windows=Windows(num_frames=3, step=2), height=32, width=48
    )
    return replace(
        made,
        model=load.describe(place / "base").model,
        task=replace(
            made.task,
            video=VideoShape(num_frames=3, height=32, width=48, fps=7.0),
            sampling=FramewiseSampling(num_steps=2),
            decoding=Chunked(3),  # a decoder that mixes frames, as diffusers is told to
        ),
        data=replace(data, split="train"),
        held_out=replace(data, split="test"),
        init_from=str(place / "base"),
        frozen_dtype="float32",
        trainable=trainable,
        optim=AdamW(learning_rate=RATE, warmup_steps=0),
        steps=3,
        batch_size=8,
        ema_decay=0.5,
        num_previews=1,
        held_out_samples=8,
    )


@pytest.fixture(scope="module")
def tuned(place):
    """A run whose LoRA has learnt something; beside it its model directory, and the LoRA alone."""
    run = place / "run"
    made = config(place, LoRA(rank=4, alpha=2.0))
    built = begin.build(made, made.mesh.build())
    with Checkpoints(run / "checkpoints") as checkpoints:
        rundir.prepare(run, made)
        state, _ = rundir.weights(run, made, built, None)
        rng = np.random.default_rng(0)
        learnt = jax.tree.map(
            lambda a: a + 0.1 * jnp.asarray(rng.normal(size=a.shape), a.dtype), state.ema
        )
        checkpoints.save(1, state._replace(ema=learnt), {"data": {}})
    assert convert(["--from", str(run), "--output", str(place / "model")]) == 0
    file = str(place / "lora.safetensors")
    assert convert(["--from", str(run), "--to", "lora", "--output", file]) == 0
    return run


def of_diffusers(source, output, *options):
    args = ["--from", str(source), "--to", "diffusers", "--output", str(output), *options]
    assert convert(args) == 0
    made = StableVideoDiffusionPipeline.from_pretrained(output)
    made.set_progress_bar_config(disable=True)
    return made


def arrays(directory):
    weights = joined.opened(directory, load.describe(directory))
    return weights.read(list(weights.kinds))


@pytest.mark.slow
@pytest.mark.parametrize("trainable", [LoRA(rank=4, alpha=2.0), NETWORK], ids=["lora", "full"])
def test_tuned_and_exported_it_draws_the_same_frames_in_diffusers(place, tmp_path, trainable):
    run = tmp_path / "run"
    assert train(config(place, trainable), run)
    theirs = of_diffusers(run, tmp_path / "out")
    assert distance(theirs, run, [picture(32, 48, 5)]) <= EXACT
    assert distance(theirs, place / "base", [picture(32, 48, 5)]) > 100 * EXACT


def test_a_run_samples_with_the_weights_that_it_publishes(place, tuned):
    """What `sample` loads, what a model directory holds, and the formula of LoRA."""
    described = load.describe(tuned)
    mesh = MeshConfig().build()
    loaded = named(load.weights(tuned, described, described.model, mesh, "float32"))
    model, base = arrays(place / "model"), arrays(place / "base")
    factors = checkpoint.stored_weights(tuned)
    factors = factors.read(list(factors.kinds))
    assert loaded.keys() == model.keys() == base.keys()
    for name, array in base.items():
        if f"{name}/a" in factors:
            delta = 0.5 * factors[f"{name}/a"] @ factors[f"{name}/b"]
            assert np.abs(delta).max() > 1e-3
            array = array + delta.reshape(array.shape)
        np.testing.assert_allclose(model[name], array, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(loaded[name], model[name], rtol=1e-6, atol=1e-6)


def test_the_lora_file_is_what_peft_loads(place, tuned, tmp_path):
    with safe_open(place / "lora.safetensors", "np") as file:
        names, metadata = sorted(file.keys()), file.metadata()
    assert metadata["format"] == "pt" and '"unet.r": 4' in metadata["lora_adapter_metadata"]
    layers = {name.partition(".lora_")[0].removeprefix("unet.") for name in names}
    assert "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0" in layers
    unet = StableVideoDiffusionPipeline.from_pretrained(place / "diffusers").unet
    settings = peft.LoraConfig(r=4, lora_alpha=4, target_modules=sorted(layers))
    peft.inject_adapter_in_model(settings, unet)
    file = {n.removeprefix("unet."): t for n, t in load_torch(place / "lora.safetensors").items()}
    found = peft.set_peft_model_state_dict(unet, file)
    assert not found.unexpected_keys
    for module in unet.modules():
        if isinstance(module, peft.tuners.lora.layer.LoraLayer):
            module.merge()
    merged = {n.replace(".base_layer", ""): t.numpy() for n, t in unet.state_dict().items()}
    exported = of_diffusers(tuned, tmp_path / "out").unet
    wanted = {name: tensor.numpy() for name, tensor in exported.state_dict().items()}
    for name, array in wanted.items():
        np.testing.assert_allclose(merged[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def load_torch(path):
    from safetensors.torch import load_file as load

    return load(path)


def test_a_lora_is_added_and_taken_out(place, tuned, tmp_path):
    file, base = str(place / "lora.safetensors"), str(place / "base")
    args = ["--lora", file, "--output"]
    assert convert(["--from", base, *args, str(tmp_path / "with")]) == 0
    back = ["--from", str(tmp_path / "with"), "--lora-scale", "-1", *args, str(tmp_path / "out")]
    assert convert(back) == 0
    before, tuned, added, out = (
        arrays(path) for path in (place / "base", tuned, tmp_path / "with", tmp_path / "out")
    )
    assert before.keys() == tuned.keys() == added.keys()
    changed = [name for name in before if not np.array_equal(before[name], added[name])]
    assert changed and all(".attn" in name.replace("/", ".") for name in changed)
    for name in before:
        np.testing.assert_allclose(added[name], tuned[name], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(out[name], before[name], rtol=1e-5, atol=1e-6)


def test_the_older_names_and_alpha_are_read(place, tuned, tmp_path):
    file = load_file(place / "lora.safetensors")
    older = {}
    for name, array in file.items():
        layer, _, side = name.removeprefix("unet.").removesuffix(".weight").partition(".lora_")
        older[f"{layer}.lora.{'down' if side == 'A' else 'up'}.weight"] = array
        older[f"{layer}.alpha"] = np.asarray(2.0, np.float32)  # of rank 4: half
    save_file(older, tmp_path / "older.safetensors")
    args = ["--from", str(place / "base"), "--lora", str(tmp_path / "older.safetensors")]
    assert convert([*args, "--lora-scale", "2", "--output", str(tmp_path / "m")]) == 0
    ours, wanted = arrays(tmp_path / "m"), arrays(tuned)
    for name in wanted:
        np.testing.assert_allclose(ours[name], wanted[name], rtol=1e-5, atol=1e-6)


BAD = {
    "stranger": ({"unet.x.to_q.lora_A.weight": np.ones((2, 3), "f")}, "belongs to no layer"),
    "one side": ("lora_A", "has one side of two"),
    "shape": ("short", "has factors"),
    "nan": ("nan", "NaN or infinite"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_lora_that_does_not_fit_is_one_line_and_leaves_nothing(place, tuned, tmp_path, name):
    what, said = BAD[name]
    file = load_file(place / "lora.safetensors")
    first = sorted(file)[0]
    if what == "lora_A":
        what = {n: a for n, a in file.items() if "lora_A" in n}
    elif what == "short":
        what = {**file, first: np.ascontiguousarray(file[first][:, 1:])}
    elif what == "nan":
        what = {**file, first: np.full_like(file[first], np.nan)}
    save_file(what, tmp_path / "bad.safetensors")
    args = ["--from", str(place / "base"), "--lora", str(tmp_path / "bad.safetensors")]
    with pytest.raises(Refusal, match=said) as raised:
        convert([*args, "--output", str(tmp_path / "m")])
    assert "\n" not in str(raised.value) and not (tmp_path / "m").exists()


def test_what_has_no_lora_writes_none(place, tmp_path):
    args = [
        "--from",
        str(place / "base"),
        "--to",
        "lora",
        "--output",
        str(tmp_path / "x.safetensors"),
    ]
    with pytest.raises(Refusal, match="has no LoRA"):
        convert(args)


def test_a_model_directory_keeps_nothing_of_training(place, tuned):
    assert not (place / "model" / "checkpoints").exists()
    stored = checkpoint.stored_weights(place / "model")
    assert stored.kinds.keys() == checkpoint.stored_weights(place / "base").kinds.keys()
