"""Several processes as one run: how they find each other.

Each process drives the devices of its machine, or a part of them, and all run the same command.
Call `join` before anything asks JAX for its devices.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from vdm_jax.core.refusal import Refusal, Unavailable

AUTO = "auto"
PATIENCE_MS = 3_600_000
_met: Counter[str] = Counter()
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")
"""What srun, mpirun and slices of TPUs set to how many there are."""
HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
"""What TPUs of several hosts are given by Kubernetes: the names of all, with commas between."""


def join(processes: str | None, process: str | None, coordinator: str | None) -> None:
    """Become one of several processes, or stay alone where nothing says that there are more.

    processes: how many there are, or "auto": what launched them tells, as it is taken to where it
    is seen to. process: the number of this one, from 0. coordinator: "host:port" of number 0, free
    there and within reach of all. Waits until all are there; Refusal where they are not in 5 min.
    """
    if processes is None and process is None and coordinator is None:
        if launched_together():
            _initialized(None)
    elif processes == AUTO and process is None and coordinator is None:
        _initialized(None)
    else:
        place = _place(processes, process, coordinator)
        if place[1] > 1:
            _initialized(place)
    _check_joined()


def leave() -> None:
    """End together: the others would take it for a crash when process 0 went first."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def launched_together() -> bool:
    """Whether the environment says that this process is one of several."""
    counts = [os.environ.get(name, "1") for name in COUNTS]
    several = any(count.isdecimal() and int(count) > 1 for count in counts)
    return several or any("," in os.environ.get(name, "") for name in HOSTS)


def meet(what: str) -> None:
    """Wait until all processes are here, however long it takes within an hour.

    An exchange between devices waits less: gloo gives up after 30 s when one process compiles or
    reads for longer than the others. what: where they meet.
    """
    _met[what] += 1  # a barrier serves once
    wait = ocp.multihost.get_barrier_sync_fn()
    wait(key=f"{what}/{_met[what]}", timeout_ms=PATIENCE_MS)


def any_process(*, flag: bool) -> bool:
    """Whether `flag` is set in any process; all processes meet here."""
    if jax.process_count() == 1:
        return flag
    meet("any_process")
    return bool(multihost_utils.process_allgather(np.int32(flag)).any())


@contextmanager
def together(what: str) -> Iterator[None]:
    """A block that all processes leave together: where one fails, so do the others.

    Without it they would wait for the one that failed. what: "the data could not be opened".
    """
    try:
        yield
    except BaseException:
        any_process(flag=True)
        raise
    if any_process(flag=False):
        raise Unavailable(f"{what} in another process, which says why")


def _place(
    processes: str | None, process: str | None, coordinator: str | None
) -> tuple[str, int, int]:
    """(coordinator, count, index) as they were given."""
    if processes is None or process is None or coordinator is None:
        raise Refusal(
            "--processes, --process and --coordinator go together, e.g. --processes 2 --process 0 "
            "--coordinator 10.0.0.1:1234; --processes auto alone asks what launched them"
        )
    for name, value in (("--processes", processes), ("--process", process)):
        if not value.isdecimal():
            raise Refusal(f"{name} {value} is no number")
    count, index = int(processes), int(process)
    if count < 1:
        raise Refusal("--processes must be at least 1")
    if not index < count:
        raise Refusal(f"--process {index}: the {count} processes are numbered 0 to {count - 1}")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise Refusal(f"--coordinator {coordinator}: say HOST:PORT, of process 0")
    return coordinator, count, index


def _initialized(place: tuple[str, int, int] | None) -> None:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update(
        "jax_enable_preemption_service", val=False
    )  # it would take SIGTERM for itself
    try:
        if place is None:
            jax.distributed.initialize(local_device_ids=_devices_of_task())
        else:
            jax.distributed.initialize(*place, cluster_detection_method="deactivate")
    except (ValueError, RuntimeError) as error:
        if place is None and "coordinator_address" in str(error):
            raise Refusal(
                "--processes auto: nothing here says that several processes were launched together "
                "(SLURM, MPI, Kubernetes, a TPU pod); number them yourself, see --help"
            ) from error
        what = " ".join(str(error).split())
        kind = Refusal if isinstance(error, ValueError) else Unavailable
        raise kind(
            f"the processes do not find each other: {what}; --help tells how to number them"
        ) from error


def _devices_of_task() -> Sequence[int] | None:
    """All GPUs of a machine where SLURM starts one task on it; else one for each, as JAX has it."""
    tasks, gpus = (os.environ.get(f"SLURM_{n}", "") for n in ("TASKS_PER_NODE", "GPUS_ON_NODE"))
    alone = tasks.partition("(")[0] == "1" and gpus.isdecimal()
    return list(range(int(gpus))) if alone else None


def _check_joined() -> None:
    """TPUs of several hosts know each other without being told; their processes do not."""
    if jax.process_count() > 1 and not jax.distributed.is_initialized():
        raise Refusal(
            f"this is one of {jax.process_count()} processes that share their devices; start them "
            "all with --processes auto"
        )
