"""BERT's encoder against transformers', its padding, and its published size."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import BertConfig as TorchConfig
from transformers import BertModel

from vdm_jax.convert.minilm import TABLE, UNUSED
from vdm_jax.convert.rules import moves, unused
from vdm_jax.core import mesh as meshes
from vdm_jax.core.arrays import named
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.bert import MINILM_L6, BERTConfig

TOLERANCE = 1e-5
GAIN = re.compile(r"LayerNorm\.weight$")
CONFIGS = (
    BERTConfig(vocabulary=60, width=24, hidden=50, layers=3, heads=4, max_tokens=11),
    BERTConfig(vocabulary=9, width=10, hidden=8, layers=1, heads=1, max_tokens=77, types=1),
    BERTConfig(vocabulary=100, width=32, hidden=16, layers=6, heads=8, max_tokens=40, types=3),
)
CONFIG = CONFIGS[0]


def theirs_of(config, seed=0):
    """BertModel of this shape with every parameter drawn: norms near 1, the rest near 0."""
    model = BertModel(
        TorchConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.max_tokens,
            type_vocab_size=config.types,
            attn_implementation="eager",
        )
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.copy_(scale * noise + (1.0 if GAIN.search(name) else 0.0))
    return model.eval()


def ours_of(config, theirs):
    """Our encoder with their weights, by the table of the converter; each is used once."""
    with meshes.unplaced():
        model = config.build(rngs=nnx.Rngs(0))
    state = nnx.state(model, nnx.Param)
    flat = {f"text/tower/{name}": leaf for name, leaf in named(state).items()}
    arrays = {name: p.detach().numpy() for name, p in theirs.named_parameters()}
    for name in list(unused(arrays, UNUSED)):
        del arrays[name]
    shapes = {name: leaf.shape for name, leaf in flat.items()}
    ready, wrong = moves({name: a.shape for name, a in arrays.items()}, shapes, TABLE)
    assert not wrong and len(ready) == len(flat)
    brought = [move.layout.bring(arrays[move.theirs], move.our_shape) for move in ready]
    nnx.update(model, jax.tree.unflatten(jax.tree.structure(state), map(jnp.asarray, brought)))
    return model


def run(model, ids, real):
    graph, state = nnx.split(model)
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(lambda s, *x: nnx.merge(graph, s)(*x))(state, ids, real))


def texts(config, seed=1):
    """Three texts of different lengths, the first without padding."""
    length = config.max_tokens
    ids = np.random.default_rng(seed).integers(0, config.vocabulary, (3, length), np.int32)
    return ids, np.arange(length)[None] < np.array([[length], [length // 2], [2]])


@pytest.mark.parity
@pytest.mark.parametrize("config", CONFIGS)
def test_the_tokens_are_those_of_transformers(config):
    theirs = theirs_of(config)
    ids, real = texts(config)
    with torch.no_grad():
        wanted = theirs(
            torch.from_numpy(ids).long(), attention_mask=torch.from_numpy(real).long()
        ).last_hidden_state.numpy()
    got = run(ours_of(config, theirs), ids, real)
    assert np.linalg.norm((got - wanted)[real]) <= TOLERANCE * np.linalg.norm(wanted[real])


def test_padding_is_seen_by_no_real_token_and_is_finite():
    model = ours_of(CONFIG, theirs_of(CONFIG))
    ids, real = texts(CONFIG)
    real[0] = False
    got, other = run(model, ids, real), run(model, np.where(real, ids, 7), real)
    np.testing.assert_array_equal(got[real], other[real])
    assert np.isfinite(got).all() and (got[~real] != other[~real]).any()
    seen = run(model, np.where(np.arange(11) == 1, 7, ids), real)
    assert (seen[1, 0] != got[1, 0]).any()  # one to the right: both ways are looked


def test_split_over_a_mesh_it_gives_the_same():
    with meshes.unplaced():
        model = CONFIG.build(rngs=nnx.Rngs(0))
    ids, real = texts(CONFIG)
    ids, real = np.concatenate([ids, ids[:1]]), np.concatenate([real, real[:1]])
    whole = run(model, ids, real)
    mesh = meshes.MeshConfig(data=2, fsdp=2, tensor=2).build()
    state = nnx.state(model, nnx.Param)
    placed = meshes.put(state, meshes.shardings(state, mesh))
    split = [leaf for leaf in jax.tree.leaves(placed) if not leaf.sharding.is_fully_replicated]
    assert len(split) > len(jax.tree.leaves(placed)) / 3
    nnx.update(model, placed)
    assert np.linalg.norm(run(model, ids, real) - whole) <= TOLERANCE * np.linalg.norm(whole)


def test_the_published_size():
    model = meshes.build_abstract(lambda: MINILM_L6.build(rngs=nnx.Rngs(0)))
    shapes = [leaf.shape for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]
    assert sum(map(np.prod, shapes)) == 22_713_216 - 384 * 385  # without the pooling layer


def test_wrong_sizes_are_refused():
    with pytest.raises(Refusal, match="types is 0"):
        BERTConfig(types=0)
    with pytest.raises(Refusal, match="width of 10 does not divide into 4 heads"):
        BERTConfig(width=10, heads=4)
    model = meshes.build_abstract(lambda: CONFIG.build(rngs=nnx.Rngs(0)))
    with pytest.raises(Refusal, match="12 tokens; at most 11"):
        nnx.eval_shape(model, jnp.zeros((1, 12), int), jnp.ones((1, 12), bool))
