"""Tasks on a Ray cluster: the same tasks, the same results; the folders are on a shared disk."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from vdm_jax.core.refusal import Refusal
from vdm_jax.curate import work
from vdm_jax.curate.stage import Resources, Row
from vdm_jax.curate.work import Task


@dataclass(frozen=True, kw_only=True)
class OnRay:
    """address: of the cluster, as `ray.init` takes it; None: RAY_ADDRESS, or one made here.

    A worker that dies has its task done by another one, three times.
    """

    address: str | None = None
    resources: Resources = Resources()

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Row]]:
        """Each task with its result, as they come; twice as many as CPUs are under way."""
        try:
            import ray
        except ImportError as error:
            raise Refusal(f"--executor ray needs Ray: pip install 'vdm-jax[ray]' ({error})") from error
        if not ray.is_initialized():
            ray.init(address=self.address, log_to_driver=False)
        needs = self.resources
        remote = ray.remote(work.done).options(
            num_cpus=needs.cpus, num_gpus=needs.gpus, memory=round(needs.gigabytes * 2**30),
            max_retries=3,
        )  # fmt: skip
        waiting, flying = iter(tasks), {}
        while True:
            room = max(2, round(2 * ray.cluster_resources().get("CPU", 1) / needs.cpus))
            for task in islice(waiting, room - len(flying)):
                flying[remote.remote(task)] = task
            if not flying:
                return
            for future in ray.wait(list(flying))[0]:
                task = flying.pop(future)
                try:
                    yield task, ray.get(future)
                except ray.exceptions.RayError as error:
                    why = str(error).strip().splitlines()[-1]
                    yield task, {"reason": work.CRASHED, "why": f"ended its worker ({why})"}
