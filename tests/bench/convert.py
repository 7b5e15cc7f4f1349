"""Conversion at full size: seconds and peak memory, from a random single file and back.

    python tests/bench/convert.py --manifest svd_original.json --folder /tmp/bench

manifest: JSON {name: [shape, dtype]} of a published single file. The file is made in `folder` with
random numbers (9.56 GB for svd_xt), converted to bfloat16, checked, exported to diffusers' layout,
and all of it is deleted. Each step is a process of its own, whose peak memory the system tells
(on Linux, in KiB).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vdm_jax.convert import original, plan, safetensors_writer
from vdm_jax.convert.safetensors_writer import Entry

BLOCK = 1 << 24  # random numbers drawn once; tensors are windows of them


def make(path: Path, manifest: Path) -> int:
    """The single file with every tensor random; its size in bytes."""
    shapes = {name: tuple(shape) for name, (shape, _) in json.loads(manifest.read_text()).items()}
    drawn = np.random.default_rng(0).standard_normal(BLOCK, dtype=np.float32)

    def arrays() -> Iterator[np.ndarray]:
        for number, shape in enumerate(shapes.values()):
            size = int(np.prod(shape, dtype=np.int64))
            yield np.resize(np.roll(drawn[: 1 << 20], number) if size <= 1 << 20 else drawn, shape)

    entries = {name: Entry(shape, "float32") for name, shape in shapes.items()}
    safetensors_writer.write(path, entries, arrays(), None)
    return path.stat().st_size


class Cost(NamedTuple):
    """Of one call of the verb: wall-clock and processor seconds, peak resident GB."""

    seconds: float
    processor: float
    peak: float


def measured(*args: str) -> Cost:
    command = [sys.executable, "-m", "vdm_jax.convert", *args]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed with {os.waitstatus_to_exitcode(status)}")
    processor = usage.ru_utime + usage.ru_stime
    return Cost(time.perf_counter() - start, processor, usage.ru_maxrss * 1024 / 1e9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    file, model, back = (args.folder / name for name in ("svd_xt.safetensors", "model", "back"))
    try:
        print(f"file: {make(file, args.manifest):,} bytes")
        weights = sum(2 * int(np.prod(s)) for s in _used(file)) / 1e9
        bound = 1.5 * weights + 2
        print(f"bf16 result {weights:.2f} GB; bound of the peak {bound:.2f} GB")
        steps = {
            "check": ("--from", str(file), "--check"),
            "convert": ("--from", str(file), "--output", str(model), "--dtype", "bfloat16"),
            "export": ("--from", str(model), "--to", "diffusers", "--output", str(back)),
        }
        for name, step in steps.items():
            cost = measured(*step)
            times = f"{cost.seconds:7.1f} s  processors {cost.processor:7.1f} s"
            print(f"{name:8} {times}  peak {cost.peak:5.2f} GB", flush=True)
            if cost.peak > bound:
                raise SystemExit(f"{name}: more than the bound")
    finally:
        shutil.rmtree(args.folder)


def _used(file: Path) -> list[tuple[int, ...]]:
    """Shapes of the tensors that are converted."""
    with original.opened(file) as opened:
        return [move.shape for move in plan.plan(opened).moves]


if __name__ == "__main__":
    main()
