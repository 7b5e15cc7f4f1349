"""A trained model from its directory: the task it does, its shape, and its weights."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
from flax import nnx
from jax.sharding import Mesh

from vdm_jax.conditioning.text import CLIPTextEncoderConfig
from vdm_jax.core import checkpoint
from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.tasks.task import ModelConfig, Task, abstract

Part = TypeVar("Part")


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
        raise Refusal(f"--model {directory} is no directory; give that of a run or of a model")
    if (directory / "model_index.json").exists():
        raise Refusal(f"{directory} is a diffusers folder: convert it first, see vdm_jax.convert")
    config: Any = configs.from_json(checkpoint.load_config(directory))
    if not isinstance(config, Described):
        raise Refusal(f"{directory} holds a {type(config).__name__}, which describes no model")
    checkpoint.check_weights(directory)
    return _at(config, directory)


def _at(config: Any, directory: Path) -> Described:
    """The config, with the tokenizer that lies beside the weights."""
    if not isinstance(config.model.text, CLIPTextEncoderConfig):
        return config
    text = config.model.text.at(directory)
    return replace(config, model=replace(config.model, text=text))


def in_dtype(part: Part, dtype: str) -> Part:
    """A model's config, with every layer of every part computing in `dtype`."""
    if not is_dataclass(part) or isinstance(part, type):
        return part
    changed: dict[str, Any] = {f.name: in_dtype(getattr(part, f.name), dtype) for f in fields(part)}
    return replace(part, **{n: dtype if n == "dtype" else value for n, value in changed.items()})


def weights(directory: Path, model: ModelConfig, mesh: Mesh, dtype: str) -> nnx.State:
    """The weights in `directory` on `mesh`, in `dtype`: of a run, the newest averaged ones.

    Raises Refusal if they are missing, damaged, or not those of `model`.
    """
    _, params = abstract(model)
    placed = jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, dtype, sharding=sharding),
        params,
        meshes.shardings(params, mesh),
    )
    return checkpoint.load_weights(directory, placed)
