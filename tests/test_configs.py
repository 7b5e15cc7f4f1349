"""Every config of the folder is whole: it can be stored, and its loss is one of its model."""

from dataclasses import replace
from pathlib import Path

import jax
import pytest
from flax import nnx

from vdm_jax.core import config as configs
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.nn.remat import KEEP_ALL
from vdm_jax.tasks.task import abstract
from vdm_jax.train import begin
from vdm_jax.train.ahead import blank
from vdm_jax.train.config import TrainConfig

OTHERS = {"curate"}  # tested where their verb is
FILES = sorted(str(path) for path in Path("configs").glob("*.py") if path.stem not in OTHERS)
VARIANTS = {
    "configs/align_your_latents.py": (
        "autoencoder",
        "decoder",
        "picture",
        "video",
        "smoke_picture",
        "smoke_video",
    ),
    "configs/finetune_svd.py": ("temporal", "lora", "tiny", "tiny_clips"),
    "configs/svd_stage1_image.py": ("levels",),
    "configs/svd_stage2_video.py": ("larger",),
    "configs/svd_stage3_image_to_video.py": ("small", "longer"),
    "configs/svd_camera_lora.py": ("zooming", "static"),
}
SPECS = [
    f"{path}:{name}" for path in FILES for name in ("config", "smoke", *VARIANTS.get(path, ()))
]


def shaped(config):
    """(loss, scalars) of a batch of two, as shapes: nothing is computed and no file is read."""
    arrays = {
        name: jax.ShapeDtypeStruct((2, *rows.shape[1:]), rows.dtype)
        for name, rows in {**blank(config)}.items()
    }
    graphdef, params = abstract(config.model)

    def loss(params, arrays, key, step):
        model = nnx.merge(graphdef, params)
        return config.task.loss(model, {**arrays, "step": step}, key)

    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(loss, params, arrays, key, jax.ShapeDtypeStruct((), "int32"))


@pytest.mark.parametrize("spec", SPECS)
def test_a_config_can_be_stored(spec):
    config = configs.load(spec)
    assert isinstance(config, TrainConfig)
    assert configs.from_json(configs.to_json(config)) == config


@pytest.mark.parametrize("path", FILES)
def test_the_loss_is_a_number(path):
    config = configs.load(f"{path}:smoke")
    assert jax.tree.leaves(config.trainable.split(abstract(config.model)[1], jax.random.key(0))[0])
    loss, scalars = shaped(config)
    assert loss.shape == () and loss.dtype == "float32"
    assert all(scalar.shape == () for scalar in scalars.values())


@pytest.mark.parametrize("path", ["configs/finetune_svd.py", "configs/svd_camera_lora.py"])
def test_beside_a_lora_that_begins_from_nothing_no_layer_is_silent(path):
    """Else it would have no gradient: a network that is trained whole ends in zeros at first."""
    config = configs.load(f"{path}:smoke")
    _, frozen = begin.build(config, MeshConfig().build()).init()
    kernels = [
        (name, leaf.get_value())
        for name, leaf in nnx.to_flat_state(frozen)
        if name[-1] == "kernel" and name[0] == "network"
    ]
    assert len(kernels) > 50
    assert not [name for name, kernel in kernels if not kernel.any()]


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES)
def test_the_loss_of_the_full_size_is_a_number(path):
    """Traced without rematerialisation, which takes the most time and changes no shape."""
    config = configs.load(path)
    network = config.model.network
    if hasattr(network, "remat"):
        network = replace(network, remat=KEEP_ALL)
    config = replace(config, model=replace(config.model, network=network))
    params = abstract(config.model)[1]
    split = jax.eval_shape(lambda params: config.trainable.split(params, jax.random.key(0)), params)
    assert jax.tree.leaves(split[0])
    assert shaped(config)[0].shape == ()
