"""Accelerators that are not here, for compiling to: what XLA's compilers must know of them.

TPU programs need the package libtpu, GPU programs JAX's CUDA plugin; neither needs its hardware.
"""

import math
import os
import re
from dataclasses import dataclass, replace
from importlib.util import find_spec

import jax
from jax.experimental import topologies

from vdm_jax.core import devices
from vdm_jax.core.devices import Accelerator
from vdm_jax.core.refusal import Refusal

EXAMPLES = "v5e:1x1, v5e:2x4, v6e:4x4, v5p:2x2x1, tpu7x:2x2x1, h100:8, h200:8, a100:1"
ALONE = {  # libtpu asks no server what machine this is
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
}
TPU = re.compile(r"(?P<kind>v\d+[a-z]?|tpu\d+x):(?P<size>\d+(x\d+){1,2})")
GPU = re.compile(r"(?P<kind>[a-z]+\d+):(?P<count>\d+)")


@dataclass(frozen=True)
class Graphics:
    """What XLA must know of a GPU, as its driver tells it. capability: major and minor."""

    name: str
    capability: tuple[int, int]
    cores: int
    fpus_per_core: int
    shared_per_core: int
    shared_per_block: int
    l2_bytes: int
    clock_ghz: float
    memory_bytes: int
    bytes_per_second: int

    def config(self) -> str:
        """As XLA's GpuTargetConfigProto, in text."""
        major, minor = self.capability
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {self.shared_per_core}
  threads_per_core_limit: 2048
  core_count: {self.cores}
  fpus_per_core: {self.fpus_per_core}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {self.bytes_per_second}
  l2_cache_size: {self.l2_bytes}
  clock_rate_ghz: {self.clock_ghz}
  device_memory_size: {self.memory_bytes}
  shared_memory_per_block_optin: {self.shared_per_block}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{self.name}"
"""


GRAPHICS = {
    "a100": Graphics("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 167936, 166912, 41943040, 1.41,
                     84987740160, 2039000000000),
    "h100": Graphics("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 233472, 232448, 52428800, 1.98,
                     84942979072, 3352320000000),
    "h200": Graphics("NVIDIA H200", (9, 0), 132, 128, 233472, 232448, 62914560, 1.98,
                     150121480192, 4915200000000),
}  # fmt: skip


@dataclass(frozen=True)
class Absent:
    """Hardware that is not here. platform: as `nn.platform` calls it; lowering: as JAX does.

    device: the figures of one of `devices`; None where they are not in the table.
    """

    name: str
    devices: tuple[jax.Device, ...]
    platform: str
    lowering: str
    device: Accelerator | None


def absent(name: str) -> Absent:
    """The hardware that `name` stands for: a TPU slice "v5e:2x4", or GPUs of one machine "h100:8".

    Raises Refusal for a name that is neither, and where its compiler is not installed.
    """
    if TPU.fullmatch(name):
        return _tpu(name)
    if (match := GPU.fullmatch(name)) and match["kind"] in GRAPHICS and int(match["count"]):
        return _gpu(name, match["kind"], int(match["count"]))
    raise Refusal(f"{name!r} is no hardware known here; there are e.g. {EXAMPLES}")


def _tpu(name: str) -> Absent:
    if find_spec("libtpu") is None:
        raise Refusal(f"{name}: compiling for TPU needs libtpu; pip install 'vdm-jax[tpu]'")
    for variable, value in ALONE.items():
        os.environ.setdefault(variable, value)
    size = [int(n) for n in name.partition(":")[2].split("x")]
    bounds = [*(min(2, n) for n in size[:2]), 1]
    host = {} if bounds == [2, 2, 1] else {"chips_per_host_bounds": bounds}
    try:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=name, **host)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise Refusal(f"{name} is no TPU slice ({reason}); there are e.g. {EXAMPLES}") from error
    found = tuple(topology.devices)
    chip = devices.known(found[0].device_kind)
    cores = len(found) // math.prod(size)
    return Absent(name, found, "tpu", "tpu", None if chip is None else replace(chip, cores=cores))


def _gpu(name: str, kind: str, count: int) -> Absent:
    if find_spec("jax_cuda12_plugin") is None:
        raise Refusal(
            f"{name}: compiling for GPU needs JAX's CUDA plugin; pip install 'vdm-jax[cuda]'"
        )
    graphics = GRAPHICS[kind]
    topology = topologies.get_topology_desc(
        platform="cuda",
        topology_name=kind,
        topology=f"1x1x{count}",
        target_config=graphics.config(),
    )
    return Absent(name, tuple(topology.devices), "gpu", "cuda", devices.known(graphics.name))
