"""The recipes of Stable Video Diffusion follow one another: each begins where the last ended."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.cond import Cond
from vdm_jax.sample import load
from vdm_jax.tasks.task import ModelConfig, Parts, Sampling
from vdm_jax.train import begin, log
from vdm_jax.train.config import PartFrom
from vdm_jax.train.loop import train

STEPS = 2


def short(spec, parts=(), **changes):
    """A recipe's smoke run with as little around its steps as there can be."""
    config = configs.load(spec)
    sampling = replace(config.task.sampling, num_steps=1)
    if isinstance(sampling, Sampling):
        sampling = replace(sampling, guidance_scale=1.0)
    return replace(
        config, task=replace(config.task, sampling=sampling), parts_from=parts, steps=STEPS,
        save_every=STEPS, preview_every=STEPS, num_previews=1, held_out_samples=8, **changes,
    )  # fmt: skip


def of(directory, *names):
    return tuple(PartFrom(name, str(directory)) for name in names)


def losses(workdir):
    return [record["loss"] for record in log.read(workdir / "metrics.jsonl") if "loss" in record]


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Folders of runs of stages I, II and III, and their configs."""
    root = tmp_path_factory.mktemp("chain")
    runs = {}
    for name, spec, before, parts in (
        ("I", "svd_stage1_image", None, ()),
        ("II", "svd_stage2_video", "I", ("network", "vae", "text")),
        ("III", "svd_stage3_image_to_video", "II", ("network", "vae")),
    ):
        config = short(f"configs/{spec}.py:smoke", of(root / str(before), *parts))
        assert train(config, root / name)
        runs[name] = config
    return root, runs


def flat(directory: Path):
    """The averaged weights of a run, by path."""
    config = load.describe(directory)
    mesh = meshes.MeshConfig().build()
    params = load.weights(directory, config, config.model, mesh, "float32")
    return {path: np.asarray(leaf.get_value()) for path, leaf in nnx.to_flat_state(params)}


def begun(config):
    """The weights that a run of `config` begins with, by path, and the network's answer."""
    mesh = meshes.MeshConfig().build()
    built = begin.build(config, mesh)
    state, frozen = built.init()
    params = built.trainable.join(state.params, frozen)
    return {p: np.asarray(leaf.get_value()) for p, leaf in nnx.to_flat_state(params)}, (
        lambda *inputs: jax.jit(lambda: built.model(state.params, frozen).network(*inputs))()
    )


@pytest.mark.slow
def test_each_stage_trains_and_the_next_begins_with_what_it_learnt(chain):
    root, runs = chain
    for name in runs:
        assert len(losses(root / name)) == STEPS and np.isfinite(losses(root / name)).all()
    for before, after in (("I", "II"), ("II", "III")):
        learnt, end, (start, _) = flat(root / before), flat(root / after), begun(runs[after])
        shared = [path for path in learnt if path in start]
        assert {path[0] for path in shared} >= {"network", "vae"}
        for path in shared:
            mine = start[path]
            if mine.shape != learnt[path].shape:  # an input that grew: the first rows
                assert path[-2:] in (("conv_in", "kernel"), ("linear_1", "kernel"))
                mine = mine[..., : learnt[path].shape[-2], :]
            np.testing.assert_array_equal(mine, learnt[path], err_msg=str(path))
        moved = [path for path in shared if (end[path] != start[path]).any()]
        assert any(path[0] == "network" for path in moved)
        assert not any(path[0] == "vae" for path in moved)


@pytest.mark.slow
def test_stage_two_begins_as_pictures(chain):
    """The answer of the video model to a video is that of the picture model to its frames."""
    _, runs = chain
    z = jax.random.normal(jax.random.key(0), (1, 3, 8, 8, 4))
    level = jnp.zeros((1, 3))
    before = begun(replace(runs["I"], parts_from=runs["II"].parts_from))[1](z, level, Cond())
    after = begun(runs["II"])[1](z, level, Cond(vec=jnp.full((1, 3, 2), 9.0)))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6 * float(jnp.abs(before).max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["svd_stage3_text_to_video", "svd_interpolation"])
def test_what_follows_stage_two_with_a_text_begins_with_it(chain, name):
    root, _ = chain
    config = short(f"configs/{name}.py:smoke", of(root / "II", "network", "vae", "text"))
    learnt, (start, _) = flat(root / "II"), begun(config)
    kernel = ("network", "conv_in", "kernel")
    np.testing.assert_array_equal(start[kernel][..., :4, :], learnt[kernel])
    assert (start[kernel][..., 4:, :] == 0).all()
    text = ("text", "table")
    np.testing.assert_array_equal(start[text], learnt[text])


def test_a_network_of_another_shape_is_refused(tmp_path):
    """Drawn and stored only: nothing is trained."""
    first = configs.load("configs/svd_stage1_image.py:smoke")
    held = ModelConfig(network=first.model.network)
    with meshes.unplaced():
        drawn = nnx.state(held.build(rngs=nnx.Rngs(0)), nnx.Param)
    checkpoint.save_weights(tmp_path / "x", configs.to_json(Parts(held)), drawn)
    second = short("configs/svd_stage2_video.py:smoke", of(tmp_path / "x", "network"))
    start, _ = begun(second)
    for path, leaf in nnx.to_flat_state(drawn):
        np.testing.assert_array_equal(start[path], leaf.get_value())
    wider = replace(second.model.network, widths=(24,))
    with pytest.raises(Refusal, match=r"the network in .* is not that of the model"):
        begun(replace(second, model=replace(second.model, network=wider)))
