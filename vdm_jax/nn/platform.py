"""Which formulation of a layer suits the hardware: every layer's table is read here.

The forms of one layer compute the same function; tests hold them equal. They differ in speed,
often several times over, and XLA for CPU, GPU and TPU want opposite ones.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import jax

Form = TypeVar("Form", bound=Callable)

_absent: ContextVar[str | None] = ContextVar("absent", default=None)


def platform() -> str:
    """Where programs traced now will run ("cpu", "gpu" or "tpu"): here, or see `compiling_for`."""
    return _absent.get() or jax.default_backend()


def for_platform(forms: Mapping[str, Form]) -> Form:
    """The form listed for `platform()`."""
    return forms[platform()]


@contextmanager
def compiling_for(target: str) -> Iterator[None]:
    """A block in which programs are traced for one device of a platform that is not here.

    What is traced must be new to `jax.jit`: it keeps what it traced for another platform.
    """
    token = _absent.set(target)
    try:
        yield
    finally:
        _absent.reset(token)


def alone() -> bool:
    """Whether a program traced now runs on one device, so that no kernel of it is partitioned."""
    return _absent.get() is not None or jax.device_count() == 1
