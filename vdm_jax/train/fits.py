"""Whether a run can fit its devices at all, told before anything is made or compiled.

What is counted is a lower bound: weights, their gradients, moments and average, and the weights
that only are read. Activations come on top; `--compile-only` tells those too.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
from jax.sharding import Mesh

from vdm_jax.adapters.lora import LoRA
from vdm_jax.core import devices
from vdm_jax.core.refusal import Refusal
from vdm_jax.train import begin
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.state import Built

GRADIENTS = "gradients"


def held(built: Built) -> dict[str, int]:
    """Bytes of one device by kind that stay there from step to step."""
    state = built.abstract
    return {
        "weights": of_device(state.params),
        "moments": of_device(state.opt_state),
        "average": of_device(state.ema),
        "frozen weights": of_device(built.frozen),
    }


def least(built: Built) -> dict[str, int]:
    """Bytes of one device by kind without which no step can be taken."""
    return {**held(built), GRADIENTS: of_device(built.abstract.params)}


def of_device(shapes: Any) -> int:
    """Bytes of one device, of arrays or of shapes, each with its sharding."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(shapes)
    )


def check(config: TrainConfig, built: Built, mesh: Mesh) -> None:
    """Refuse a run that the devices of the mesh cannot hold, naming the smallest change that helps.

    Says nothing where the memory of the devices is unknown.
    """
    limit = room(mesh)
    if limit is not None:
        check_room(config, built, mesh, limit)


def check_room(config: TrainConfig, built: Built, mesh: Mesh, limit: int) -> None:
    """As `check`, of devices that hold `limit` bytes each."""
    needed = least(built)
    if sum(needed.values()) > limit:
        parts = ", ".join(f"{_gb(size)} {kind}" for kind, size in needed.items() if size)
        raise Refusal(
            f"training takes at least {_gb(sum(needed.values()))} GB a device ({parts}), and "
            f"activations; a device here has {_gb(limit)} GB; {_advice(config, mesh, limit)}"
        )


def room(mesh: Mesh) -> int | None:
    """Bytes that a program may use on one device of the mesh; None: unknown.

    The devices of a CPU share what memory of the machine is free.
    """
    device = mesh.local_devices[0]
    if device.platform == "cpu":
        free = _free_memory()
        return None if free is None else free // len(mesh.local_devices)
    told = (device.memory_stats() or {}).get("bytes_limit")
    accelerator = devices.known(device.device_kind)
    return told or (None if accelerator is None else accelerator.memory_bytes)


def _free_memory() -> int | None:
    """Of this machine, in bytes, what the kernel can free at once included; None: not told."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            facts = dict(line.split(":", 1) for line in lines)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def _advice(config: TrainConfig, mesh: Mesh, limit: int) -> str:
    """The first change that makes the lower bound fit, of those that change least first."""
    best = math.inf
    for words, other in _changes(config, mesh.size):
        mesh = other.mesh.build_on(mesh.devices.ravel().tolist())
        try:
            needed = sum(least(begin.shapes(other, mesh)).values())
        except Refusal:  # a change that this model cannot make
            continue
        if needed <= limit:
            return f"{words} takes at least {_gb(needed)} GB"
        best = min(best, needed)
    return f"it needs more devices, or larger ones: no change here takes less than {_gb(best)} GB"


def _changes(config: TrainConfig, count: int) -> Iterator[tuple[str, TrainConfig]]:
    """Weights cut into more parts, then weights of half the size, then fewer that are trained."""
    cut = count // (config.mesh.context * config.mesh.tensor)
    for fsdp in range(config.mesh.fsdp + 1, cut + 1):
        if cut % fsdp == 0 and config.batch_size % (cut * config.accumulate) == 0:
            config = replace(config, mesh=replace(config.mesh, data=None, fsdp=fsdp))
            yield f"--mesh.fsdp {fsdp}", config
    few = replace(config, frozen_dtype="bfloat16")
    beside = "" if config.mesh.fsdp == 1 else f" and --mesh.fsdp {config.mesh.fsdp}"
    if config.frozen_dtype != "bfloat16":
        yield f"--frozen-dtype bfloat16{beside}", few
    if not isinstance(config.trainable, LoRA):
        yield (
            f"trainable=LoRA() with --frozen-dtype bfloat16{beside}",
            replace(few, trainable=LoRA()),
        )


def _gb(count: int | float) -> str:
    return f"{count / 1e9:.3g}"
