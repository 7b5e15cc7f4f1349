"""Pictures learn to move while they stay as they are: the stages of `configs/align_your_latents`.

That the network begins as that of pictures, and that each layer over time has a gradient, is
proven in tests/adapters/test_inflate.py.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.adapters.trainable import TIME_LAYERS, dotted
from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.data.loader import stack
from vdm_jax.models.cond import Cond, Tokens
from vdm_jax.sample import load
from vdm_jax.tasks.task import ModelConfig, Parts, abstract
from vdm_jax.train import begin
from vdm_jax.train.config import PartFrom
from vdm_jax.train.loop import train
from vdm_jax.train.step import update

FILE = "configs/align_your_latents.py"
PICTURE, VIDEO = (configs.load(f"{FILE}:smoke_{stage}") for stage in ("picture", "video"))
NOISY = {"picture": 0.1, "other": 0.2}


def leaves(state):
    return {dotted(path): np.asarray(leaf.get_value()) for path, leaf in nnx.to_flat_state(state)}


def drawn(model, noise):
    """Weights as after training: none is zero."""
    with meshes.unplaced():
        params = nnx.state(model.build(rngs=nnx.Rngs(0)), nnx.Param)
    rng = np.random.default_rng(int(100 * noise))
    return jax.tree.map(
        lambda a: a + jnp.asarray(noise * rng.standard_normal(a.shape), a.dtype), params
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Folders of two models of pictures, and their weights."""
    root, made = tmp_path_factory.mktemp("pictures"), {}
    for name, noise in NOISY.items():
        params = drawn(PICTURE.model, noise)
        checkpoint.save_weights(root / name, configs.to_json(Parts(PICTURE.model)), params)
        made[name] = params
    return root, made


@pytest.fixture(scope="module")
def taught(stored):
    """Weights of a model of videos before and after its layers over time were trained."""
    root, _ = stored
    parts = tuple(PartFrom(name, str(root / "picture")) for name in ("network", "text"))
    config = replace(VIDEO, parts_from=parts, trainable=TIME_LAYERS)
    mesh = meshes.MeshConfig(data=2).build_on(jax.devices()[:2])
    built, optimizer = begin.build(config, mesh), replace(config.optim, warmup_steps=0).build(9)
    state, frozen = built.init()
    before = leaves(state.params) | leaves(frozen)
    step = jax.jit(update(built.model, config.task.loss, optimizer, ema_decay=0.9, accumulate=1))
    source = config.data.build()
    arrays = config.task.prepare(config.model, stack([source[i] for i in range(4)]))
    with jax.set_mesh(mesh):
        batch = meshes.put_whole_batch(arrays, mesh)
        for _ in range(3):
            state, _ = step(state, frozen, batch, jax.random.key(0))
    return before, jax.tree.map(np.asarray, TIME_LAYERS.join(state.params, frozen))


def test_layers_over_time_learn_and_those_of_pictures_stay_to_the_bit(stored, taught):
    _, pictures = stored
    before, after = taught[0], leaves(taught[1])
    kept = {name: a for name, a in leaves(pictures["picture"]).items() if "vae" not in name}
    assert kept.keys() < after.keys()
    for name, array in kept.items():
        np.testing.assert_array_equal(after[name], array, err_msg=name)
    new = [name for name in after if name not in kept and "vae" not in name]
    assert len(new) > 50
    for name in new:
        assert (after[name] != before[name]).any(), name


def test_another_model_of_pictures_can_take_the_place_of_the_first(stored, taught):
    """Its pictures come out as it makes them, and the layers over time are those learnt."""
    _, pictures = stored
    time, _ = TIME_LAYERS.split(taught[1], jax.random.key(0))
    shared = leaves(pictures["other"])
    rest = nnx.from_flat_state(
        (path, leaf) for path, leaf in nnx.to_flat_state(taught[1]) if path[0] == "vae"
    )
    other = nnx.from_flat_state(
        (path, leaf) for path, leaf in nnx.to_flat_state(pictures["other"]) if path[0] != "vae"
    )
    swapped = TIME_LAYERS.join(time, nnx.merge_state(rest, other))
    assert jax.tree.structure(swapped) == jax.tree.structure(taught[1])
    after, learnt = leaves(swapped), leaves(taught[1])
    for name in after:
        wanted = shared[name] if name in shared and "vae" not in name else learnt[name]
        np.testing.assert_array_equal(after[name], wanted, err_msg=name)

    inputs = seen(PICTURE.model)
    video, alone = runner(VIDEO.model), runner(PICTURE.model)
    moving, still = video(swapped, *inputs), video(swapped, *lone(inputs))
    wanted = alone(pictures["other"], *inputs)
    largest = np.abs(wanted).max()
    np.testing.assert_allclose(still / largest, wanted / largest, rtol=0, atol=1e-5)
    assert np.abs(moving - still).max() > 1e-4 * largest
    assert np.abs(moving - video(taught[1], *inputs)).max() > 1e-2 * largest


def runner(model: ModelConfig):
    """(params, z, c_noise, cond) -> the network's output."""
    graphdef, _ = abstract(model)
    return jax.jit(lambda params, *inputs: nnx.merge(graphdef, params).network(*inputs))


def seen(model: ModelConfig):
    keys = jax.random.split(jax.random.key(0), 3)
    width = model.network.context_width
    tokens = Tokens(jax.random.normal(keys[0], (1, 2, width)), jnp.ones((1, 2), bool))
    z = jax.random.normal(keys[1], (1, 4, 8, 8, 4))
    return z, jax.random.normal(keys[2], (1, 4)), Cond(tokens={"text": tokens})


def lone(inputs):
    z, level, cond = inputs
    return z, level, replace(cond, image_only=jnp.ones((1, 4), bool))


@pytest.mark.slow
def test_each_stage_begins_where_the_last_ended_and_keeps_its_pictures(tmp_path):
    """By its runs, as commands make them: what is stored is what was learnt."""
    before = {}
    for stage, spec in (("picture", "smoke_picture"), ("video", "smoke_video"), ("end", "smoke")):
        config = configs.load(f"{FILE}:{spec}")
        full = configs.load(f"{FILE}:{'complete' if stage == 'end' else stage}")
        if before:
            parts = tuple(PartFrom(p, str(tmp_path / before["name"])) for p in ("network", "text"))
            config = replace(config, parts_from=parts, trainable=full.trainable)
        assert train(config, tmp_path / stage)
        described = load.describe(tmp_path / stage)
        mesh = meshes.MeshConfig().build()
        after = leaves(load.weights(tmp_path / stage, described, described.model, mesh, "float32"))
        old = before.get("weights", {})
        for name in old:
            if name.startswith("vae") or name.startswith("network.conv_in"):
                continue
            in_time = any(part in name for part in (".time.", ".blend.", ".frame_embedding."))
            assert in_time or np.array_equal(after[name], old[name]), name
        before = {"name": stage, "weights": after}
    assert after["network.conv_in.kernel"].shape[-2] == 9
    assert np.abs(after["network.conv_in.kernel"][..., 4:, :]).max() > 0
