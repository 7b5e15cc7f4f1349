"""The network of FID equals its definition, weights through the converter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from reference import inception as reference

from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.inception import FID_INCEPTION, NETWORK, InceptionConfig, filters


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Our network at a sixteenth of its width, and the definition with the same weights."""
    return reference.pair(1, tmp_path_factory.mktemp("inception"))


def compared(ours, theirs, height, width):
    x = np.random.default_rng(0).uniform(-1, 1, (2, height, width, 3)).astype("float32")
    got = jax.jit(ours)(jnp.asarray(x))
    wanted = theirs(torch.tensor(x).permute(0, 3, 1, 2))
    for a, b in zip(got, wanted, strict=True):
        scale = np.abs(b.numpy()).max()
        np.testing.assert_allclose(a, b.numpy(), rtol=0, atol=1e-5 * scale)
    assert np.abs(np.diff(wanted[0].numpy(), axis=0)).max() > 0.01 * scale


@pytest.mark.parity
@pytest.mark.parametrize(("height", "width"), [(107, 139), (75, 75)])
def test_it_equals_its_definition(both, height, width):
    compared(*both, height, width)


@pytest.mark.slow
@pytest.mark.parity
def test_it_equals_its_definition_at_full_size(tmp_path):
    compared(*reference.pair(16, tmp_path), 299, 299)


def test_it_has_its_published_size():
    """pytorch-fid's file: each batch norm has four numbers where one bias is left; and a bias."""
    model = meshes.build_abstract(lambda: FID_INCEPTION.build(rngs=nnx.Rngs(0)))
    state = nnx.state(model, nnx.Param)
    biases = sum(leaf.shape[0] for leaf in jax.tree.leaves(state) if leaf.ndim == 1)
    size = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert (size, size + 3 * biases + 1008) == (23_832_736, 23_885_392)
    assert len(list(filters(NETWORK))) == 94
    seen = jax.eval_shape(lambda m, x: m(x), model, jnp.zeros((2, 299, 299, 3)))
    assert (seen.features.shape, seen.logits.shape) == ((2, 2048), (2, 1008))


def test_what_it_cannot_see_is_refused(both):
    with pytest.raises(Refusal, match="at least 75x75, got 74x80"):
        both[0](jnp.zeros((1, 74, 80, 3)))
    with pytest.raises(Refusal, match="at least 1, got 0"):
        InceptionConfig(unit=0)
