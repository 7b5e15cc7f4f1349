"""CLIP's two towers against transformers', and their published sizes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import CLIPTextConfig as TorchTextConfig
from transformers import CLIPTextModel, CLIPVisionModelWithProjection
from transformers import CLIPVisionConfig as TorchVisionConfig

from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.clip_text import CLIP_TEXT_SD21, CLIPTextConfig
from vdm_jax.models.clip_vision import CLIP_VIT_H, CLIPVisionConfig

TOLERANCE = 1e-5
GAIN = re.compile(r"norm\d?\.weight$")
NAMES = (
    (r"^(vision_model|text_model)\.", ""),
    (r"^encoder\.", ""),
    (r"^embeddings\.", ""),
    (r"patch_embedding\.weight", "patch/kernel"),
    (r"(token|position)_embedding\.weight", r"\1_embedding"),
    (r"pre_layrnorm", "pre_norm"),
    (r"post_layernorm", "post_norm"),
    (r"final_layer_norm", "final_norm"),
    (r"visual_projection", "projection"),
    (r"layer_norm(\d)", r"norm\1"),
    (r"self_attn\.out_proj", "attention/to_out"),
    (r"self_attn\.(\w)_proj", r"attention/to_\1"),
    (r"mlp\.", ""),
    (r"(norm\d?)\.weight", r"\1/scale"),
    (r"\.weight", "/kernel"),
    (r"\.", "/"),
)

VISION = (
    CLIPVisionConfig(
        width=24, hidden=40, layers=3, heads=4, patch_size=4, image_size=20, projection=10
    ),
    CLIPVisionConfig(
        width=36,
        hidden=20,
        layers=1,
        heads=2,
        patch_size=7,
        image_size=21,
        projection=50,
        activation="quick_gelu",
    ),
    CLIPVisionConfig(
        width=8, hidden=32, layers=4, heads=1, patch_size=2, image_size=34, projection=3
    ),
)  # the last has 290 tokens, more than one chunk of attention
TEXT = (
    CLIPTextConfig(vocabulary=60, width=24, hidden=50, layers=3, heads=4, max_tokens=11),
    CLIPTextConfig(
        vocabulary=9, width=10, hidden=8, layers=1, heads=1, max_tokens=77, activation="quick_gelu"
    ),
    CLIPTextConfig(vocabulary=100, width=32, hidden=16, layers=4, heads=8, max_tokens=5),
)


def path_of(name):
    for pattern, path in NAMES:
        name = re.sub(pattern, path, name)
    return tuple(int(part) if part.isdigit() else part for part in name.split("/"))


def layout(array, path, shape):
    """A torch tensor in the layout of the parameter of this path and shape."""
    if path[-2:] == ("patch", "kernel"):
        return array.transpose(2, 3, 1, 0)
    if path[-1] == "kernel":
        array = array.T
    return array.reshape(shape)


def randomised(torch_model, seed):
    """The torch model with every parameter drawn at random: norms near 1, the rest near 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in torch_model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.3 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.copy_(scale * noise + (1.0 if GAIN.search(name) else 0.0))
    return torch_model.eval()


def transplanted(config, torch_model):
    """Our model with the weights of a torch model; every name used once, every shape equal."""
    with meshes.unplaced():
        model = config.build(rngs=nnx.Rngs(0))
    state = nnx.state(model, nnx.Param)
    flat = dict(nnx.to_flat_state(state))
    source = {path_of(name): p.detach().numpy() for name, p in torch_model.named_parameters()}
    assert source.keys() == flat.keys()
    for path, variable in flat.items():
        variable.set_value(jnp.asarray(layout(source[path], path, variable.shape)))
    nnx.update(model, nnx.from_flat_state(flat))
    return model


def run(model, inputs):
    graph, state = nnx.split(model)
    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(lambda s, x: nnx.merge(graph, s)(x))(state, inputs))


def distance(got, wanted):
    return np.linalg.norm(got - wanted) / np.linalg.norm(wanted)


def torch_vision(config, seed=0):
    return randomised(
        CLIPVisionModelWithProjection(
            TorchVisionConfig(
                hidden_size=config.width,
                intermediate_size=config.hidden,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                patch_size=config.patch_size,
                image_size=config.image_size,
                projection_dim=config.projection,
                hidden_act=config.activation,
                attn_implementation="eager",
            )
        ),
        seed,
    )


