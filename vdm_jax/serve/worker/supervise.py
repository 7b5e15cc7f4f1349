"""The server's side of its worker: starts it, watches it, starts it again, stops it in peace."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import sqlalchemy as sa

from vdm_jax.serve.store.jobs import Jobs
from vdm_jax.serve.store.workers import Workers
from vdm_jax.serve.worker.place import name_of

LOG = logging.getLogger("vdm_jax.serve")
EVERY = 0.5  # seconds between looks
FIRST, LONGEST = 0.2, 30.0  # seconds until a worker that died is started again
STEADY = 5.0  # seconds after which one that lived has a clean record
MISSED = 3.0  # seconds beyond its lease that a worker is waited for, as the store was away perhaps
STARTING = 120.0  # seconds that it may take until it is heard of
KILLED = 0.8  # of the grace, after which it is killed


class Supervised:
    """Worker `slot` of this host as a child process, started anew whenever it dies."""

    def __init__(
        self,
        arguments: Sequence[str],
        slot: int,
        jobs: Jobs,
        workers: Workers,
        *,
        lease: float,
        environment: Mapping[str, str],
    ) -> None:
        self._environment = environment
        self._command = [sys.executable, "-m", "vdm_jax.serve", "worker", *arguments]
        self._command += ["--slot", str(slot)]
        self._name, self._jobs, self._workers, self._lease = name_of(slot), jobs, workers, lease
        self._pause, self._stopping = FIRST, threading.Event()
        self._process = self._begun_anew()
        self._thread = threading.Thread(target=self._run, name="supervise", daemon=True)
        self._thread.start()

    def stop(self, grace: float) -> None:
        """Let it end what it draws; when `grace` seconds are nearly over, what is left goes back
        into the queue, whatever the worker does."""
        self._stopping.set()
        self._thread.join()
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(f"stop {grace}\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            pass  # it is gone already
        try:
            self._process.wait(KILLED * grace)
        except subprocess.TimeoutExpired:
            LOG.warning("%s did not end in time: killed", self._name)
            self._process.kill()
            self._process.wait()
            with suppress(sa.exc.SQLAlchemyError):
                self._jobs.returned(self._name)  # it may have been compiling, which takes its time
        self._buried()

    def _begun_anew(self) -> subprocess.Popen[str]:
        self._begun = self._last = time.monotonic()
        self._since, self._heard = time.time(), False
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=self._environment,
        )

    def _run(self) -> None:
        while not self._stopping.wait(EVERY):
            if self._process.poll() is None:
                if self._hangs():
                    LOG.error("%s says nothing: killed", self._name)
                    self._process.kill()
                continue
            lived = time.monotonic() - self._begun
            self._pause = FIRST if lived > STEADY else min(LONGEST, 2 * self._pause)
            LOG.error(
                "%s ended with %s after %.0f s; starting it again in %.1f s",
                self._name, self._process.returncode, lived, self._pause,
            )  # fmt: skip
            self._buried()
            if self._stopping.wait(self._pause):
                return
            try:
                self._process = self._begun_anew()
            except OSError as fault:
                LOG.error("%s cannot be started: %s", self._name, fault.strerror)

    def _hangs(self) -> bool:
        """Whether it was heard of and is no longer, or never was: stopped, or stuck."""
        try:
            alive = {each.name: each.started for each in self._workers.alive(self._lease)}
        except sa.exc.SQLAlchemyError:
            alive = None
        now = time.monotonic()
        if alive is None:
            self._last = now
        elif alive.get(self._name, 0.0) >= self._since:  # not what an earlier process said
            self._heard, self._last = True, now
        return now - self._last > (MISSED if self._heard else max(STARTING, self._lease))

    def _buried(self) -> None:
        """Nobody draws what it was drawing."""
        with suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._workers.end(self._name)
            self._jobs.orphaned(self._name)
        except sa.exc.SQLAlchemyError as error:
            LOG.error("the job store does not answer: %s", type(error).__name__)
