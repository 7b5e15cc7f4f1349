"""Where a run's first weights come from: drawn, or those of a model or of another run."""

from dataclasses import replace
from functools import partial, reduce
from pathlib import Path

import jax
from flax import nnx
from jax.sharding import Mesh

from vdm_jax.adapters import inflate, temporal_decoder
from vdm_jax.adapters.lora import LoRA, awake
from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.vae import VAEConfig
from vdm_jax.models.video_vae import VideoVAEConfig
from vdm_jax.sample import load
from vdm_jax.tasks.task import ModelConfig, abstract
from vdm_jax.train import state as states
from vdm_jax.train.config import PartFrom, TrainConfig
from vdm_jax.train.state import Built, Initial


def build(config: TrainConfig, mesh: Mesh) -> Built:
    """The training state of `config` over `mesh`; reads and allocates nothing yet.

    Raises Refusal for an `init_from` that is no model, or not one that can become this one.
    """
    return _built(config, mesh, _initial(config))


def shapes(config: TrainConfig, mesh: Mesh) -> Built:
    """As `build`, for compiling alone: where weights would come from is not looked at."""
    return _built(config, mesh, states.fresh(config.build_model))


def autoencoder(config: TrainConfig, mesh: Mesh) -> tuple[VAEConfig | VideoVAEConfig, nnx.State]:
    """The autoencoder that a run of `config` begins with, as it lies on the disk: {"vae": …}.

    Raises Refusal for one whose encoder is not that of the model.
    """
    mine = config.model.vae
    assert mine is not None
    theirs, params, where = _first(config, ModelConfig(vae=mine), "vae", mesh)
    vae = theirs.vae
    if vae is None or not mine.encodes_as(vae):
        raise Refusal(f"the vae in {where} is not that of the model")
    return replace(vae, dtype=mine.dtype), params


def text_encoder(config: TrainConfig, mesh: Mesh) -> nnx.State:
    """Likewise the weights of its text encoder: {"text": …}."""
    model = ModelConfig(text=config.model.text)
    _, params, where = _first(config, model, "text", mesh)
    if _shapes(params) != _shapes(abstract(model)[1]):
        raise Refusal(f"the text in {where} is not that of the model")
    return params


def _first(
    config: TrainConfig, model: ModelConfig, part: str, mesh: Mesh
) -> tuple[ModelConfig, nnx.State, str]:
    """The model that a part of the run's comes from, the part's weights, and where they lay.

    model: the run's, as far as that part.
    """
    given = [source.directory for source in config.parts_from if source.part == part]
    if not given and config.init_from is None:
        with meshes.unplaced():
            drawn = nnx.state(config.build_model(), nnx.Param)
        params = nnx.State({part: drawn[part]})
        return model, meshes.put(params, meshes.shardings(params, mesh)), "the config"
    directory = given[-1] if given else str(config.init_from)
    placed = load.placed(abstract(model)[1], mesh, "float32")
    return *load.part(Path(directory), part, placed), directory


def _built(config: TrainConfig, mesh: Mesh, initial: Initial) -> Built:
    return states.build(
        abstract(config.model),
        config.trainable,
        config.optim.build(config.steps),
        mesh,
        initial,
        seed=config.seed,
        frozen_dtype=config.frozen_dtype,
    )


def _initial(config: TrainConfig) -> Initial:
    """All parts from one place, then those of `parts_from`."""
    whole = _whole(config)
    if not config.parts_from:
        return whole

    def initial(params: nnx.State) -> nnx.State:
        made = whole(params)
        return reduce(partial(_with_part, config.model), config.parts_from, made)

    return initial


def _with_part(model: ModelConfig, params: nnx.State, source: PartFrom) -> nnx.State:
    """The parameters of `model`, those of one part replaced."""
    theirs, loaded = load.part(Path(source.directory), source.part, params)
    mine = params[source.part]
    weights = loaded[source.part]
    if source.part == "vae" and temporal_decoder.fits(theirs.vae, model.vae):
        weights = temporal_decoder.inflated(weights, mine)
    if source.part == "network" and inflate.fits(theirs.network, model.network):
        weights = inflate.inflated(weights, mine)
    if _shapes(weights) != _shapes(mine):
        raise Refusal(f"the {source.part} in {source.directory} is not that of the model")
    cast = jax.tree.map(lambda new, old: new.astype(old.dtype), weights, mine)
    placed = meshes.put(cast, jax.tree.map(lambda leaf: leaf.sharding, mine))
    return nnx.State({**params, source.part: placed})


def _shapes(params: nnx.State) -> dict[tuple, tuple[int, ...]]:
    return {path: leaf.get_value().shape for path, leaf in nnx.to_flat_state(params)}


def _whole(config: TrainConfig) -> Initial:
    if config.init_from is None:
        if isinstance(config.trainable, LoRA):
            return states.fresh(lambda: awake(config.build_model()))
        return states.fresh(config.build_model)
    directory = Path(config.init_from)
    source = load.describe(directory)

    def initial(params: nnx.State) -> nnx.State:
        return load.filled(directory, source, params)

    return initial
