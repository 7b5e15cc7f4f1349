"""The same run on every layout of processes and devices: one command, one table.

    python tests/topology/run.py [--config latents] [--only 2x2:fsdp2,tensor2 ...]

Each layout (processes x devices of each, mesh) trains from the first step, in real processes that
exchange over gloo. Then, in new processes, it

- goes on from the middle of its own run: every bit of the last checkpoint must be the same,
- goes on from the middle of the run of another layout: losses as if nothing had happened,
- restores the last checkpoint of every layout: every byte on every device must be the same,
- shows what its devices hold of the first batches: every row the same everywhere.

Losses of all steps are compared with those of one device. Exit code 1: a bar is missed.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).parent
BAR = 1e-5  # largest relative difference of a loss between layouts
PATIENCE = 1800  # seconds
FLAGS = (
    "--xla_backend_optimization_level=0 "  # the same program, sooner compiled
    "--xla_cpu_collective_call_terminate_timeout_seconds=600"  # a busy machine is no dead one
)
AXES = ("data", "fsdp", "context", "tensor")
BATCHES = 8  # of which the contents are compared


class Layout(NamedTuple):
    """Processes, devices of each, and how many parts the mesh cuts what into."""

    processes: int
    devices: int
    mesh: dict[str, int]

    def __str__(self):
        cut = ",".join(f"{axis}{n}" for axis, n in self.mesh.items() if n > 1)
        return f"{self.processes}x{self.devices}:{cut}"


def layout(text: str) -> Layout:
    """ "2x2:fsdp2,tensor2" is two processes of two devices each."""
    sizes, _, cuts = text.partition(":")
    processes, devices = map(int, sizes.split("x"))
    mesh = dict.fromkeys(AXES, 1)
    for cut in filter(None, cuts.split(",")):
        mesh[cut.rstrip("0123456789")] = int(cut.lstrip("abcdefghijklmnopqrstuvwxyz"))
    return Layout(processes, devices, mesh)


ONE = layout("1x1:")
LAYOUTS = [
    ONE,
    *map(
        layout,
        (
            "1x2:data2",
            "1x2:tensor2",
            "1x2:context2",
            "1x4:fsdp2,tensor2",
            "1x4:fsdp2,context2",
            "2x1:fsdp2",
            "2x1:tensor2",
            "2x1:context2",
            "2x2:data2,fsdp2",
            "2x2:fsdp2,tensor2",
            "2x2:context2,tensor2",
            "4x1:data2,context2",
            "2x4:fsdp2,context2,tensor2",
        ),
    ),
]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Plan(NamedTuple):
    """What is trained, and where the runs lie. changes: of the config, by field."""

    config: str
    folder: Path
    changes: dict[str, int]


def run(where: Layout, plan: Plan, jobs: list[dict]) -> list[list]:
    """Do the jobs on this layout; returns what each process told of each job."""
    folder = plan.folder
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{where}.{len(list(folder.glob('*.json')))}.json"
    told = {"config": plan.config, "changes": plan.changes, "port": free_port(), "jobs": jobs}
    path.write_text(json.dumps(told | where._asdict()))
    flags = f"--xla_force_host_platform_device_count={where.devices} {FLAGS}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, str(HERE / "child.py"), str(path)]
    logs = [path.with_suffix(f".{index}.log") for index in range(where.processes)]
    children = []
    for index, log in enumerate(logs):
        with log.open("wb") as sink:
            children.append(
                subprocess.Popen(
                    [*command, str(index)], env=environment, stdout=sink, stderr=subprocess.STDOUT
                )
            )
    _awaited(children, logs)
    return [
        json.loads(path.with_suffix(f".{index}.out.json").read_text())
        for index in range(where.processes)
    ]


def _awaited(children: list, logs: list[Path]) -> None:
    """Until all ended well; one that fails ends the others, and its log is shown."""
    end = time.monotonic() + PATIENCE
    try:
        while any(child.poll() is None for child in children):
            if any(child.poll() for child in children) or time.monotonic() > end:
                break
            time.sleep(0.05)
        wrong = [log for child, log in zip(children, logs, strict=True) if child.poll() != 0]
    finally:
        for child in children:
            child.kill()
            child.wait()
    if wrong:
        texts = (f"{log.name}:\n{log.read_text(errors='replace')[-4000:]}" for log in wrong)
        raise RuntimeError("\n".join(texts))


def losses(workdir: Path) -> np.ndarray:
    """Loss and gradient norm of each step, "step 2"."""
    from vdm_jax.train import log

    records = [r for r in log.read(workdir / "metrics.jsonl") if "loss" in r]
    assert [r["step"] for r in records] == list(range(1, len(records) + 1))
    return np.array([(r["loss"], r["grad_norm"]) for r in records])


def arrays(workdir: Path) -> dict[str, np.ndarray]:
    """All arrays of the last checkpoint, as one process reads them from the disk."""
    from vdm_jax.core import manifest
    from vdm_jax.core.arrays import read_numpy

    folder = newest(workdir)
    names = manifest.verify(folder)["arrays"]
    return read_numpy(folder, {name: name for name in names})


def newest(workdir: Path) -> Path:
    steps = [f for f in (workdir / "checkpoints").iterdir() if f.name.isdecimal()]
    return max(steps, key=lambda folder: int(folder.name))


def halfway(workdir: Path, copy: Path) -> Path:
    """A copy of a run as if it had ended with its first checkpoint."""
    shutil.copytree(workdir, copy)
    shutil.rmtree(newest(copy))
    return copy


def same_bits(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest relative difference."""
    return float(np.max(np.abs(one - other) / np.abs(other)))


