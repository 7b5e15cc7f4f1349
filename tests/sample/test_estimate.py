from functools import cache

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from vdm_jax.core.mesh import build_abstract
from vdm_jax.models.clip_vision import CLIPVisionConfig
from vdm_jax.models.cond import Cond, Tokens
from vdm_jax.models.svd_unet import SVDUNetConfig
from vdm_jax.models.vae import SVD_VAE, ImageDecoderConfig, VAEConfig
from vdm_jax.nn.pieces import Chunked
from vdm_jax.nn.platform import compiling_for
from vdm_jax.sample import estimate as estimates
from vdm_jax.sample import flops
from vdm_jax.sample.estimate import Setting, estimate, largest_fitting
from vdm_jax.tasks.task import ModelConfig

UNET = SVDUNetConfig(
    widths=(64, 96),
    heads=(2, 3),
    attention_levels=(0,),
    transformer_layers=(2, 1),
    context_width=16,
    vec_width=8,
)
VAE = VAEConfig(widths=(32, 64), blocks=1, groups=8)
CLIP = CLIPVisionConfig(
    width=32, hidden=64, layers=2, heads=4, patch_size=4, image_size=16, projection=16
)
TINY = ModelConfig(UNET, vae=VAE, image_encoder=CLIP)
FULL = ModelConfig(SVDUNetConfig(), vae=SVD_VAE, image_encoder=CLIPVisionConfig())
PARAMETERS = 2_254_442_729  # of the published model's three parts
ASKED = Setting(num_frames=25, height=576, width=1024)


@cache
def abstract(config):
    return nnx.split(build_abstract(lambda: config.build(rngs=nnx.Rngs(0))), nnx.Param)


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def evaluation(config, batch, frames, height, width):
    """One evaluation of the network as a function, and the shapes that it takes."""
    graphdef, params = abstract(config)

    def run(params, z, c_noise, token, vec, concat):
        tokens = {"image": Tokens(token, jnp.ones(token.shape[:2], bool))}
        cond = Cond(tokens=tokens, vec=vec, concat=concat)
        return nnx.merge(graphdef, params)(z, c_noise, cond)

    latents = floats(batch, frames, height, width, config.out_channels)
    token, vec = floats(batch, 1, config.context_width), floats(batch, frames, 3)
    return run, (params, latents, floats(batch, frames), token, vec, latents)


def counted(run, arguments):
    """Operations of the products and convolutions in a program, as a GPU would run it."""
    with compiling_for("gpu"):
        return _counted(jax.make_jaxpr(run)(*arguments).jaxpr)


