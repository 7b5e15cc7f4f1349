"""Where jobs stand: their place in the queue and how long it may take, from one look at it all."""

import threading
import time
from collections.abc import Mapping
from typing import Any

from vdm_jax.serve.store.jobs import Jobs
from vdm_jax.serve.store.workers import Workers

FRESH = 0.3  # seconds that a look at the queue may be old


class Queue:
    """The queue as it was a moment ago; calls may come from any thread."""

    def __init__(self, jobs: Jobs, workers: Workers, lease: float) -> None:
        self._jobs, self._workers, self._lease = jobs, workers, lease
        self._lock, self._seen = threading.Lock(), 0.0
        self._places: Mapping[str, Mapping[str, Any]] = {}

    def place(self, job: Any) -> Mapping[str, Any]:
        """{"queue_position", "eta_seconds"} of a job that is not done, as far as they are known."""
        if job.status not in ("queued", "in_progress"):
            return {}
        return self._now().get(job.id, {})

    def _now(self) -> Mapping[str, Mapping[str, Any]]:
        with self._lock:
            if time.monotonic() - self._seen > FRESH:
                self._places, self._seen = self._looked(), time.monotonic()
            return self._places

    def _looked(self) -> dict[str, dict[str, Any]]:
        """Those who run end by what is left of their steps; the rest one after another."""
        took = {p.shape: p.drawing for p in self._workers.programs() if p.drawing is not None}
        mean = sum(took.values()) / len(took) if took else None
        hands = max(1, len(self._workers.alive(self._lease)))
        places: dict[str, dict[str, Any]] = {}
        busy, now = 0.0, time.time()
        for job in self._jobs.running():
            each = took.get(job.shape, mean)
            left = None
            if job.step:
                left = (now - job.started) / job.step * (job.steps - job.step)
            elif each is not None:
                left = each
            places[job.id] = {"queue_position": None, "eta_seconds": _rounded(left)}
            busy = max(busy, left or 0.0)
        for number, job in enumerate(self._jobs.waiting(), start=1):
            each = took.get(job.shape, mean)
            busy += (each or 0.0) / hands
            eta = None if each is None else busy
            places[job.id] = {"queue_position": number, "eta_seconds": _rounded(eta)}
        return places


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(max(0.0, seconds), 1)
