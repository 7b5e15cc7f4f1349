"""A model directory without training: what it holds, and what it can be put through."""

import numpy as np
import pytest
from flax import nnx

from vdm_jax.convert import blank
from vdm_jax.core import config as configs
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.sample import load
from vdm_jax.tasks.task import Pretrained

TINY = "configs/quickstart.py:smoke"


def test_it_is_a_model_directory_of_which_no_layer_is_silent(tmp_path):
    model = tmp_path / "model"
    assert blank.main(["--config", TINY, "--output", str(model)]) == 0
    config = load.describe(model)
    assert config == Pretrained(configs.load(TINY).model, configs.load(TINY).task)
    weights = load.weights(model, config, config.model, MeshConfig().build(), "float32")
    kernels = [(path, leaf) for path, leaf in nnx.to_flat_state(weights) if path[-1] == "kernel"]
    assert kernels
    assert not [path for path, leaf in kernels if not np.asarray(leaf.get_value()).any()]


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["--config", TINY], "--output is missing"),
        (["--config", "configs/curate.py", "--output", "{new}"], "describes no model"),
        (["--config", TINY, "--output", "{full}"], "full"),
        (["--config", TINY, "--output", "{new}", "--steps", "3"], "unknown option '--steps'"),
    ],
)
def test_what_is_no_model_is_refused(args, why, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    places = {"new": tmp_path / "new", "full": tmp_path / "full"}
    with pytest.raises(Refusal, match=why):
        blank.main([arg.format(**places) for arg in args])
    assert not (tmp_path / "new").exists()
