"""Metrics reach what else they are written to; a missing package is refused before anything."""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.train import track
from vdm_jax.train.config import differences
from vdm_jax.train.loop import train
from vdm_jax.train.track import TensorBoard, WandB


@dataclass(frozen=True)
class Nowhere:
    """A tracker whose package nobody has."""

    package: str = "no_such_package"

    def open(self, workdir, step, config): ...


def test_a_missing_package_is_refused_before_the_run_begins(tmp_path):
    config = replace(configs.load("tests/train/tiny.py"), trackers=(Nowhere(),))
    with pytest.raises(Refusal, match=r"Nowhere needs no_such_package; pip install 'vdm-jax\["):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_trackers_are_kept_with_the_config_and_may_change_between_the_parts_of_a_run():
    config = configs.load("tests/train/tiny.py")
    tracked = replace(config, trackers=(TensorBoard(), WandB(mode="offline")))
    assert configs.from_json(configs.to_json(tracked)) == tracked
    assert differences(config, tracked) == []


@pytest.mark.skipif(find_spec("tensorboardX") is None, reason="needs tensorboardX")
def test_tensorboard_gets_every_value(tmp_path: Path):
    writer = TensorBoard().open(tmp_path, 0, {})
    writer.write(1, {"loss": 0.5})
    writer.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb")
def test_a_run_that_goes_on_is_the_same_run_there(tmp_path: Path):
    for step in (1, 2):
        writer = WandB(mode="offline").open(tmp_path, step - 1, {"seed": 0})
        writer.write(step, {"loss": 0.5 / step, "bad": float("nan")})
        writer.close()
    identity = (tmp_path / track.IDENTITY).read_text()
    runs = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert len(runs) >= 1 and all(name.endswith(identity) for name in runs)
