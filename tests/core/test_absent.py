"""Hardware that is not here is found by name, or refused in one line with what to do."""

from importlib.util import find_spec

import pytest

from vdm_jax.core.absent import absent
from vdm_jax.core.refusal import Refusal


@pytest.mark.parametrize(
    "name", ["", "v5e", "v5e:8", "v5e:2x4x", "h100", "h100:0", "gtx9:1", "2x4"]
)
def test_names_that_mean_no_hardware_are_refused_with_examples(name):
    with pytest.raises(Refusal, match=r"no hardware known here.*v5e:2x4.*h100:8"):
        absent(name)


@pytest.mark.skipif(find_spec("libtpu") is not None, reason="the compiler is here")
def test_a_missing_tpu_compiler_is_named_with_the_command_that_installs_it():
    with pytest.raises(Refusal, match=r"needs libtpu; pip install 'vdm-jax\[tpu\]'"):
        absent("v5e:2x4")


@pytest.mark.skipif(find_spec("jax_cuda12_plugin") is not None, reason="the compiler is here")
def test_a_missing_gpu_compiler_is_named_with_the_command_that_installs_it():
    with pytest.raises(Refusal, match=r"CUDA plugin; pip install 'vdm-jax\[cuda\]'"):
        absent("h200:8")
