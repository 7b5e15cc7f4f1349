"""The whole run at its smallest: train, go on, refuse, skip, stop; and sampling from the result."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.core import video
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.sample import __main__ as sample
from vdm_jax.train import begin
from vdm_jax.train.guard import Guard
from vdm_jax.train.loop import open_loader, open_sources, train
from vdm_jax.train.optim import AdamW
from vdm_jax.train.step import update

CONFIG = "configs/quickstart.py:smoke"


@pytest.fixture(scope="session")
def config():
    return configs.load(CONFIG)


@pytest.fixture(scope="session")
def tiny():
    """As `config`, for what does not need its data, task and judge: compiles twice as fast."""
    return replace(configs.load("tests/train/tiny.py"), batch_size=8, save_every=100)


@pytest.fixture(scope="session")
def run(config, tmp_path_factory) -> Path:
    """A finished run of the quickstart's smoke."""
    workdir = tmp_path_factory.mktemp("run")
    assert train(config, workdir)
    return workdir


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_all_that_the_readme_promises(run, config):
    names = {path.name for path in run.iterdir()}
    assert {"config.json", "checkpoints", "metrics.jsonl", "samples", "loss.png", "report.html",
            "log.txt"} <= names  # fmt: skip
    steps = [r["step"] for r in records(run) if "loss" in r]
    assert steps == list(range(1, config.steps + 1))
    assert configs.from_json((run / "config.json").read_text()) == config
    previews = sorted(path.name for path in (run / "samples").iterdir())
    assert previews == ["first_frame.png", "step_000003.mp4", "step_000003.webp",
                        "step_000006.mp4", "step_000006.webp"]  # fmt: skip


def test_the_report_holds_scores_samples_and_the_command_to_sample(run):
    page = (run / "report.html").read_text()
    for word in ("copy the first frame", "vdm_jax.sample", "data:image/webp", "held_out"):
        assert word in page
    assert "http://" not in page and "https://" not in page


def test_held_out_loss_is_recorded_beside_that_of_the_constant_answer(run):
    held_out = [r for r in records(run) if "held_out_loss" in r]
    assert [r["step"] for r in held_out] == [3, 6]
    assert len({r["mean_predictor_loss"] for r in held_out}) == 1


def test_a_longer_run_goes_on_where_the_shorter_one_ended(tiny, tmp_path, capfd):
    assert train(replace(tiny, steps=2), tmp_path / "run")
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert train(replace(tiny, steps=3), tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_text().startswith(before)
    assert "going on from step 2 of 3" in capfd.readouterr().err


def test_a_finished_run_has_nothing_to_do_and_fewer_steps_are_refused(run, config, capfd):
    before = (run / "metrics.jsonl").read_text(), (run / "config.json").read_text()
    steps = records(run)[-1]["step"]
    assert train(replace(config, steps=steps), run)
    assert "nothing to do" in capfd.readouterr().err
    with pytest.raises(Refusal, match="is less"):
        train(replace(config, steps=2), run)
    assert (run / "metrics.jsonl").read_text() == before[0]


def test_steps_that_are_never_finite_end_the_run_and_going_on_counts_them_once(
    tiny, tmp_path, capfd
):
    """A rate that overflows poisons every update; what was skipped before is not counted again."""
    wild = replace(tiny.optim, learning_rate=3e38, warmup_steps=0, clip_norm=1e30)
    bad = replace(tiny, optim=wild, guard=Guard(patience=4), steps=6, save_every=3)
    with pytest.raises(Refusal, match="4 steps in a row up to step 4 were not finite"):
        train(bad, tmp_path / "run")
    assert train(replace(bad, guard=Guard(patience=9)), tmp_path / "run")
    skips = [line for line in capfd.readouterr().err.splitlines() if "skipped 1 of 1 steps" in line]
    assert skips


def test_another_computation_is_refused_in_a_used_directory(run, config):
    other = replace(config, seed=1, optim=replace(config.optim, learning_rate=1.0))
    differs = r"optim\.learning_rate was 0\.\d+, now 1\.0, seed was 0, now 1;"
    with pytest.raises(Refusal, match=differs):
        train(other, run)


def test_sampling_is_reproducible_and_begins_with_the_picture(run, tmp_path, capsys):
    picture = run / "samples" / "first_frame.png"
    paths = [tmp_path / name for name in ("a", "b", "c")]
    for path, seed in zip(paths, ("0", "0", "1"), strict=True):
        args = ["--model", str(run), "--image", str(picture), "--prompt", "a red circle moves up"]
        assert sample.main([*args, "--output", str(path), "--seed", seed]) == 0
    first, again, other = (video.read(path).frames for path in paths)
    assert first.shape == (4, 16, 16, 3)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(first[0], video.read_image(picture))
    assert "4 frames of 16x16" in capsys.readouterr().out


def test_sharded_and_single_device_training_agree(tiny):
    """20 steps on 2 x 2 x 2 devices and on one, at the learning rate of configs/real_video.py.

    A rate ten times higher lets Adam, which divides by the size of a gradient, grow the rounding
    of float32 to some 1e-4 in 20 steps, on any two meshes.
    """
    config = replace(tiny, optim=AdamW(learning_rate=3e-4, warmup_steps=100), steps=20)
    losses = {}
    for name, axes, count in (("one", (1, 1, 1, 1), 1), ("eight", (2, 2, 1, 2), 8)):
        mesh = jax.make_mesh(
            axes,
            meshes.MESH_AXES,
            axis_types=(jax.sharding.AxisType.Auto,) * len(axes),
            devices=jax.devices()[:count],
        )
        losses[name] = trained_losses(config, mesh, steps=20)
    np.testing.assert_allclose(losses["one"], losses["eight"], rtol=1e-5)


def trained_losses(config, mesh, steps):
    source, _ = open_sources(config, mesh)
    built = begin.build(config, mesh)
    state, frozen = built.init()
    optimizer = config.optim.build(config.steps)
    step = jax.jit(
        update(built.model, config.task.loss, optimizer, ema_decay=0.9, accumulate=1),
        out_shardings=(jax.tree.map(lambda a: a.sharding, built.abstract), None),
    )
    losses = []
    loader = open_loader(config, source, mesh)
    for _ in range(steps):
        batch = meshes.put_batch(config.task.prepare(config.model, next(loader)), mesh)
        state, scalars = step(state, frozen, batch, jax.random.key(0))
        losses.append(float(scalars["loss"]))
    loader.close()
    return losses


def test_every_device_holds_a_part_of_the_wide_layers(config):
    mesh = MeshConfig(fsdp=2, tensor=2).build()
    built = begin.build(config, mesh)
    text = meshes.describe(built.abstract.params, mesh)
    assert "fsdp, tensor" in text
    moments = jax.tree.leaves(built.abstract.opt_state)
    assert any(leaf.sharding.spec[-2:] == ("fsdp", "tensor") for leaf in moments)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"batch_size": 6}, "multiple of 8"),
        ({"mesh": MeshConfig(fsdp=3)}, "8 devices"),
        ({"keep": 1}, "at least 2"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_compiles(config, tmp_path, changes, words):
    with pytest.raises(Refusal, match=words):
        train(replace(config, **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_data_of_another_size_is_refused(config, tmp_path):
    wider = replace(config, data=replace(config.data, width=24, height=24))
    with pytest.raises(Refusal, match="4 frames of 24x24x3"):
        train(wider, tmp_path / "run")


def test_a_directory_that_is_a_file_is_refused(config, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(Refusal, match="is a file"):
        train(config, tmp_path / "run")
