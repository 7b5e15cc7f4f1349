"""Tasks on a Ray cluster: the same tasks, the same results; the folders are on a shared disk."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vdm_jax.core.refusal import Refusal
from vdm_jax.curate import work
from vdm_jax.curate.stage import Resources, Row
from vdm_jax.curate.work import Task


@dataclass(frozen=True, kw_only=True)
class OnRay:
    """address: of the cluster, as `ray.init` takes it; None: RAY_ADDRESS, or one made here.

    A worker that dies has its task done by another one, up to three times.
    """

    address: str | None = None
    resources: Resources = Resources()

    def run(self, queue: deque[Task]) -> Iterator[tuple[Task, Row]]:
        """Each task with its result, as they come, until the queue, which may grow, is empty.

        Twice as many as find room on the cluster are under way at a time.
        """
        try:
            import ray
        except ImportError as error:
            raise Refusal(
                f"--executor ray needs Ray: pip install 'vdm-jax[ray]' ({error})"
            ) from error
        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False)
        cpus, gpus = self.resources.cpus, self.resources.gpus
        memory = round(self.resources.gigabytes * 2**30)
        done: Any = ray.remote(work.done).options(
            num_cpus=cpus, num_gpus=gpus, memory=memory, max_retries=3
        )
        flying: dict[Any, Task] = {}
        while queue or flying:
            room = max(2, round(2 * ray.cluster_resources().get("CPU", 1) / cpus))
            while queue and len(flying) < room:
                task = queue.popleft()
                flying[done.remote(task)] = task
            for future in ray.wait(list(flying))[0]:
                task = flying.pop(future)
                try:
                    yield task, ray.get(future)
                except ray.exceptions.RayError as error:
                    why = str(error).strip().splitlines()[-1]
                    yield task, {"reason": work.CRASHED, "why": f"ended its worker: {why}"}