class Found(NamedTuple):
    """What a layout showed."""

    loss: float  # largest relative difference of a loss from those of one device
    own: bool  # every bit the same after going on from its own middle
    other: float  # as `loss`, of the run that goes on from another layout's middle
    restored: int  # layouts of which every byte came back
    rows: bool  # every row of the data the same


def trained(where: Layout, plan: Plan) -> None:
    """The run of a layout from its first step, and its arrays for numpy."""
    workdir = plan.folder / str(where)
    run(where, plan, [{"do": "train", "workdir": str(workdir)}])
    np.savez(plan.folder / f"{where}.npz", **arrays(workdir))


def proven(where: Layout, before: Layout, layouts: list[Layout], plan: Plan) -> Found:
    """What new processes of a layout make of its own run and of all others; see the top."""
    folder, first = plan.folder, str(layouts[0])
    own = halfway(folder / str(where), folder / f"{where}.own")
    other = halfway(folder / str(before), folder / f"{where}.from.{before}")
    jobs = [{"do": "train", "workdir": str(path)} for path in (own, other)]
    jobs += [
        {"do": "restore", "workdir": str(folder / str(each)), "truth": str(folder / f"{each}.npz")}
        for each in layouts
    ]
    told = run(where, plan, [*jobs, {"do": "data", "batches": BATCHES}])
    restores = [[process[2 + i] for process in told] for i in range(len(layouts))]
    (folder / f"{where}.rows.json").write_text(json.dumps(rows(told)))
    truth = losses(folder / first)[:, 0]
    return Found(
        loss=apart(losses(folder / str(where))[:, 0], truth),
        own=same_bits(arrays(own), dict(np.load(folder / f"{where}.npz")))
        and np.array_equal(losses(own), losses(folder / str(where))),
        other=apart(losses(other)[:, 0], truth),
        restored=sum(not any(wrong) for wrong in restores),
        rows=rows(told) == json.loads((folder / f"{first}.rows.json").read_text()),
    )


def rows(told: list[list]) -> dict[str, str]:
    """Digests of the rows of all batches, where the processes that hold one agree."""
    every = {name: digest for process in told for name, digest in process[-1].items()}
    agree = all(process[-1].items() <= every.items() for process in told)
    return every if agree else {}


def held(found: Found, count: int) -> bool:
    close = max(found.loss, found.other) <= BAR
    return close and found.own and found.restored == count and found.rows


def proof(layouts: list[Layout], plan: Plan) -> Iterator[tuple[Layout, Layout, Found]]:
    """(layout, the one whose run it goes on with, what it showed), for each of them."""
    for each in layouts:
        trained(each, plan)
    for before, each in zip([layouts[-1], *layouts], layouts, strict=False):
        yield each, before, proven(each, before, layouts, plan)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="pixels", choices=("pixels", "latents"))
    parser.add_argument("--only", nargs="+", type=layout, metavar="LAYOUT", default=LAYOUTS[1:])
    args = parser.parse_args()
    layouts = [ONE, *(each for each in args.only if each != ONE)]
    config, kept = f"{HERE / 'configs.py'}:{args.config}", []
    with tempfile.TemporaryDirectory(prefix="topology_") as name:
        folder = Path(name)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "xla")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        print(f"{args.config}: {len(layouts)} layouts, losses of all steps; bar {BAR:g}")
        print("| layout | loss apart | own half, bitwise | from | apart | restored | same rows |")
        print("|---" * 7 + "|")
        for each, before, found in proof(layouts, Plan(config, folder, {})):
            kept.append(held(found, len(layouts)))
            print(
                f"| {each} | {found.loss:.1e} | {found.own} | {before} | {found.other:.1e} "
                f"| {found.restored} of {len(layouts)} | {found.rows} |",
                flush=True,
            )
    print(f"{sum(kept)} of {len(kept)} layouts hold every bar")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
