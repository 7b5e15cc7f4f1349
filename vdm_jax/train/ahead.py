"""A training step compiled for hardware that is not here: what it takes, and how fast it can be.

XLA's own compilers for TPU and GPU do the work, so that what they say is what a run would get:
memory of a device, exchanges between devices. The time is a bound: that of the operations at the
device's peak, or of the bytes between it and its memory, whichever is longer.
"""

import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.stages import Traced

from vdm_jax.core.absent import Absent
from vdm_jax.data.joint import WithPictures
from vdm_jax.data.loader import Sample, stack
from vdm_jax.nn.platform import compiling_for
from vdm_jax.tasks.joint import ALONE
from vdm_jax.tasks.task import Arrays
from vdm_jax.train import begin, fits
from vdm_jax.train.collectives import Exchange, collectives
from vdm_jax.train.config import TrainConfig
from vdm_jax.train.operations import operations
from vdm_jax.train.progress import duration
from vdm_jax.train.traced import batch_shapes, check_batch, compiled, flops, traced_step

NOTICE = 60.0  # seconds between two lines about a compilation that goes on
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
TOO_LARGE = (  # XLA's words where a program does not fit the memory of a TPU
    re.compile(r"Used (?P<need>[\d.]+)(?P<unit>[KMGT]?) of"),
    re.compile(r"\((?P<need>[\d.]+)(?P<unit>[KMGT]?)\) exceeds available"),
)


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """What compiling told, of one device and one step.

    memory: bytes by kind. needed: of all kinds at once. limit: bytes of the device. moved: bytes
    between the device and its memory, at least: loops count once. flops: operations. peak,
    bandwidth: of these a second. samples: of the whole batch. None: not told.
    """

    title: str
    memory: dict[str, int]
    needed: int
    limit: int | None
    flops: float
    moved: float | None
    exchanges: dict[str, Exchange] | None
    peak: float | None
    bandwidth: float | None
    samples: int
    seconds: float

    @property
    def fits(self) -> bool | None:
        """Whether a device holds it; None where its memory is unknown."""
        return None if self.limit is None else self.needed <= self.limit

    @property
    def bound(self) -> tuple[float | None, float | None]:
        """Least seconds of a step: for its operations, and for its traffic with memory."""
        compute = None if self.peak is None else self.flops / self.peak
        if self.bandwidth is None or self.moved is None:
            return compute, None
        return compute, self.moved / self.bandwidth

    def table(self) -> str:
        rows = [self.title, f"compiled in {duration(self.seconds)}"]
        rows += ["", "memory of a device        GB"]
        rows += [f"  {kind:<18}{size / 1e9:>8.2f}" for kind, size in self.memory.items()]
        rows += [f"  {'in all':<18}{self.needed / 1e9:>8.2f}  {self._verdict()}", ""]
        rows += [f"operations        {self.flops / 1e12:>10.4g} TFLOP a device and step"]
        if self.moved is not None:
            rows += [f"memory traffic    {self.moved / 1e9:>10.4g} GB at least"]
        if self.exchanges is not None:
            rows += ["", "exchanges           count        MB"]
            rows += [
                f"  {kind:<18}{each.count:>7}{each.bytes / 1e6:>10.1f}"
                for kind, each in self.exchanges.items()
            ] or ["  none"]
        return "\n".join([*rows, "", self._roofline()])

    def _verdict(self) -> str:
        if self.limit is None:
            return "(the device's memory is unknown)"
        spare = (self.limit - self.needed) / 1e9
        words = f"fits, {spare:.2f} to spare" if self.fits else f"does NOT fit, {-spare:.2f} over"
        return f"of {self.limit / 1e9:.2f}: {words}"

    def _roofline(self) -> str:
        parts = zip(("operations", "memory traffic"), self.bound, strict=True)
        told = {name: seconds for name, seconds in parts if seconds is not None}
        if not told:
            return "no bound: this device is not in core.devices"
        each = ", ".join(f"{name} {1e3 * seconds:.3g} ms" for name, seconds in told.items())
        least = max(told.values())
        return (
            f"at best {1e3 * least:.3g} ms a step ({each}), {self.samples / least:.3g} samples/s; "
            "exchanges come on top where they are not hidden"
        )


