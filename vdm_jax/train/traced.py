"""The training step as a program: traced for the shapes of a run, ready for XLA to compile.

The run itself and the check ahead of it (`train.ahead`) compile what is traced here.
"""

from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh
from jax.stages import Compiled, Traced

from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.platform import platform
from vdm_jax.tasks.task import Arrays
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.operations import operations
from vdm_jax.train.state import Built
from vdm_jax.train.step import StepFn, update

OPTIONS: dict[str, dict[str, str | bool]] = {
    "cpu": {},
    "gpu": {},
    "tpu": {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"},
}
"""What XLA is told for a step by platform.

XLA's TPU compiler would take every product with weights that are cut into n parts as n products,
each of a part of the channels, which go round from device to device meanwhile. Here those parts
are too narrow for the matrix unit: gathering the weights first takes 0.75 to 0.8 of its own
estimate of the time, and three quarters of the memory.
"""


@dataclass(frozen=True)
class Program:
    """The compiled step. flops: its operations on one device."""

    step: StepFn
    flops: float

    def __call__(self, *args: Any) -> Any:
        return self.step(*args)


def check_batch(config: TrainConfig, mesh: Mesh) -> None:
    """Refuse a batch that the devices cannot share evenly."""
    shards = meshes.batch_shards(mesh) * config.accumulate
    if config.batch_size % shards:
        raise Refusal(
            f"batch_size {config.batch_size} must be a multiple of {shards}: data x fsdp devices "
            "x accumulate"
        )


def traced_step(config: TrainConfig, built: Built, mesh: Mesh, sample: Arrays) -> Traced:
    """The training step for the mesh, as it is called: (state, frozen, batch, key).

    sample: what `Task.prepare` makes of one sample. To be lowered under `jax.set_mesh(mesh)` too.
    """
    step = update(
        built.model,
        config.task.loss,
        config.optim.build(config.steps),
        ema_decay=config.ema_decay,
        accumulate=config.accumulate,
        guard=config.guard,
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, built.abstract)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, meshes.replicated(mesh)))
    key = jax.eval_shape(lambda: jax.random.key(config.seed))
    with jax.set_mesh(mesh):
        return jitted.trace(built.abstract, built.frozen, batch_shapes(config, mesh, sample), key)


def compiled(traced: Traced, mesh: Mesh, *platforms: str) -> Compiled:
    """The program that XLA makes of it. platforms: as JAX calls those that are not here."""
    with jax.set_mesh(mesh):
        lowered = traced.lower(lowering_platforms=platforms or None)
        return lowered.compile(compiler_options=OPTIONS[platform()])


def batch_shapes(config: TrainConfig, mesh: Mesh, sample: Arrays) -> Arrays:
    """The batch of a step over the mesh, of which `sample` is one row."""
    sharding = meshes.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct(
            (config.batch_size, *rows.shape[1:]), rows.dtype, sharding=sharding
        )
        for name, rows in sample.items()
    }


def flops(traced: Traced, compiled: Compiled, mesh: Mesh) -> float:
    """Operations of a step on one device: what XLA counts, or the traced program's where more.

    XLA takes the body of a loop once and sees into no kernel; but work that several devices repeat
    is in its count alone.
    """
    told = (compiled.cost_analysis() or {}).get("flops", 0.0)
    return max(told, operations(traced.jaxpr) / mesh.size)
