"""Dropped conditions are the null that guidance and generation use."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.conditioning.drop import SVD_NULL_PORTS, drop, null
from vdm_jax.models.cond import Cond, Tokens

BATCH = 2000


@pytest.fixture
def cond():
    tokens = {"text": Tokens(jnp.ones((BATCH, 3, 2)), jnp.ones((BATCH, 3), bool))}
    return Cond(tokens=tokens, vec=jnp.ones((BATCH, 1, 4)), concat=jnp.ones((BATCH, 1, 2, 2, 1)))


def test_null_clears_the_named_ports_and_no_others(cond):
    cleared = null(cond, ("tokens",))
    assert not cleared.tokens["text"].mask.any() and (cleared.tokens["text"].embedding == 0).all()
    assert (cleared.vec == 1).all() and (cleared.concat == 1).all()


def test_guidance_of_svd_hides_both_pictures_and_keeps_every_other_port(cond):
    cond = replace(cond, image_only=jnp.ones((BATCH, 1), bool))
    unconditional = null(cond, SVD_NULL_PORTS)
    assert (unconditional.tokens["text"].embedding == 0).all()
    assert (unconditional.concat == 0).all()
    kept = {f.name for f in fields(Cond)} - set(SVD_NULL_PORTS)
    assert kept == {"vec", "image_only"}
    assert all(getattr(unconditional, port) is getattr(cond, port) for port in kept)


def test_each_port_drops_by_itself_at_its_own_rate(cond, key):
    dropped = drop(cond, key, {"tokens": 0.3, "concat": 0.1})
    no_text = ~np.asarray(dropped.tokens["text"].mask[:, 0])
    no_picture = np.asarray(dropped.concat[:, 0, 0, 0, 0] == 0)
    assert abs(no_text.mean() - 0.3) < 0.04 and abs(no_picture.mean() - 0.1) < 0.03
    assert abs((no_text & no_picture).mean() - 0.03) < 0.02
    assert (dropped.vec == 1).all()
    np.testing.assert_array_equal(no_text, (dropped.tokens["text"].embedding == 0).all((1, 2)))


def test_an_absent_port_stays_absent(key):
    assert jax.tree.leaves(drop(Cond(), key, {"vec": 1.0})) == []
