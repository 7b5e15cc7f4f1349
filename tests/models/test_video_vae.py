"""The autoencoder over frames, rows and columns: sizes, what depends on what, and pieces."""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vdm_jax.core import mesh as meshes
from vdm_jax.core.config import from_json, to_json
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.vae import VAEConfig
from vdm_jax.models.video_vae import LVDM_AE, VideoVAEConfig
from vdm_jax.nn.pieces import Chunked, Overlapped, Trimmed

TINY = VideoVAEConfig(widths=(4, 8, 8), time_stride=4, groups=4)
LATENTS = (1, 24, 2, 2, 4)


def build(config):
    """An autoencoder whose zero-initialised layers hold noise, as after training."""
    with meshes.unplaced():
        graph, state = nnx.split(config.build(rngs=nnx.Rngs(0)), nnx.Param)
    rng = np.random.default_rng(0)
    return graph, jax.tree.map(
        lambda a: a + jnp.asarray(rng.normal(0, 0.1, a.shape), jnp.float32), state
    )


class Compiled:
    """Both directions of an autoencoder, compiled."""

    def __init__(self, config):
        graph, self.state = build(config)
        self._encode = jax.jit(lambda state, x: nnx.merge(graph, state).encode_video(x))
        self._decode = jax.jit(lambda state, z: nnx.merge(graph, state).decode(z))

    def encode(self, video):
        return self._encode(self.state, video)

    def decode(self, latents):
        return self._decode(self.state, latents)


@pytest.fixture(scope="module")
def tiny():
    return Compiled(TINY)


def video_of(key, frames=8):
    return jax.random.uniform(key, (1, frames, 8, 12, 3), minval=-1)


def largest(change, axes):
    return np.asarray(jnp.abs(change).max(axes))