def torch_text(config, seed=0):
    return randomised(
        CLIPTextModel(
            TorchTextConfig(
                vocab_size=config.vocabulary,
                hidden_size=config.width,
                intermediate_size=config.hidden,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                max_position_embeddings=config.max_tokens,
                hidden_act=config.activation,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
                attn_implementation="eager",
            )
        ),
        seed,
    )


@pytest.mark.parity
@pytest.mark.parametrize("config", VISION)
def test_the_picture_vector_is_that_of_transformers(config):
    theirs = torch_vision(config)
    size = config.image_size
    pixels = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).image_embeds
    got = run(transplanted(config, theirs), pixels)
    assert got.shape == (2, config.projection)
    assert distance(got, wanted.numpy()) <= TOLERANCE


@pytest.mark.parity
@pytest.mark.parametrize("config", TEXT)
def test_the_tokens_are_those_of_transformers(config):
    theirs = torch_text(config)
    ids = np.random.default_rng(1).integers(0, config.vocabulary, (3, config.max_tokens), np.int32)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(ids).long()).last_hidden_state
    got = run(transplanted(config, theirs), ids)
    assert distance(got, wanted.numpy()) <= TOLERANCE


def test_a_token_sees_no_later_one_and_a_shorter_text_is_the_beginning_of_a_longer():
    config = TEXT[0]
    model = transplanted(config, torch_text(config))
    ids = np.arange(11, dtype=np.int32)[None]
    whole, other = run(model, ids), run(model, np.where(ids < 7, ids, 59))
    np.testing.assert_array_equal(whole[:, :7], other[:, :7])
    assert (whole[:, 7:] != other[:, 7:]).any(-1).all()
    np.testing.assert_allclose(run(model, ids[:, :7]), whole[:, :7], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("tower", "config"), [("vision", VISION[0]), ("text", TEXT[0])])
def test_a_tower_split_over_a_mesh_gives_the_same(tower, config):
    with meshes.unplaced():
        model = config.build(rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    if tower == "vision":
        inputs = rng.normal(size=(2, 20, 20, 3)).astype(np.float32)
    else:
        inputs = rng.integers(0, config.vocabulary, (2, 11), np.int32)
    whole = run(model, inputs)
    mesh = meshes.MeshConfig(data=2, fsdp=2, tensor=2).build()
    state = nnx.state(model, nnx.Param)
    placed = meshes.put(state, meshes.shardings(state, mesh))
    split = [leaf for leaf in jax.tree.leaves(placed) if not leaf.sharding.is_fully_replicated]
    assert len(split) > len(jax.tree.leaves(placed)) / 3
    nnx.update(model, placed)
    assert distance(run(model, inputs), whole) <= TOLERANCE


def test_bfloat16_weights_compute_in_the_configured_type():
    config = VISION[0]
    model = transplanted(config, torch_vision(config))
    pixels = np.random.default_rng(1).normal(size=(2, 20, 20, 3)).astype(np.float32)
    exact = run(model, pixels)
    nnx.update(model, jax.tree.map(lambda a: a.astype(jnp.bfloat16), nnx.state(model, nnx.Param)))
    got = run(model, pixels)
    assert got.dtype == np.float32 and 0 < distance(got, exact) < 0.05


@pytest.mark.parametrize(
    ("config", "count"), [(CLIP_VIT_H, 632_076_800), (CLIP_TEXT_SD21, 340_387_840)]
)
def test_the_published_sizes(config, count):
    model = meshes.build_abstract(lambda: config.build(rngs=nnx.Rngs(0)))
    shapes = [leaf.shape for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]
    assert sum(map(np.prod, shapes)) == count


def test_wrong_sizes_are_refused():
    with pytest.raises(Refusal, match="width of 10 does not divide into 4 heads"):
        CLIPTextConfig(width=10, heads=4)
    with pytest.raises(Refusal, match="layers is 0"):
        CLIPVisionConfig(layers=0)
    with pytest.raises(Refusal, match="224 pixels does not divide into patches of 15"):
        CLIPVisionConfig(patch_size=15)
    vision = meshes.build_abstract(lambda: VISION[0].build(rngs=nnx.Rngs(0)))
    with pytest.raises(Refusal, match="pictures are 16x20; this image encoder takes 20x20"):
        nnx.eval_shape(vision, jnp.zeros((1, 16, 20, 3)))
    text = meshes.build_abstract(lambda: TEXT[0].build(rngs=nnx.Rngs(0)))
    with pytest.raises(Refusal, match="12 tokens; at most 11"):
        nnx.eval_shape(text, jnp.zeros((1, 12), int))
