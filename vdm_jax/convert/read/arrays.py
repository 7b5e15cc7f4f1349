"""Pickles of trees of NumPy arrays, as packages in JAX store their weights: read, and not run.

A pickle is a program; this reader knows what makes an array, and nothing else.
"""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vdm_jax.core.refusal import Refusal

_MAKE = np.empty(0).__reduce__()[0]


class Arrays(pickle.Unpickler):
    """Reads pickles of NumPy arrays; names nothing else, so that no code of a file runs."""

    KNOWN: Mapping[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): _MAKE,
        ("numpy._core.multiarray", "_reconstruct"): _MAKE,
    }

    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in self.KNOWN:
            raise Refusal(f"a file of arrays names {module}.{name}")
        return self.KNOWN[module, name]


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of nested dictionaries, by the path to them, "params/Conv_0/kernel".

    Raises Refusal for a file that is anything else.
    """
    try:
        with path.open("rb") as file:
            tree = Arrays(file).load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError) as error:
        raise Refusal(f"{path}: is no pickle of arrays: {type(error).__name__}") from error
    arrays: dict[str, np.ndarray] = {}
    _gather(path, tree, "", arrays)
    return arrays


def _gather(path: Path, tree: Any, name: str, arrays: dict[str, np.ndarray]) -> None:
    if isinstance(tree, np.ndarray) and tree.dtype.kind == "f":
        arrays[name] = tree
        return
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise Refusal(f"{path}: holds {type(tree).__name__} at {name or 'its top'}, not arrays")
    for key, value in tree.items():
        _gather(path, value, f"{name}/{key}" if name else key, arrays)
