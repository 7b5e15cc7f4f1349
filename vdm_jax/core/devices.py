"""Accelerators: how fast they multiply, how much they hold, how fast they read it.

The one table of such figures. They are the makers': dense bfloat16 products (float16 where there
are none), decimal units, of a whole chip. The memory of TPUs is what XLA's compiler gives to a
program, a little less than is built in.
"""

from dataclasses import dataclass

GIB = 2**30 / 1e9  # decimal gigabytes


@dataclass(frozen=True)
class Accelerator:
    """One kind of chip. names: parts of a `jax.Device.device_kind`, of which one is enough.

    cores: devices that JAX makes of one chip; they share all figures evenly.
    """

    name: str
    names: tuple[str, ...]
    tflops: float
    memory_gb: float
    terabytes_per_second: float
    cores: int = 1

    @property
    def flops(self) -> float:
        """Operations a second of one device, a multiply-add counted twice."""
        return self.tflops * 1e12 / self.cores

    @property
    def memory_bytes(self) -> int:
        """Of one device."""
        return round(self.memory_gb * 1e9 / self.cores)

    @property
    def bytes_per_second(self) -> float:
        """Between one device and its memory."""
        return self.terabytes_per_second * 1e12 / self.cores


# A name that holds another stands before it.
ACCELERATORS = (
    # NVIDIA: data sheets of the boards
    Accelerator("B200", ("B200",), 2250.0, 180.0, 8.0),
    Accelerator("GH200", ("GH200",), 989.0, 96.0, 4.0),
    Accelerator("H200", ("H200",), 989.0, 141.0, 4.8),
    Accelerator("H100 NVL", ("H100 NVL",), 835.0, 94.0, 3.9),
    Accelerator("H100 PCIe", ("H100 PCIe",), 756.0, 80.0, 2.0),
    Accelerator("H100", ("H100",), 989.0, 80.0, 3.35),
    Accelerator("A100 80GB", ("A100-SXM4-80GB", "A100 80GB"), 312.0, 80.0, 1.935),
    Accelerator("A100", ("A100",), 312.0, 40.0, 1.555),
    Accelerator("L40S", ("L40S",), 362.0, 48.0, 0.864),
    Accelerator("L40", ("L40",), 181.0, 48.0, 0.864),
    Accelerator("L4", ("L4",), 121.0, 24.0, 0.3),
    Accelerator("RTX 4090", ("4090",), 165.0, 24.0, 1.008),
    Accelerator("RTX 3090", ("3090",), 71.0, 24.0, 0.936),
    Accelerator("V100 32GB", ("V100-SXM2-32GB", "V100-PCIE-32GB"), 125.0, 32.0, 0.9),
    Accelerator("V100", ("V100",), 125.0, 16.0, 0.9),
    Accelerator("T4", ("T4",), 65.0, 16.0, 0.32),
    # Google: cloud.google.com/tpu/docs, the page of each version; memory by libtpu 0.0.42
    Accelerator("TPU7x", ("TPU7x",), 2307.0, 189.5 * GIB, 7.37, cores=2),
    Accelerator("TPU v6e", ("TPU v6",), 918.0, 31.25 * GIB, 1.64),
    Accelerator("TPU v5e", ("TPU v5 lite", "TPU v5e"), 197.0, 15.75 * GIB, 0.819),
    Accelerator("TPU v5p", ("TPU v5",), 459.0, 95.74 * GIB, 2.765),
    Accelerator("TPU v4", ("TPU v4",), 275.0, 30.5 * GIB, 1.228),
    Accelerator("TPU v3", ("TPU v3",), 123.0, 30.96 * GIB, 0.9, cores=2),
    Accelerator("TPU v2", ("TPU v2",), 45.0, 14.96 * GIB, 0.7, cores=2),
)


def known(device_kind: str) -> Accelerator | None:
    """The accelerator that a `jax.Device.device_kind` names; None: not in the table."""
    return next((a for a in ACCELERATORS if any(name in device_kind for name in a.names)), None)
