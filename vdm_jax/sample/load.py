"""A trained model from its directory: the task it does, its shape, and its weights."""

import hashlib
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
from flax import nnx
from jax.sharding import Mesh

from vdm_jax.adapters.trainable import EVERYTHING
from vdm_jax.conditioning.tower import TextTower
from vdm_jax.core import checkpoint, manifest
from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.tasks.task import ModelConfig, Task, abstract

Part = TypeVar("Part")

FROZEN = "frozen"
"""In a run directory: the weights that the run reads and does not change, a model directory."""


@runtime_checkable
class Described(Protocol):
    """What the config.json of a run or of a model must say."""

    @property
    def model(self) -> ModelConfig: ...

    @property
    def task(self) -> Task: ...


def describe(directory: Path) -> Described:
    """The config of a model directory or a run directory; runs no config file.

    Raises Refusal if there is none, it describes no model, or no weights lie beside it.
    """
    if not directory.is_dir():
        raise Refusal(f"{directory} is no directory; give that of a run or of a model")
    if (directory / "model_index.json").exists():
        raise Refusal(f"{directory} is a diffusers folder: convert it first, see vdm_jax.convert")
    config: Any = configs.from_json(checkpoint.load_config(directory))
    if not isinstance(config, Described):
        raise Refusal(f"{directory} holds a {type(config).__name__}, which describes no model")
    checkpoint.check_weights(directory)
    return _at(config, directory)


def _at(config: Any, directory: Path) -> Described:
    """The config, with the tokenizer that lies beside the weights."""
    if not isinstance(config.model.text, TextTower):
        return config
    text = config.model.text.at(directory)
    return replace(config, model=replace(config.model, text=text))


def in_dtype(part: Part, dtype: str) -> Part:
    """A model's config, with every layer of every part computing in `dtype`."""
    if not is_dataclass(part) or isinstance(part, type):
        return part
    changed: dict[str, Any] = {f.name: in_dtype(getattr(part, f.name), dtype) for f in fields(part)}
    return replace(part, **{n: dtype if n == "dtype" else value for n, value in changed.items()})


def weights(
    directory: Path, config: Described, model: ModelConfig, mesh: Mesh, dtype: str
) -> nnx.State:
    """The weights in `directory` on `mesh`, in `dtype`: of a run, the newest averaged ones.

    config: what `describe` said. model: its model as it is wanted, which may compute otherwise.
    Raises Refusal if the weights are missing, damaged, or not those of the model.
    """
    _, params = abstract(model)
    return filled(directory, config, placed(params, mesh, dtype))


@cache
def weights_of(directory: Path) -> str:
    """A name of the weights that a model or run directory draws with."""
    stored = checkpoint.stored_weights(directory)
    folder = stored.folder if stored.prefix else directory
    return hashlib.sha256((folder / manifest.NAME).read_bytes()).hexdigest()


def filled(directory: Path, config: Described, params: nnx.State) -> nnx.State:
    """`weights` with the type and the sharding that each leaf of `params` has.

    Of a run that trains a part of its model, the rest lies in `FROZEN`.
    """
    trainable = getattr(config, "trainable", None)
    if trainable is None:
        return checkpoint.load_weights(directory, params)
    shapes = jax.eval_shape(lambda params: trainable.split(params, jax.random.key(0)), params)
    trained, frozen = (_like(part, params) for part in shapes)
    trained = checkpoint.load_weights(directory, trained)
    if jax.tree.leaves(frozen):
        frozen = checkpoint.load_weights(directory / FROZEN, frozen)
    return trainable.join(trained, frozen)


def part(directory: Path, name: str, params: nnx.State) -> tuple[ModelConfig, nnx.State]:
    """A model or run directory's model, and the weights of one of its parts, {name: …}.

    params: of the model that takes them; says where a leaf lies, and its type where both have it.
    Raises Refusal if there is no such part.
    """
    config: Any = configs.from_json(checkpoint.load_config(directory))
    model = getattr(config, "model", None)
    if not isinstance(model, ModelConfig) or getattr(model, name, None) is None:
        raise Refusal(f"{directory} holds no {name}")
    shapes = abstract(model)[1]
    trainable = getattr(config, "trainable", EVERYTHING)
    split = jax.eval_shape(lambda shapes: trainable.split(shapes, jax.random.key(0)), shapes)
    parts = []
    for where, state in zip((directory, directory / FROZEN), split, strict=True):
        mine = nnx.from_flat_state(
            (p, leaf) for p, leaf in nnx.to_flat_state(state) if p[0] == name
        )
        if jax.tree.leaves(mine):
            wanted = _like(mine, params)[name]
            mine = nnx.State({name: checkpoint.load_weights(where, wanted, f"{name}/")})
        parts.append(mine)
    return model, trainable.join(*parts)


def placed(params: nnx.State, mesh: Mesh, dtype: str) -> nnx.State:
    """Shapes of parameters with their place on a mesh, in `dtype`."""
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, dtype, sharding=sharding),
        params,
        meshes.shardings(params, mesh),
    )


def _like(part: nnx.State, params: nnx.State) -> nnx.State:
    """The leaves of `part` with the sharding that they have in `params`; the others whole."""
    mesh = next(leaf.sharding.mesh for leaf in jax.tree.leaves(params))
    shardings = meshes.shardings(part, mesh)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        part,
        shardings,
    )
