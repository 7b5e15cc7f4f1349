"""Numbers for Prometheus: requests as they come, jobs as the store has them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

METHODS = ("GET", "HEAD", "POST", "DELETE")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
STATUSES = ("queued", "in_progress", "completed", "failed")


class Metrics:
    """jobs: how many there are of each status, when asked. workers: how many live."""

    def __init__(self, jobs: Callable[[], Mapping[str, int]], workers: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._jobs, self._workers = jobs, workers
        labels = ["method", "route", "status"]
        self._requests = Counter(
            "vdm_requests", "Requests answered", labels, registry=self._registry
        )
        self._seconds = Histogram(
            "vdm_request_seconds", "Seconds until an answer was sent", ["method", "route"],
            buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._registry.register(self)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        method = method if method in METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def collect(self) -> Iterator[Any]:
        """What the store has, as the client library asks for it."""
        counts = self._jobs()
        jobs = GaugeMetricFamily("vdm_jobs", "Videos, by status", labels=["status"])
        for status in STATUSES:
            jobs.add_metric([status], counts.get(status, 0))
        yield jobs
        yield GaugeMetricFamily("vdm_workers", "Workers that are heard of", self._workers())

    def describe(self) -> list[Any]:
        return []  # nothing is asked of the store until somebody looks

    def text(self) -> bytes:
        return generate_latest(self._registry)
