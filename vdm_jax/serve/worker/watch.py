"""What a worker does beside drawing: says that it lives and how far it is, hears what to stop."""

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Sequence

import sqlalchemy as sa

from vdm_jax.serve.store.jobs import Claimed, Jobs
from vdm_jax.serve.store.workers import Workers

LOG = logging.getLogger("vdm_jax.serve")
EVERY = 0.4  # seconds between looks at the store
DRAWING, ENDING = 0.7, 0.75  # of the time until this process must be gone
BEAT = 2.0  # seconds between signs of life


class Watch:
    """Speaks to the store while the main thread draws; threads end with the process."""

    def __init__(self, jobs: Jobs, workers: Workers, name: str, device: str, lease: float) -> None:
        self._jobs, self._workers, self._name, self._device = jobs, workers, name, device
        self._lease = lease
        self._lock = threading.Lock()
        self._claimed: Sequence[Claimed] = ()
        self._wanted: set[str] = set()
        self._step, self._steps = 0, 1
        self._stop_at: float | None = None
        self._end_at = math.inf
        self._beaten = time.monotonic()
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    @property
    def stopping(self) -> bool:
        """Whether no more jobs are to be claimed."""
        return self._stop_at is not None

    def stop(self, grace: float) -> None:
        """End after what is being drawn, or between two steps when most of `grace` seconds is over;
        the rest is for putting it back."""
        self._stop_at = time.monotonic() + DRAWING * grace
        self._end_at = time.monotonic() + ENDING * grace

    def begin(self, claimed: Sequence[Claimed], steps: int) -> None:
        with self._lock:
            self._claimed, self._wanted = claimed, {each.id for each in claimed}
            self._step, self._steps = 0, steps

    def end(self) -> None:
        with self._lock:
            self._claimed = ()

    def on_step(self, step: int, steps: int) -> bool:
        """Whether to go on; called between steps."""
        self._step, self._steps = step, steps
        late = self._stop_at is not None and time.monotonic() > self._stop_at
        return bool(self._wanted) and not late

    def give_back(self) -> None:
        """Put back what is being drawn: this process ends, and no job is to blame."""
        self._stop_at = time.monotonic()
        try:
            self._jobs.returned(self._name)
            self._workers.end(self._name)
        except sa.exc.SQLAlchemyError:
            pass  # the next worker of the name finds it

    def _run(self) -> None:
        while True:
            time.sleep(EVERY)
            if time.monotonic() > self._end_at:  # between no two steps: it may be compiling
                self.give_back()
                os._exit(0)
            try:
                self._tell()
            except sa.exc.SQLAlchemyError as error:
                LOG.warning("the job store does not answer: %s", type(error).__name__)
                if time.monotonic() - self._beaten > self._lease:
                    self._wanted = set()  # by now others may be drawing them

    def _tell(self) -> None:
        with self._lock:
            claimed = self._claimed
        if claimed:
            wanted = self._jobs.advance(claimed, self._step, self._steps)
            with self._lock:
                if claimed is self._claimed:
                    self._wanted = wanted
        if time.monotonic() - self._beaten > BEAT:
            if not self._workers.beat(self._name):
                self._workers.begin(self._name, self._device)
            self._beaten = time.monotonic()


class Parent:
    """The server's process that started this one: it writes "stop SECONDS", and once it is gone
    nobody waits for this one, and the next server's worker needs the device."""

    def __init__(self) -> None:
        self._watch: Watch | None = None
        threading.Thread(target=self._listen, name="parent", daemon=True).start()

    def tell(self, watch: Watch) -> None:
        """Whom it tells to stop; until then there is nothing that need be ended in peace."""
        self._watch = watch

    def _listen(self) -> None:
        for line in sys.stdin:
            word, _, seconds = line.strip().partition(" ")
            if word == "stop" and self._watch is not None:
                self._watch.stop(float(seconds))
            elif word == "stop":
                os._exit(0)
        if self._watch is None:
            os._exit(0)
        if not self._watch.stopping:
            self._watch.give_back()
            os._exit(0)
