"""The network against diffusers' own, small, every parameter random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from flax import nnx

from vdm_jax.convert.rules import Table, moves
from vdm_jax.convert.unet import UNET
from vdm_jax.core.mesh import build_abstract
from vdm_jax.models.cond import Cond, Tokens
from vdm_jax.models.svd_unet import SVDUNetConfig

pytestmark = pytest.mark.parity

BAR = 2e-5  # relative L2
SIGMAS = np.array([0.002, 0.1, 1.0, 30.0, 700.0], np.float32)
SMALL = SVDUNetConfig(
    widths=(64, 128), attention_levels=(0,), heads=(2, 4), blocks=1, context_width=16, vec_width=8
)
DEEP = SVDUNetConfig(
    widths=(64, 96, 128),
    attention_levels=(0, 1),
    heads=(1, 3, 2),
    blocks=2,
    context_width=24,
    vec_width=16,
)
LAYERED = SVDUNetConfig(
    in_channels=9,
    widths=(96, 64),
    attention_levels=(0, 1),
    heads=(3, 4),
    blocks=1,
    transformer_layers=(1, 2),
    context_width=40,
    vec_width=32,
)
CASES = {
    # configuration; videos, frames, height, width; tokens
    "one token": (SMALL, (2, 3, 8, 8), 1),
    "odd sizes, several tokens": (DEEP, (2, 2, 7, 10), 5),
    "one frame, two layers": (LAYERED, (2, 1, 6, 5), 1),
}


def theirs(config):
    """diffusers' network of this configuration, every parameter drawn anew."""
    levels = range(len(config.widths))
    kinds = ["CrossAttn" if level in config.attention_levels else "" for level in levels]
    model = UNetSpatioTemporalConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        down_block_types=tuple(f"{kind}DownBlockSpatioTemporal" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlockSpatioTemporal" for kind in reversed(kinds)),
        block_out_channels=config.widths,
        addition_time_embed_dim=config.vec_width,
        projection_class_embeddings_input_dim=config.vec_width * config.vec_features,
        layers_per_block=config.blocks,
        cross_attention_dim=config.context_width,
        transformer_layers_per_block=config.layers,
        num_attention_heads=config.heads,
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape)
            if weight.ndim > 1:
                drawn = drawn / weight[0].numel() ** 0.5
            elif "norm" in name and name.endswith("weight"):
                drawn = 1 + 0.3 * drawn
            weight.copy_(drawn)
        model.conv_in.weight.mul_(0.01)  # so that the eps of the first norms is heard
        model.conv_in.bias.mul_(0.01)
    return model.eval()


def ours(config, torch_model):
    """Our network with their weights."""
    model = build_abstract(lambda: config.build(rngs=nnx.Rngs(0)))
    given = {name: weight.numpy() for name, weight in torch_model.state_dict().items()}
    parameters = {
        "/".join(map(str, path)): variable
        for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }
    shapes = ({name: array.shape for name, array in side.items()} for side in (given, parameters))
    ready, wrong = moves(*shapes, Table(UNET))
    assert not wrong
    for move in ready:
        weight = move.layout.bring(given[move.theirs], move.our_shape)
        parameters[move.ours].set_value(jnp.asarray(weight))
    return model


def inputs(config, sizes, tokens, seed=1):
    """z, the level of each video, cond; all NumPy, features once for each video."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    b = sizes[0]
    z, beside = draw(*sizes, config.out_channels), draw(*sizes, config.concat_channels)
    vec = np.array([[6, 127, 0.02], [11, 40, 0.3]], np.float32)[:b]
    return z, beside, vec, draw(b, tokens, config.context_width)


def ask_theirs(model, z, beside, vec, context, c_noise):
    sample = torch.from_numpy(np.concatenate([z, beside], -1)).permute(0, 1, 4, 2, 3)
    with torch.no_grad():
        given = (torch.from_numpy(a) for a in (c_noise, context, vec))
        return model(sample, *given).sample.permute(0, 1, 3, 4, 2).numpy()


def compiled(model):
    graph, state = nnx.split(model)

    @jax.jit
    def run(state, z, beside, vec, context, c_noise):
        b, t, *_ = z.shape
        tokens = Tokens(context, jnp.ones(context.shape[:2], bool))
        each = jnp.broadcast_to(vec[:, None], (b, t, vec.shape[-1]))
        cond = Cond(tokens={"image": tokens}, vec=each, concat=beside)
        return nnx.merge(graph, state)(z, jnp.broadcast_to(c_noise[:, None], (b, t)), cond)

    return lambda *args: np.asarray(run(state, *args))


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A configuration, inputs, and both networks as functions of them."""
    config, sizes, tokens = CASES[request.param]
    reference = theirs(config)
    return config, inputs(config, sizes, tokens), compiled(ours(config, reference)), reference


def test_equals_diffusers_at_every_level(case):
    _, given, ask_ours, reference = case
    answers = []
    for sigma in SIGMAS:
        c_noise = np.log(np.array([sigma, 0.8 * sigma], np.float32)) / 4
        wanted = ask_theirs(reference, *given, c_noise)
        got = ask_ours(*given, c_noise)
        assert got.shape == wanted.shape
        assert relative(got, wanted) <= BAR, sigma
        answers.append(got)
    assert relative(answers[0], answers[-1]) > 100 * BAR  # the level is heard


def test_the_bar_sees_every_condition(case):
    """Each input of each video, changed a little, moves the output far beyond the bar."""
    _, (z, beside, vec, context), ask_ours, _ = case
    c_noise = np.zeros(2, np.float32)
    out = ask_ours(z, beside, vec, context, c_noise)
    changed = [
        (z, 1.1 * beside, vec, context, c_noise),
        (z, beside, vec + 1, context, c_noise),
        (z, beside, vec, context[::-1], c_noise),
        (z[::-1], beside, vec, context, c_noise),
    ]
    for args in changed:
        assert relative(ask_ours(*args), out) > 50 * BAR
