"""A trained model from its directory: the task it does, its shape, and its weights."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import jax
from flax import nnx
from jax.sharding import Mesh

from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.tasks.task import ModelConfig, Task


@runtime_checkable
class Described(Protocol):
    """What the config.json of a run or of a model must say."""

    @property
    def model(self) -> ModelConfig: ...

    @property
    def task(self) -> Task: ...


def describe(directory: Path) -> Described:
    """The config of a model directory or a run directory; runs no config file.

    Raises Refusal if there is none or it describes no model.
    """
    if not directory.is_dir():
        raise Refusal(f"--model {directory} is no directory; give that of a run or of a model")
    config = configs.from_json(checkpoint.load_config(directory))
    if not isinstance(config, Described):
        raise Refusal(f"{directory} holds a {type(config).__name__}, which describes no model")
    return config


def weights(directory: Path, config: Described, mesh: Mesh) -> nnx.State:
    """The weights in `directory`, on `mesh`: the averaged ones of a run's newest checkpoint.

    Raises Refusal if they are missing, damaged, or not those of `config`.
    """
    _, params = nnx.split(
        meshes.build_abstract(lambda: config.model.build(rngs=nnx.Rngs(0))), nnx.Param
    )
    abstract = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        params,
        meshes.shardings(params, mesh),
    )
    return checkpoint.load_weights(directory, abstract)
