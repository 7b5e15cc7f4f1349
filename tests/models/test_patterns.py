"""Both networks with other patterns of attention, and with tokens of each frame."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.core.config import from_json, override, to_json
from vdm_jax.core.mesh import build_abstract
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.cond import Cond, Tokens
from vdm_jax.models.svd_unet import SVDUNetConfig
from vdm_jax.models.vdm_unet import VDMUNetConfig
from vdm_jax.nn.mixing import FrameByFrame, SpaceTime
from vdm_jax.nn.patterns import AllFrames, Ends, Full, OwnFrame, Sliding, SparseCausal

VDM = VDMUNetConfig(
    channels=8, multipliers=(1,), blocks=1, space_attention=(0,), time_attention=(0,),
    heads=2, head_size=4, groups=2, token_width=5,
)  # fmt: skip
SVD = SVDUNetConfig(
    in_channels=3, out_channels=3, widths=(8,), attention_levels=(), heads=(2,), blocks=1,
    context="text", context_width=5, vec_features=None, groups=2,
)  # fmt: skip
SHAPE = (2, 7, 4, 4, 3)


def patterned(config, time=AllFrames(), space=OwnFrame()):  # noqa: B008
    if isinstance(config, VDMUNetConfig):
        return replace(config, time_pattern=time, space_pattern=space)
    return replace(config, mixing=SpaceTime(time, space))


@cache
def weights(config):
    """Random ones, of the network with today's patterns."""
    _, state = nnx.split(build_abstract(lambda: config.build(rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(0)

    def drawn(leaf):
        return jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32)

    return jax.tree.map(drawn, state)


@cache
def program(config):
    graph, state = nnx.split(build_abstract(lambda: config.build(rngs=nnx.Rngs(0))))
    return jax.jit(lambda s, *args: nnx.merge(graph, s)(*args)), jax.tree.structure(state)


def output(config, plain, z, cond):
    """Of the network of a config with the weights of another."""
    run, structure = program(config)
    assert structure == jax.tree.structure(weights(plain))
    return run(weights(plain), z, jnp.linspace(-1, 1, 2 * z.shape[1]).reshape(2, -1), cond)


def video(t=7):
    return jax.random.normal(jax.random.key(1), (2, t, *SHAPE[2:]))


def text(frames=()):
    embedding = jax.random.normal(jax.random.key(2), (2, *frames, 3, 5))
    return Tokens(embedding, jnp.ones(embedding.shape[:-1], bool))


@pytest.mark.parametrize("plain", [VDM, SVD], ids=["vdm", "svd"])
def test_trained_weights_run_with_any_pattern(plain):
    z, cond = video(), Cond(tokens={"text": text()})
    usual = output(plain, plain, z, cond)
    short = output(patterned(plain, time=Sliding(7, 2)), plain, z, cond)
    np.testing.assert_array_equal(short, usual)
    for parts in ({"time": Sliding(4, 2)}, {"space": Ends()}):
        moved = np.abs(output(patterned(plain, **parts), plain, z, cond) - usual).max((2, 3, 4))
        assert np.isfinite(moved).all() and (moved > 1e-4).all()


def test_one_frame_is_one_big_picture_to_the_bit():
    z, cond = video(1), Cond(tokens={"text": text()})
    full = output(patterned(SVD, space=Full()), SVD, z, cond)
    np.testing.assert_array_equal(full, output(SVD, SVD, z, cond))


def test_pictures_stay_alone_under_every_pattern():
    """A picture beside a video of the small network comes out as it does by itself."""
    image_only = jnp.array([[False, False, True, False, False, False, True]] * 2)
    z, cond = video(), Cond(image_only=image_only)
    pictures = np.asarray(image_only)
    for space in (Full(), SparseCausal()):
        config = patterned(VDM, Sliding(4, 2), space)
        got = output(config, VDM, z, cond)
        shifted = jnp.where(image_only[..., None, None, None], z, z + 1)
        other = output(config, VDM, shifted, cond)
        np.testing.assert_allclose(got[pictures], other[pictures], atol=1e-6)
        assert np.abs(got - other)[~pictures].max() > 1e-3
        shifted = jnp.where(image_only[..., None, None, None], z + 1, z)
        other = output(config, VDM, shifted, cond)
        np.testing.assert_array_equal(got[~pictures], other[~pictures])


@pytest.mark.parametrize("plain", [VDM, SVD], ids=["vdm", "svd"])
def test_tokens_that_are_alike_in_all_frames_are_those_of_the_video(plain):
    tokens, z = text(), video()
    alike = jax.tree.map(lambda a: jnp.repeat(a[:, None], 7, axis=1), tokens)
    for config in (plain, patterned(plain, time=Sliding(4, 2))):
        of_video = output(config, plain, z, Cond(tokens={"text": tokens}))
        of_frames = output(config, plain, z, Cond(tokens={"text": alike}))
        np.testing.assert_allclose(of_frames, of_video, atol=2e-5)


@pytest.mark.parametrize("plain", [VDM, replace(SVD, mixing=FrameByFrame())], ids=["vdm", "svd"])
def test_tokens_are_those_of_their_frame(plain):
    """Where frames do not mix, nothing else changes."""
    tokens, z, alone = text((7,)), video(), jnp.ones((2, 7), bool)
    other = replace(tokens, embedding=tokens.embedding.at[:, 4].multiply(-1))
    before = output(plain, plain, z, Cond(tokens={"text": tokens}, image_only=alone))
    after = output(plain, plain, z, Cond(tokens={"text": other}, image_only=alone))
    moved = np.abs(after - before).max((2, 3, 4))
    assert (moved[:, 4] > 1e-4).all() and (np.delete(moved, 4, axis=1) == 0).all()


def test_refuses_tokens_of_another_number_of_frames():
    for plain in (VDM, SVD):
        with pytest.raises(Refusal, match="tokens are for 5 frames; the video has 7"):
            output(plain, plain, video(), Cond(tokens={"text": text((5,))}))


def test_patterns_are_stored_and_tuned():
    vdm = patterned(VDM, time=Sliding(8, 2), space=Ends())
    assert from_json(to_json(vdm)) == vdm
    tuned = override(vdm, ["--time-pattern.stride", "4"], "x")
    assert tuned == replace(vdm, time_pattern=Sliding(8, 4))
    for mixing in (SpaceTime(Sliding(8, 2), Full()), FrameByFrame(SparseCausal())):
        svd = replace(SVD, mixing=mixing)
        assert from_json(to_json(svd)) == svd
