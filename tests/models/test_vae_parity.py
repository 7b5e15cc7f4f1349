"""The autoencoder against diffusers' own, small, all parameters random, in float64 there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder
from flax import nnx

from vdm_jax.convert.rules import Table, moves
from vdm_jax.convert.vae import VAE
from vdm_jax.models.vae import ImageDecoderConfig, TemporalDecoderConfig, VAEConfig
from vdm_jax.nn.pieces import Chunked

pytestmark = pytest.mark.parity

BAR = 5e-6  # relative L2


def with_weights_of(config, torch_model):
    """Our autoencoder with the weights of diffusers'; each is used once."""
    with nnx.use_eager_sharding(False):  # noqa: FBT003
        model = config.build(rngs=nnx.Rngs(0))
    given = {name: weight.numpy() for name, weight in torch_model.state_dict().items()}
    variables = nnx.to_flat_state(nnx.state(model, nnx.Param))
    parameters = {"/".join(map(str, path)): variable for path, variable in variables}
    shapes = {name: weight.shape for name, weight in given.items()}
    ready, wrong = moves(shapes, {k: v.shape for k, v in parameters.items()}, Table(VAE))
    assert not wrong
    for move in ready:
        weight = move.layout.bring(given[move.theirs], move.our_shape)
        parameters[move.ours][...] = jnp.asarray(weight, jnp.float32)
    nnx.update(model, nnx.from_flat_state(variables))
    return model


def randomised(torch_model, seed):
    """Every parameter random, of a size that keeps the layers' outputs of order one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in torch_model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.data = noise * parameter[0].numel() ** -0.5
        else:
            parameter.data = noise * 0.3 + float("norm" in name and "weight" in name)
    return torch_model.double().eval().requires_grad_(requires_grad=False)


def temporal(widths, blocks):
    torch_model = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=blocks,
        latent_channels=4,
    )
    decoder = TemporalDecoderConfig(middle_blocks=min(blocks, 2))
    return torch_model, VAEConfig(widths=widths, blocks=blocks, decoder=decoder)


def image(widths, blocks, groups):
    torch_model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=blocks,
        latent_channels=4,
        norm_num_groups=groups,
    )
    decoder = ImageDecoderConfig()
    return torch_model, VAEConfig(widths=widths, blocks=blocks, groups=groups, decoder=decoder)


MODELS = {
    "two levels": lambda: temporal((32, 64), 2),
    "one block": lambda: temporal((32, 64, 32), 1),
    "four levels": lambda: temporal((32, 32, 64, 64), 2),
    "one level": lambda: temporal((64,), 2),
    "image": lambda: image((32, 64), 2, 16),
    "image, three blocks": lambda: image((16, 32, 16), 3, 8),
}


class Pair:
    """An autoencoder of diffusers and ours with its weights, compiled."""

    def __init__(self, make, seed):
        original, self.config = make()
        self.original = randomised(original, seed)
        graph, state = nnx.split(with_weights_of(self.config, self.original))
        run = {
            "encode": jax.jit(lambda state, x: nnx.merge(graph, state).encode(x)),
            "decode": jax.jit(lambda state, z: nnx.merge(graph, state).decode(z)),
        }
        self.encode = lambda x: run["encode"](state, x)
        self.decode = lambda z: run["decode"](state, z)

    def decoded(self, latents):
        """diffusers' frames of one clip "t h w c"."""
        frames = torch.from_numpy(np.asarray(latents, np.float64)).permute(0, 3, 1, 2)
        temporal = isinstance(self.original, AutoencoderKLTemporalDecoder)
        extra = {"num_frames": len(frames)} if temporal else {}
        return self.original.decode(frames, **extra).sample.permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module", params=MODELS)
def pair(request):
    return Pair(MODELS[request.param], seed=list(MODELS).index(request.param))


@pytest.fixture(scope="module")
def two_levels():
    return Pair(MODELS["two levels"], seed=0)


def error(got, wanted):
    return np.linalg.norm(np.asarray(got) - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("shape", [(1, 3, 3, 5, 4), (2, 1, 4, 2, 4)])
def test_decodes_as_the_original(pair, key, shape):
    latents = jax.random.normal(key, shape)
    wanted = np.stack([pair.decoded(clip) for clip in latents])
    assert error(pair.decode(latents), wanted) < BAR


def test_encodes_as_the_original(pair, key):
    stride = pair.config.stride
    video = jax.random.uniform(key, (3, 3 * stride, 5 * stride, 3), minval=-1)
    given = torch.from_numpy(np.asarray(video, np.float64)).permute(0, 3, 1, 2)
    wanted = pair.original.encode(given).latent_dist
    got = pair.encode(video)
    assert error(got.mode(), wanted.mode().permute(0, 2, 3, 1).numpy()) < BAR
    assert error(got.logvar, wanted.logvar.permute(0, 2, 3, 1).numpy()) < BAR


@pytest.mark.parametrize(("frames", "size"), [(7, 3), (5, 1), (4, 9)])
def test_decodes_in_chunks_as_the_original_pipeline(two_levels, key, frames, size):
    latents = jax.random.normal(key, (1, frames, 2, 3, 4))
    clips = [two_levels.decoded(latents[0, i : i + size]) for i in range(0, frames, size)]
    got = Chunked(size)(two_levels.decode)(latents)
    assert error(got[0], np.concatenate(clips)) < BAR


def test_chunks_of_several_videos_never_mix_them(two_levels, key):
    """The original pipeline cuts the frames of a batch as if they were one video."""
    latents = jax.random.normal(key, (2, 5, 2, 3, 4))
    got = Chunked(3)(two_levels.decode)(latents)
    for video, clip in zip(got, latents, strict=True):
        wanted = np.concatenate([two_levels.decoded(clip[:3]), two_levels.decoded(clip[3:])])
        assert error(video, wanted) < BAR
    flat = latents.reshape(10, 2, 3, 4)
    mixed = np.concatenate([two_levels.decoded(flat[i : i + 3]) for i in (0, 3, 6, 9)])
    assert error(got.reshape(mixed.shape), mixed) > 0.01
    alike = np.concatenate([two_levels.decoded(flat[i : i + 5]) for i in (0, 5)])
    assert error(Chunked(5)(two_levels.decode)(latents).reshape(alike.shape), alike) < BAR
