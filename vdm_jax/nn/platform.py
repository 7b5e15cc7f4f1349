"""Which formulation of a layer suits the hardware: every layer's table is read here.

The forms of one layer compute the same function; tests hold them equal. They differ in speed,
often several times over, and XLA for CPU, GPU and TPU want opposite ones.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import jax

Form = TypeVar("Form", bound=Callable)


def for_platform(forms: Mapping[str, Form]) -> Form:
    """The form listed for the default backend ("cpu", "gpu" or "tpu")."""
    return forms[jax.default_backend()]