def _counted(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        inner = list(jaxprs_in_params(equation.params))
        total += equation.params.get("length", 1) * sum(map(_counted, inner))
        left, right = ([v.aval.shape for v in equation.invars[:2]] + [(), ()])[:2]
        size = equation.outvars[0].aval.size
        if equation.primitive.name == "dot_general":
            (axes, _), _ = equation.params["dimension_numbers"]
            for axis in axes:
                size *= left[axis]
            total += 2 * size
        elif equation.primitive.name == "conv_general_dilated":
            total += 2 * size * right[0] * right[1] * right[2]
    return total


def test_operations_are_those_of_the_program():
    for config in (UNET, SVDUNetConfig(widths=(32, 64), heads=(1, 2), attention_levels=(0, 1))):
        got = flops.network_flops(config, 3, 15, 18)
        assert got == pytest.approx(counted(*evaluation(config, 1, 3, 15, 18)), rel=0.06)
    for config in (VAE, VAEConfig(widths=(32, 64), groups=8, decoder=ImageDecoderConfig())):
        graphdef, params = abstract(config)
        decode = lambda p, z: nnx.merge(graphdef, p).decode(z)  # noqa: E731, B023
        encode = lambda p, x: nnx.merge(graphdef, p).encode(x)  # noqa: E731, B023
        wanted = counted(decode, (params, floats(1, 2, 8, 8, 4)))
        assert 2 * flops.decoder_flops(config, 8, 8) == pytest.approx(wanted, rel=0.02)
        wanted = counted(encode, (params, floats(2, 16, 16, 3)))
        assert 2 * flops.encoder_flops(config, 8, 8) == pytest.approx(wanted, rel=0.02)


def test_operations_are_the_published_ones_but_for_the_attention_to_one_token():
    network, teras = SVDUNetConfig(), 1e12
    assert 2 * flops.network_flops(network, 25, 72, 128) == pytest.approx(159.9 * teras, rel=0.04)
    assert 2 * flops.network_flops(network, 14, 40, 72) == pytest.approx(24.3 * teras, rel=0.05)
    assert flops.decoder_flops(SVD_VAE, 72, 128) == pytest.approx(6.94 * teras, rel=1e-3)
    assert flops.encoder_flops(SVD_VAE, 72, 128) == pytest.approx(2.6 * teras, rel=5e-3)
    assert flops.clip_flops(CLIPVisionConfig()) == pytest.approx(0.33 * teras, rel=0.02)
    assert estimates.flops(FULL, ASKED) == pytest.approx(4170 * teras, rel=0.04)


def test_weights_are_counted_one_by_one():
    leaves = [leaf for part in (UNET, VAE, CLIP) for leaf in jax.tree.leaves(abstract(part)[1])]
    size = sum(leaf.size for leaf in leaves)
    for dtype, each in (("float32", 4), ("bfloat16", 2)):
        setting = Setting(num_frames=2, height=16, width=16)
        assert estimate(TINY, setting, dtype).weights_bytes == each * size


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_a_decoder_takes_no_more_than_estimated(chunk):
    graphdef, params = abstract(VAE)
    decode = lambda p, z: Chunked(chunk)(nnx.merge(graphdef, p).decode)(z)  # noqa: E731
    compiled = jax.jit(decode).lower(params, floats(1, 4, 32, 32, 4)).compile()
    setting = Setting(num_frames=4, height=64, width=64, chunk=chunk)
    assert compiled.memory_analysis().temp_size_in_bytes <= _beside_weights(setting)


def test_a_network_takes_no_more_than_estimated():
    run, arguments = evaluation(UNET, 2, 4, 32, 32)
    compiled = jax.jit(run).lower(*arguments).compile()
    setting = Setting(num_frames=4, height=64, width=64, chunk=1)
    assert compiled.memory_analysis().temp_size_in_bytes <= _beside_weights(setting)


def _beside_weights(setting):
    expected = estimate(TINY, setting, "float32")
    return expected.peak_bytes - expected.weights_bytes


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_more_takes_more(platform, monkeypatch):
    with compiling_for(platform):
        setting = Setting(num_frames=8, height=64, width=64, chunk=8)
        small = estimate(TINY, setting, "float32")
        for changed in ({"num_frames": 16}, {"height": 128}, {"width": 128}, {"batch": 2}):
            larger = estimate(TINY, Setting(**{**vars(setting), **changed}), "float32")
            assert larger.peak_bytes > small.peak_bytes
            assert larger.flops > small.flops


def test_defaults_for_devices_of_16_and_24_gigabytes(monkeypatch):
    """What does not fit is said with the largest setting that does."""
    monkeypatch.setattr(estimates, "count_parameters", lambda model: PARAMETERS)
    for platform in ("gpu", "tpu"):
        with compiling_for(platform):
            short = Setting(num_frames=14, height=576, width=1024, chunk=4)
            assert estimate(FULL, short, "bfloat16").peak_bytes <= 16e9
            assert estimate(FULL, ASKED, "bfloat16").peak_bytes <= 24e9
            fits = largest_fitting(FULL, ASKED, "bfloat16", 16 * 10**9)
            assert fits is not None
            assert (fits.num_frames, fits.height, fits.width) == (25, 576, 1024)
            fits = largest_fitting(FULL, ASKED, "bfloat16", 8 * 10**9)
            assert fits is not None
            assert fits.chunk == 1
            assert largest_fitting(FULL, ASKED, "bfloat16", 4 * 10**9) is None


def test_seconds_on_this_machine():
    second = estimates.seconds(1e12, "float32")
    assert second is not None and 1e-3 < second < 1e4
    memory = estimates.device_memory()
    assert memory is not None and memory > 10**8
