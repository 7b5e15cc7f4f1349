"""One network from its model directory, such as `vdm_jax.convert` writes: CLIP, I3D, a head."""

from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx

from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core.mesh import MeshConfig, build_abstract, replicated
from vdm_jax.core.refusal import Refusal

Part = TypeVar("Part")


def described(directory: Path, wanted: type[Part], what: str) -> Part:
    """The config of a model directory. Raises Refusal where it is of something else."""
    if not directory.is_dir() or not (directory / checkpoint.CONFIG).is_file():
        raise Refusal(f"{directory} is no model directory; wanted is {what}")
    try:
        config = configs.from_json(checkpoint.load_config(directory))
    except Refusal as refusal:  # as in the folder that it is made of
        raise Refusal(f"{directory}: {refusal}; wanted is {what}") from None
    if not isinstance(config, wanted):
        raise Refusal(f"{directory} holds a {type(config).__name__}; wanted is {what}")
    checkpoint.check_weights(directory)
    return config


def filled(directory: Path, config: Any) -> tuple[Any, nnx.State]:
    """The module of a model directory, as `nnx.split` has it, on the first device."""
    graphdef, shapes = nnx.split(build_abstract(lambda: config.build(rngs=nnx.Rngs(0))), nnx.Param)
    return graphdef, checkpoint.load_weights(directory, shapes)


def read(directory: Path, config: Any) -> tuple[Any, nnx.State]:
    """The same with arrays of this process's own, where several processes read it at once."""
    graphdef, shapes = nnx.split(build_abstract(lambda: config.build(rngs=nnx.Rngs(0))), nnx.Param)
    whole = replicated(MeshConfig().build())
    everywhere = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), shapes
    )
    params = checkpoint.load_weights(directory, everywhere)
    return graphdef, jax.tree.map(lambda array: np.asarray(array.addressable_data(0)), params)
