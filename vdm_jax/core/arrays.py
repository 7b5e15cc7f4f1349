"""Arrays on disk, called by their path in the tree: "ema/blocks/0/kernel".

Names, shapes and types are compared before Orbax reads anything, so that a checkpoint of another
model is one clear line.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from vdm_jax.core.refusal import Refusal

SHOWN = 4  # offending arrays named in one refusal


def kinds(tree: PyTree) -> dict[str, str]:
    """The arrays of a tree by name, each in short: {"step": "int32[]", …}."""
    return {name: _kind(leaf) for name, leaf in named(tree).items()}


def named(tree: PyTree) -> dict[str, Any]:
    """Leaves by path, "ema/blocks/0/kernel", in the order of `jax.tree.leaves`."""
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if path and path[-1] == jax.tree_util.GetAttrKey("value"):
            path = path[:-1]  # how nnx happens to hold an array
        named[jax.tree_util.keystr(path, simple=True, separator="/")] = leaf
    assert len(named) == len(jax.tree.leaves(tree)), "two leaves share one path"
    return named


def any_float(stored: Mapping[str, str], abstract: PyTree, prefix: str = "") -> dict[str, str]:
    """`stored` with the float type of each array as `abstract` has it: Orbax converts on reading.

    Arrays of `abstract` are called by `prefix` and their path; other kinds of number stay as said.
    """
    wanted = {prefix + name: kind for name, kind in kinds(abstract).items()}
    converted = {}
    for name, kind in stored.items():
        numbers, bracket, shape = kind.partition("[")
        target = wanted.get(name, kind).partition("[")[0]
        both = "float" in numbers and "float" in target
        converted[name] = (target if both else numbers) + bracket + shape
    return converted


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b": x} -> {"a": {"b": x}}, the layout in which other Orbax programs expect a tree."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return tree


def _kind(array: Any) -> str:
    """Type and shape in short: "float32[8,16]"."""
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def restored(folder: Path, abstract: PyTree, stored: Mapping[str, str], prefix: str) -> PyTree:
    """`abstract` filled with the arrays under `prefix` of the Orbax tree in `folder`.

    stored: what the folder holds, as `kinds` gave it. Each array goes where the sharding of its
    leaf in `abstract` says, or to the first device. Refuses arrays that are missing, unexpected,
    or of another shape or type.
    """
    wanted = {prefix + name: leaf for name, leaf in named(abstract).items()}
    held = {name: kind for name, kind in stored.items() if name.startswith(prefix)}
    _check_fit(folder, held, {name: _kind(leaf) for name, leaf in wanted.items()})
    target = nested({name: _placed(leaf) for name, leaf in wanted.items()})
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
        tree = orbax.restore(
            folder,
            args=ocp.args.PyTreeRestore(
                target,
                restore_args=ocp.checkpoint_utils.construct_restore_args(target),
                partial_restore=True,
            ),
        )
    arrays = named(tree)
    return jax.tree.unflatten(jax.tree.structure(abstract), [arrays[name] for name in wanted])


def read_numpy(folder: Path, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Some arrays of the Orbax tree in `folder`; names: {what to call one: its name there}."""
    if not names:
        return {}  # Orbax takes no empty tree
    target = nested(dict.fromkeys(names.values(), 0))
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as orbax:
        tree = orbax.restore(
            folder,
            args=ocp.args.PyTreeRestore(
                target,
                restore_args=jax.tree.map(
                    lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target
                ),
                partial_restore=True,
            ),
        )
    arrays = named(tree)
    return {name: arrays[there] for name, there in names.items()}


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _check_fit(folder: Path, held: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    differences = [
        f"{name} is {held.get(name, 'absent')} there, {wanted.get(name, 'absent')} here"
        for name in sorted(held.keys() | wanted.keys())
        if held.get(name) != wanted.get(name)
    ]
    if differences:
        more = f"; and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
        raise Refusal(f"{folder} does not fit: {'; '.join(differences[:SHOWN])}{more}")