def check(config: TrainConfig, hardware: Absent) -> Ahead:
    """Compile the training step of `config` for hardware that is not here.

    Reads no data: the shapes are those of the task. Minutes for a large model; says so on stderr.
    Raises Refusal for a mesh that does not cover the hardware, or a batch that it cannot share.
    """
    mesh = config.mesh.build_on(hardware.devices)
    check_batch(config, mesh)
    with compiling_for(hardware.platform), _told(f"compiling for {hardware.name}"):
        began = time.monotonic()
        built = begin.shapes(config, mesh)
        sample = blank(config)
        traced = traced_step(config, built, mesh, sample)
        kinds = fits.held(built) | {"batch": fits.of_device(batch_shapes(config, mesh, sample))}
        program = _compiled(traced, mesh, hardware)
    found = _read(traced, program, kinds, mesh)
    device = hardware.device
    return Ahead(
        **found,
        title=_title(config, hardware, mesh),
        limit=None if device is None else device.memory_bytes,
        peak=None if device is None else device.flops,
        bandwidth=None if device is None else device.bytes_per_second,
        samples=config.batch_size,
        seconds=time.monotonic() - began,
    )


def blank(config: TrainConfig) -> Arrays:
    """A batch of one black video without a caption, as the task prepares it; reads no file."""
    fps, count = np.float32(config.task.video.fps), 0
    sample: Sample = {"video": np.zeros(config.task.video.sizes, np.uint8), "caption": ""}
    if isinstance(config.data, WithPictures):
        count = config.data.count
        still = np.zeros((count, 1, *config.task.video.sizes[1:]), np.uint8)
        sample["pictures"] = {"video": still, "caption": np.array([""] * count)}
    samples = stack([{**sample, "fps": fps, "key": "blank"}])
    arrays = config.task.prepare(replace(config.model, text=None), samples)
    if config.model.text is not None:
        arrays["text"] = tokens = config.model.text.blank(1)
        if count:
            arrays[ALONE + "text"] = np.repeat(tokens[:, None], count, axis=1)
    return arrays


def _compiled(traced: Traced, mesh: Mesh, hardware: Absent) -> Any:
    """The compiled program, or the number of bytes that it needs where that is too much."""
    try:
        return compiled(traced, mesh, hardware.lowering)
    except jax.errors.JaxRuntimeError as error:
        needed = too_large(str(error))
        if needed is None:
            raise
        return needed


def too_large(message: str) -> int | None:
    """The bytes that XLA says a program needs; None where it complains of something else."""
    matches = (pattern.search(message) for pattern in TOO_LARGE)
    match = next((match for match in matches if match), None)
    return None if match is None else round(float(match["need"]) * UNITS[match["unit"]])


def _read(traced: Traced, compiled: Any, kinds: dict[str, int], mesh: Mesh) -> dict[str, Any]:
    """What a compiled program tells of itself, beside what is known without it."""
    known = sum(kinds.values())
    if isinstance(compiled, int):
        memory = kinds | {"all else": max(0, compiled - known)}
        return {"memory": memory, "needed": max(compiled, known), "moved": None, "exchanges": None,
                "flops": operations(traced.jaxpr) / mesh.size}  # fmt: skip
    told, costs = compiled.memory_analysis(), compiled.cost_analysis() or {}
    memory = kinds | {
        "padding": max(0, told.argument_size_in_bytes - known),
        "temporaries": told.temp_size_in_bytes,
        "output": told.output_size_in_bytes - told.alias_size_in_bytes,
        "program": told.generated_code_size_in_bytes,
    }
    return {
        "memory": memory,
        "needed": sum(memory.values()),
        "flops": flops(traced, compiled, mesh),
        "moved": costs.get("bytes accessed"),
        "exchanges": collectives(compiled.as_text()),
    }


def _title(config: TrainConfig, hardware: Absent, mesh: Mesh) -> str:
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    kind = hardware.devices[0].device_kind
    return f"{hardware.name}: {mesh.size} x {kind}, {axes}; {config.batch_size} samples a step"


@contextmanager
def _told(doing: str) -> Iterator[None]:
    """Says what takes so long: a live line on a terminal, elsewhere a line now and then."""
    done, live = threading.Event(), sys.stderr.isatty()

    def tell() -> None:
        began = time.monotonic()
        while not done.wait(1.0 if live else NOTICE):
            elapsed = duration(time.monotonic() - began)
            sys.stderr.write(f"\r{doing} … {elapsed} " if live else f"{doing} … {elapsed}\n")
            sys.stderr.flush()

    sys.stderr.write(f"{doing} …" + ("" if live else "\n"))
    sys.stderr.flush()
    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
        sys.stderr.write("\n" if live else "")
