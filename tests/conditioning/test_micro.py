"""The three numbers of micro-conditioning."""

import jax.numpy as jnp
import numpy as np
import pytest

from vdm_jax.conditioning.micro import check_micro, micro
from vdm_jax.core.refusal import Refusal

USUAL = {"fps": 7, "motion_bucket_id": 127, "noise_aug_strength": 0.02}


def test_every_frame_is_told_the_frame_rate_less_one_the_motion_and_the_noise():
    vec = micro(jnp.array([7.0, 25.0]), jnp.array([127.0, 3.0]), jnp.array([0.02, 0.0]), 4)
    assert vec.shape == (2, 4, 3) and vec.dtype == jnp.float32
    wanted = np.array([[6, 127, 0.02], [24, 3, 0]], np.float32)
    np.testing.assert_array_equal(vec, np.repeat(wanted[:, None], 4, axis=1))


def test_usual_values_pass_and_others_are_refused_by_name():
    check_micro(**USUAL)
    wrong = {
        "fps": (0.5, float("nan"), 1001),
        "motion_bucket_id": (-1, 1024, float("inf")),
        "noise_aug_strength": (-0.01, 10.5, float("nan")),
    }
    for name, values in wrong.items():
        for value in values:
            with pytest.raises(Refusal, match=f"{name} is {value}; it must be from"):
                check_micro(**{**USUAL, name: value})
