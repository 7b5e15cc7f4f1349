"""Tasks on this machine: a worker process for each core, ended where it hangs, replaced if it dies.

Media files may be hostile: what kills a worker, or keeps it busy for too long, costs that task.
"""

import os
import resource
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, TimeoutError, wait
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context

from pebble import ProcessExpired, ProcessPool

from vdm_jax.curate import work
from vdm_jax.curate.stage import Row
from vdm_jax.curate.watch import STALL
from vdm_jax.curate.work import Task


@dataclass(frozen=True, kw_only=True)
class Local:
    """workers: processes; None: one for each core. gigabytes: that each may take."""

    workers: int | None = None
    gigabytes: float = 4.0

    def run(self, queue: deque[Task]) -> Iterator[tuple[Task, Row]]:
        """Each task with its result, as they come, until the queue, which may grow, is empty.

        Twice as many as workers are under way at a time.
        """
        count = self.workers or len(os.sched_getaffinity(0))
        config = queue[0].config if queue else None
        flying: dict[Future, Task] = {}
        crashed: set[str] = set()
        with confined(count, self.gigabytes, config) as pool:
            try:
                while queue or flying:
                    while queue and len(flying) < 2 * count:
                        task = queue.popleft()
                        flying[begun(pool, task)] = task
                    for future in wait(flying, return_when=FIRST_COMPLETED).done:
                        task, row = flying.pop(future), result(future)
                        if row.get("reason") == work.CRASHED and task.key not in crashed:
                            crashed.add(task.key)  # something else may have ended the worker
                            queue.append(task)
                        else:
                            yield task, row
            finally:
                if flying:
                    pool.stop()


def confined(workers: int, gigabytes: float, config: str | None) -> ProcessPool:
    """Processes that may take so much memory each, and leave no core files.

    config: whose stages are set up before the time of a task counts.
    """
    most = round(gigabytes * 2**30)
    return ProcessPool(
        workers, initializer=_ready, initargs=(most, config), context=get_context("spawn")
    )


def begun(pool: ProcessPool, task: Task) -> Future:
    return pool.schedule(work.done, args=[task], timeout=task.patience)


def result(future: Future) -> Row:
    """What became of a task that was begun."""
    try:
        return future.result()
    except TimeoutError:
        return {"reason": work.TIMED_OUT, "why": "took too long and was ended"}
    except ProcessExpired as error:
        if error.exitcode == -signal.SIGPROF:
            return {"reason": work.TIMED_OUT, "why": f"took {STALL:g} s for nothing and was ended"}
        return {"reason": work.CRASHED, "why": "ended the process that read it"}


def _ready(most: int, config: str | None) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if config is not None:
        with suppress(Exception):  # fails again in the first task, which says so
            work.prepared(config)
