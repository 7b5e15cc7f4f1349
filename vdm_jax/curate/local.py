"""Tasks on this machine: a worker process for each core, ended where it hangs, replaced if it dies.

Media files may be hostile: what kills a worker, or keeps it busy for too long, costs that task.
"""

import os
import resource
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, TimeoutError, wait
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context

from pebble import ProcessExpired, ProcessPool

from vdm_jax.curate import work
from vdm_jax.curate.stage import Row
from vdm_jax.curate.work import Task


@dataclass(frozen=True, kw_only=True)
class Local:
    """workers: processes; None: one for each core. gigabytes: that each may take."""

    workers: int | None = None
    gigabytes: float = 4.0

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Row]]:
        """Each task with its result, as they come; twice as many as workers are under way."""
        count = self.workers or len(os.sched_getaffinity(0))
        waiting, flying = iter(tasks), {}
        with ProcessPool(
            count, initializer=_confined, initargs=(self.gigabytes,), context=get_context("spawn")
        ) as pool:
            try:
                while True:
                    for task in islice(waiting, 2 * count - len(flying)):
                        future = pool.schedule(work.done, args=(task,), timeout=task.patience)
                        flying[future] = task
                    if not flying:
                        return
                    finished, _ = wait(flying, return_when=FIRST_COMPLETED)
                    for future in finished:
                        yield flying.pop(future), _result(future, task=None)
            finally:
                pool.stop()


def _result(future, task) -> Row:
    try:
        return future.result()
    except TimeoutError:
        return {"reason": work.TIMED_OUT, "why": "took too long"}
    except ProcessExpired as error:
        return {"reason": work.CRASHED, "why": f"ended its worker (exit code {error.exitcode})"}


def _confined(gigabytes: float) -> None:
    """In a new worker: no more memory than this, no core files."""
    most = round(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
