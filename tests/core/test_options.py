"""A verb's own options, told apart from those of its config."""

import pytest

from vdm_jax.core import options
from vdm_jax.core.refusal import Refusal


def own(*args):
    return options.own(args, ("--input",), ("--help",), ("--weights",))


def test_lists_take_several_values_and_may_be_given_again():
    found = own("--weights", "a=1", "b=2", "--input", "x", "--weights=c=3", "--size", "4", "--help")
    assert found.lists == {"--weights": ["a=1", "b=2", "c=3"]}
    assert found.values == {"--input": "x"} and found.switches == {"--help"}
    assert found.rest == ["--size", "4"]


def test_an_option_without_its_value_is_refused():
    assert own().lists == {"--weights": []}
    for name in ("--weights", "--input"):
        with pytest.raises(Refusal, match=f"{name} needs a value"):
            own(name, "--help")
