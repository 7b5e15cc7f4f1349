"""The patch discriminator equals the original's convolutions, and judges each patch by itself."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.patch_discriminator import PatchDiscriminatorConfig

FRAMES = PatchDiscriminatorConfig(channels=8, layers=2, groups=4)
CLIPS = replace(FRAMES, kernel_frames=3)


def drawn(config):
    """A model of which every weight counts."""
    with meshes.unplaced():
        model = config.build(rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda a: a + 0.1 * rng.standard_normal(a.shape, np.float32), params)
    return nnx.merge(graphdef, params)


@pytest.fixture(scope="module")
def frames():
    return drawn(FRAMES)


@pytest.fixture(scope="module")
def clips():
    return drawn(CLIPS)


def videos(seed=0, count=2, num_frames=3, size=24):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.uniform(-1, 1, (count, num_frames, size, size, 3)), "float32")


def torch_answer(model, video, dtype=torch.float64):
    """NLayerDiscriminator's layers with group norm in place of batch norm, in torch."""
    functional, tensor = torch.nn.functional, lambda a: torch.tensor(np.asarray(a)).to(dtype)
    b, t = video.shape[:2]
    x = tensor(video).flatten(0, 1).permute(0, 3, 1, 2)
    strides = [2] * FRAMES.layers + [1, 1]
    for number, (layer, stride) in enumerate(zip(model.layers, strides, strict=True)):
        kernel = tensor(layer.space.kernel[...]).permute(3, 2, 0, 1)
        x = functional.conv2d(x, kernel, tensor(layer.space.bias[...]), stride, padding=1)
        if 0 < number < len(strides) - 1:
            norm = model.norms[number - 1]
            scale, shift = tensor(norm.scale[...]), tensor(norm.shift[...])
            x = functional.group_norm(x, FRAMES.groups, scale, shift)
        if number < len(strides) - 1:
            x = functional.leaky_relu(x, 0.2)
    return x[:, 0].unflatten(0, (b, t)).numpy()


@pytest.mark.parity
def test_it_equals_the_original_but_for_the_norm(frames):
    """As near to float64 as torch's own float32 is, which depends on the processor."""
    video = videos()
    exact, theirs = (torch_answer(frames, video, d) for d in (torch.float64, torch.float32))
    floor = np.abs(theirs - exact).max()
    assert 0 < floor < 4e-6
    np.testing.assert_allclose(frames(video), exact, rtol=0, atol=1.5 * floor)


def test_frames_are_judged_alone_and_clips_together(frames, clips):
    video = videos()
    other = video.at[:, 1].set(videos(1)[:, 1])
    alone = np.abs(np.asarray(frames(video) - frames(other))).max((0, 2, 3))
    together = np.abs(np.asarray(clips(video) - clips(other))).max((0, 2, 3))
    assert alone[0] == 0 < alone[1] and alone[2] == 0
    assert (together > 1e-5).all()


def test_order_of_frames_counts_in_clips(clips):
    """Statistics alone would not see it."""
    video = videos()
    turned = np.asarray(clips(video[:, ::-1]))[:, ::-1]
    assert np.abs(turned - np.asarray(clips(video))).max() > 1e-4


def test_samples_do_not_see_each_other(clips):
    video = videos()
    np.testing.assert_allclose(clips(video)[:1], clips(video[:1]), rtol=0, atol=1e-6)


def test_the_published_shape():
    """The original has 2,765,633 parameters, and no biases where a norm follows."""
    make = lambda: PatchDiscriminatorConfig().build(rngs=nnx.Rngs(0))  # noqa: E731
    sizes = [leaf.size for leaf in jax.tree.leaves(nnx.state(meshes.build_abstract(make)))]
    assert sum(sizes) == 2_765_633 + 128 + 256 + 512
    with meshes.unplaced():
        answer = jax.eval_shape(lambda video: make()(video), jnp.zeros((1, 2, 64, 64, 3)))
    assert answer.shape == (1, 2, 6, 6)


def test_what_cannot_be_is_refused(frames):
    with pytest.raises(Refusal, match=r"at least 12x12, got \(11, 24\)"):
        frames(jnp.zeros((1, 1, 11, 24, 3)))
    assert frames(jnp.zeros((1, 1, 12, 12, 3))).shape == (1, 1, 1, 1)
    with pytest.raises(Refusal, match="kernel_frames must be odd, got 2"):
        replace(FRAMES, kernel_frames=2)
    with pytest.raises(Refusal, match="a multiple of groups, got 6, 2 and 4"):
        replace(FRAMES, channels=6)
