"""Tasks on a Ray cluster: the same tasks, the same results; the folders are on a shared disk."""

import os
import socket
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pebble import ProcessPool

from vdm_jax.core.refusal import Refusal
from vdm_jax.curate import local, work
from vdm_jax.curate.stage import Resources, Row
from vdm_jax.curate.work import Task


@dataclass(frozen=True, kw_only=True)
class OnRay:
    """address: of the cluster, as `ray.init` takes it; None: RAY_ADDRESS, or one made here.

    Each of Ray's workers has its tasks done by a process of its own, as `Local` does: a media file
    cannot end it. So whatever ends a worker is no fault of a file, and its task is done again
    elsewhere.
    """

    address: str | None = None
    resources: Resources = field(default_factory=Resources)

    def run(self, queue: deque[Task]) -> Iterator[tuple[Task, Row]]:
        """Each task with its result, as they come, until the queue, which may grow, is empty.

        Twice as many as find room on the cluster are under way at a time.
        """
        try:
            import ray
        except ImportError as error:
            raise Refusal(
                f"--executor ray needs Ray: pip install 'vdm-jax[curate,ray]' ({error})"
            ) from error
        _join(ray, self.address)
        remote: Any = ray.remote(_done).options(
            num_cpus=self.resources.cpus,
            num_gpus=self.resources.gpus,
            memory=round(self.resources.gigabytes * 2**30),
            max_retries=-1,
        )
        flying: dict[Any, Task] = {}
        try:
            while queue or flying:
                room = max(2, 2 * round(_cpus(ray) / self.resources.cpus))
                while queue and len(flying) < room:
                    task = queue.popleft()
                    flying[remote.remote(task, self.resources.gigabytes)] = task
                for reference in ray.wait(list(flying), timeout=10)[0]:
                    yield flying.pop(reference), _result(ray, reference)
        finally:
            for reference in flying:
                ray.cancel(reference, force=True)


def _join(ray: Any, address: str | None) -> None:
    if ray.is_initialized():
        return
    asked = address or os.environ.get("RAY_ADDRESS", "")
    _answers(asked)
    own: dict[str, Any] = {"address": address}
    if not asked:  # one of our own, seen by no other
        own = {"address": "local", "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(log_to_driver=False, logging_level="warning", **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise Refusal(f"--address {asked}: no Ray cluster there ({error})") from error


def _answers(address: str) -> None:
    """Refuse a host and port at which nobody listens; Ray itself tries for a quarter of an hour."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise Refusal(f"--address {address}: no Ray cluster there ({error})") from error


def _cpus(ray: Any) -> float:
    """Of all nodes, as many as there are just now."""
    return ray.cluster_resources().get("CPU", 1.0)


def _result(ray: Any, reference: Any) -> Row:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, Refusal):
            raise error.cause from None
        raise


def _done(task: Task, gigabytes: float) -> Row:
    """In one of Ray's workers; twice where it crashes, as something else may have ended it."""
    row = local.result(local.begun(_pool(gigabytes, task.config), task))
    if row.get("reason") == work.CRASHED:
        row = local.result(local.begun(_pool(gigabytes, task.config), task))
    return row


@cache
def _pool(gigabytes: float, config: str) -> ProcessPool:
    return local.confined(1, gigabytes, config)