def test_the_preset_has_its_sizes_and_parameter_count():
    model = meshes.build_abstract(lambda: LVDM_AE.build(rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == PARAMETERS
    graph, state = nnx.split(model)
    video = jax.ShapeDtypeStruct((2, 16, 256, 256, 3), jnp.float32)
    posterior = jax.eval_shape(lambda s, x: nnx.merge(graph, s).encode_video(x), state, video)
    assert posterior.mean.shape == posterior.logvar.shape == (2, 4, 32, 32, 4)
    back = jax.eval_shape(lambda s, z: nnx.merge(graph, s).decode(z), state, posterior.mean)
    assert back.shape == video.shape


def by_hand(widths, blocks, channels):
    """Numbers of an autoencoder of three levels that halves frames twice."""
    conv = lambda i, o: 27 * i * o + o  # noqa: E731
    block = lambda c: 2 * conv(c, c) + 4 * c  # noqa: E731
    windows = (64, 64, 48)
    down = conv(3, widths[0]) + conv(widths[-1], 2 * channels) + 2 * widths[-1]
    for (i, o), window in zip(pairwise(widths), windows, strict=True):
        down += window * i * o + o + blocks * block(o)
    up, entering = conv(widths[1], 3), channels
    for o, window in zip(widths[:0:-1], windows, strict=True):
        up += window * entering * o + o + (blocks + 1) * block(o)
        entering = o
    quant = lambda c: c * c + c  # noqa: E731
    return down + up + quant(2 * channels) + quant(channels)


PARAMETERS = by_hand((32, 64, 128, 256), 1, 4)


@pytest.mark.parametrize("n", [0, 1, 5])
def test_the_papers_long_videos_fit(n):
    """52 + 48n frames are 4K - 3 latent frames, K = 4 + 3n of which were predicted."""
    assert LVDM_AE.frames(52 + 48 * n) == 4 * (4 + 3 * n) - 3
    assert LVDM_AE.frames(16) == 4


def test_frames_of_pictures_are_latents_of_their_own():
    assert VAEConfig().frames(25) == 25 and VAEConfig().time_stride == 1


def test_a_latent_frame_stands_for_its_own_frames(key):
    """What it depends on lies alike on both sides of its four frames."""
    graph, state = build(TINY)

    @jax.jit
    def by_frames(state, video):
        of_latent = lambda x: nnx.merge(graph, state).encode_video(x).mean[:, 12].sum()  # noqa: E731
        return jax.grad(of_latent)(video)

    seen = np.flatnonzero(largest(by_frames(state, video_of(key, 96)), (0, 2, 3, 4)))
    assert 4 < len(seen) < 96 and seen[0] + seen[-1] == 2 * (4 * 12 + 1.5)


def test_the_order_of_frames_matters(tiny, key):
    video = video_of(key)
    latents = tiny.encode(video).mean
    swapped = tiny.encode(video[:, np.array([1, 0, 2, 3, 4, 5, 6, 7])]).mean
    assert largest(swapped - latents, None) > 1e-2
    backwards = tiny.encode(video[:, ::-1]).mean[:, ::-1]
    assert largest(backwards - latents, None) > 1e-2
    turned = tiny.decode(latents[:, ::-1])[:, ::-1]
    assert largest(turned - tiny.decode(latents), None) > 1e-2


def test_videos_do_not_see_each_other(tiny, key):
    video = jnp.concatenate([video_of(key), video_of(jax.random.key(1))])
    mean = tiny.encode(video).mean
    np.testing.assert_allclose(tiny.encode(video[1:]).mean, mean[1:], atol=1e-5)
    np.testing.assert_allclose(tiny.decode(mean[:1]), tiny.decode(mean)[:1], atol=1e-4)


def test_the_ends_of_a_still_video_are_like_its_middle(tiny, key):
    still = jnp.repeat(video_of(key, 1), 16, axis=1)
    mean = tiny.encode(still).mean
    np.testing.assert_allclose(mean, jnp.broadcast_to(mean[:, :1], mean.shape), atol=1e-5)


def test_a_frame_depends_on_nothing_beyond_the_reach(tiny, key):
    assert (TINY.reach, LVDM_AE.reach) == (4, 6)
    latents = jax.random.normal(key, LATENTS)
    moved = tiny.decode(latents.at[:, 12].add(3.0)) - tiny.decode(latents)
    seen = np.flatnonzero(largest(moved, (0, 2, 3, 4)))
    assert (seen[0] // 4, seen[-1] // 4) == (12 - TINY.reach, 12 + TINY.reach)
    assert seen[0] + seen[-1] == 2 * (4 * 12 + 1.5)  # alike on both sides of its four frames


def test_with_twice_the_reach_in_common_pieces_are_the_whole(tiny, key):
    latents = jax.random.normal(key, LATENTS)
    whole = tiny.decode(latents)
    scale = float(jnp.abs(whole).max())
    pieces = Trimmed(12, 2 * TINY.reach)(tiny.decode)(latents)
    np.testing.assert_allclose(pieces, whole, atol=1e-5 * scale)

    def error(part):
        return float(jnp.abs(part(tiny.decode)(latents) - whole).mean())

    assert 1e-4 * scale < error(Trimmed(8, 4)) < 0.5 * error(Chunked(8))
    assert error(Trimmed(8, 4)) < error(Overlapped(8, 4))


def test_gradients_are_finite_and_reach_every_parameter(key):
    graph, state = build(TINY)
    video = video_of(key)

    @jax.jit
    def gradients(state, video):
        def loss(state, video):
            model = nnx.merge(graph, state)
            posterior = model.encode_video(video)
            again = model.decode(posterior.sample(key))
            return ((again - video) ** 2).mean() + (posterior.logvar**2).mean()

        return jax.grad(loss, (0, 1))(state, video)

    of_state, of_video = gradients(state, video)
    assert largest(of_video, None) > 0
    for path, gradient in nnx.to_flat_state(of_state):
        assert jnp.isfinite(gradient[...]).all(), path
        assert jnp.abs(gradient[...]).max() > 0, path


def test_bfloat16_is_near_float32(tiny, key):
    half = Compiled(replace(TINY, dtype="bfloat16"))
    latents = jax.random.normal(key, (1, 2, 2, 2, 4))
    got, wanted = half.decode(latents), tiny.decode(latents)
    assert got.dtype == jnp.float32
    assert 1e-4 < jnp.linalg.norm(got - wanted) / jnp.linalg.norm(wanted) < 0.05


def test_a_mesh_changes_nothing(tiny, key):
    video = jnp.concatenate([video_of(key), video_of(jax.random.key(1))])
    alone = tiny.encode(video).mean
    with jax.set_mesh(MeshConfig(data=2, context=4).build()):
        graph, state = build(TINY)
        apart = jax.jit(lambda s, x: nnx.merge(graph, s).encode_video(x).mean)(state, video)
    np.testing.assert_allclose(apart, alone, atol=1e-5)


def test_every_matrix_names_its_logical_axes():
    model = meshes.build_abstract(lambda: TINY.build(rngs=nnx.Rngs(0)))
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        if path[-1] == "kernel":
            names = variable.get_metadata()["out_sharding"]
            assert len(names) == len(variable.shape) and any(names), path


def test_a_config_survives_json():
    assert from_json(to_json(TINY)) == TINY


def test_whose_latents_are_the_same():
    assert TINY.encodes_as(replace(TINY, dtype="bfloat16"))
    assert not TINY.encodes_as(replace(TINY, scaling_factor=0.5))
    assert not TINY.encodes_as(VAEConfig()) and not VAEConfig().encodes_as(TINY)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"time_stride": 8}, "time_stride is 8; 3 levels allow 1, 2, 4"),
        ({"time_stride": 3}, "time_stride is 3"),
        ({"widths": (8,)}, "at least two levels"),
        ({"widths": (4, 6)}, "6 channels do not divide into 4 groups"),
        ({"blocks": 0}, "blocks is 0; it must be at least 1"),
        ({"scaling_factor": float("inf")}, "scaling_factor is inf; it must be positive"),
    ],
)
def test_refuses_an_impossible_configuration(changes, words):
    with pytest.raises(Refusal, match=words):
        replace(TINY, **changes)


def test_refuses_what_it_cannot_take():
    model = meshes.build_abstract(lambda: TINY.build(rngs=nnx.Rngs(0)))
    with pytest.raises(Refusal, match="a video of 6 frames; this autoencoder takes multiples of 4"):
        model.encode_video(jnp.zeros((1, 6, 8, 8, 3)))
    with pytest.raises(Refusal, match=r"frames are 8x6; .* multiples of 4"):
        model.encode_video(jnp.zeros((1, 4, 8, 6, 3)))
    with pytest.raises(Refusal, match=r"latents have 3 channels; .* takes 4"):
        model.decode(jnp.zeros((1, 1, 4, 4, 3)))
