import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.conditioning.drop import drop, null
from vdm_jax.conditioning.prompts import along, prompt_shares
from vdm_jax.core.refusal import Refusal
from vdm_jax.diffusion.guidance import cfg
from vdm_jax.diffusion.level import Level
from vdm_jax.models.cond import Cond, Tokens


def prompt(number, real=(True, True, False)):
    mask = jnp.broadcast_to(jnp.array(real)[None], (2, 3))
    return Tokens(jnp.where(mask[..., None], float(number), 0.0) * jnp.ones((2, 3, 4)), mask)


def test_prompts_hold_for_three_eighths_and_blend_between():
    first, blend = [[1.0, 0.0]] * 3, [[0.75, 0.25], [0.25, 0.75]]
    np.testing.assert_allclose(prompt_shares(2, 8), [*first, *blend, *np.flip(first, 1)])
    three = prompt_shares(3, 16)
    np.testing.assert_allclose(three[:8, :2], prompt_shares(2, 8))
    np.testing.assert_allclose(three[8:, 1:], prompt_shares(2, 8))
    assert (three[:8, 2] == 0).all() and (three[8:, 0] == 0).all()


@pytest.mark.parametrize("prompts", [1, 2, 3, 5])
@pytest.mark.parametrize("frames", [1, 2, 7, 64])
def test_shares_of_any_number_of_prompts_over_any_number_of_frames(prompts, frames):
    shares = prompt_shares(prompts, frames)
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-6)
    assert (shares >= 0).all() and ((shares > 0).sum(1) <= 2).all()
    middle = shares @ np.arange(prompts)
    assert (np.diff(middle) >= 0).all()
    np.testing.assert_allclose(middle + middle[::-1], prompts - 1, atol=1e-5)
    if frames >= 2 * prompts:
        assert shares[0, 0] == shares[-1, -1] == 1


def test_tokens_are_blended_and_real_where_one_of_the_prompts_has_them():
    tokens = along([prompt(1), prompt(3, (True, False, False))], 8)
    assert tokens.embedding.shape == (2, 8, 3, 4) and tokens.mask.shape == (2, 8, 3)
    by_frame = np.asarray(tokens.embedding)[1, :, :, 2]
    np.testing.assert_allclose(by_frame[:, 0], [1, 1, 1, 1.5, 2.5, 3, 3, 3])
    np.testing.assert_allclose(by_frame[:, 1], [1, 1, 1, 0.75, 0.25, 0, 0, 0])
    assert tokens.mask[0, :, 0].all() and not tokens.mask[:, :, 2].any()
    assert tokens.mask[1, :, 1].tolist() == [True] * 5 + [False] * 3


def test_refuses_prompts_that_do_not_match():
    with pytest.raises(Refusal, match="must be the same"):
        along([], 4)
    with pytest.raises(Refusal, match="must be the same"):
        along([prompt(1), Tokens(jnp.zeros((2, 5, 4)), jnp.ones((2, 5), bool))], 4)


def test_tokens_of_frames_are_guided_and_dropped_like_those_of_videos(key):
    cond = Cond(tokens={"text": along([prompt(1), prompt(3)], 8)})

    def denoise(z, level, cond):
        said = cond.tokens["text"].by_frame(8)
        told = (said.embedding * said.mask[..., None]).sum((2, 3))
        return 0 * z + (1 + told**2)[:, :, None, None, None]

    z, level = jax.random.normal(key, (2, 8, 1, 1, 1)), Level(jnp.ones(()), jnp.ones(()))
    free = denoise(z, level, null(cond, ("tokens",)))
    told = denoise(z, level, cond)
    assert (free == 1).all() and jnp.ptp(told) > 1
    guided = cfg(denoise, lambda cond: null(cond, ("tokens",)), 3.0)(z, level, cond)
    np.testing.assert_allclose(guided, free + 3 * (told - free), rtol=1e-6)

    many = jax.tree.map(lambda a: jnp.tile(a, (100, *(1,) * (a.ndim - 1))), cond)
    mask = np.asarray(drop(many, key, {"tokens": 0.5}).tokens["text"].mask).any(2)
    assert (mask == mask[:, :1]).all() and 0.3 < mask[:, 0].mean() < 0.7
