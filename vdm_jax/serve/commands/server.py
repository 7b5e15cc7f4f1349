"""Run a server: listen, watch the workers, throw away what is past its time, stop in peace."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import FrameType

import sqlalchemy as sa

from vdm_jax.core import config as configs
from vdm_jax.core import folders, options
from vdm_jax.core.refusal import Refusal, Unavailable
from vdm_jax.serve.api import memory
from vdm_jax.serve.api.app import build
from vdm_jax.serve.api.envelope import LOG, Audit
from vdm_jax.serve.api.listen import Listener, bound, is_loopback
from vdm_jax.serve.api.service import Service
from vdm_jax.serve.config import ServeConfig
from vdm_jax.serve.store import keys, schema
from vdm_jax.serve.store.keys import Keys
from vdm_jax.serve.worker.supervise import Supervised

PROG = "python -m vdm_jax.serve"
TIDY = 5.0  # seconds between looks for what is past its time
HANG_UP = 0.1  # of the grace, which is left for answers that have begun
SWEEP = 600.0  # seconds between looks for files of no job
LOG_BYTES, LOG_FILES = 10_000_000, 3
PASSED = "data", "batch_size", "dtype", "grace", "lease"


def main(args: Sequence[str]) -> int:
    _, _, rest, lists = options.own(args, (), (), ("--model",))
    named = ServeConfig(model=tuple(lists["--model"]))
    config = configs.override(named, rest, prog=PROG)
    config.check()
    data = Path(config.data)
    try:
        data.mkdir(mode=keys.OWN, parents=True, exist_ok=True)
        lock = folders.locked(data)
    except OSError as fault:
        raise Refusal(f"--data {data}: cannot be made: {fault.strerror}") from fault
    except Unavailable as refusal:
        raise Unavailable(
            f"--data {data}: another server uses it, or it is not to be had"
        ) from refusal
    with ExitStack() as closing:
        closing.callback(os.umask, os.umask(0o077))  # prompts and pictures are nobody else's
        closing.callback(lock.close)
        for handler in _log_into(data):
            closing.callback(handler.close)
            closing.callback(LOG.removeHandler, handler)
        database = schema.opened(data, config.database)
        closing.callback(database.close)
        sockets, port = bound(config.host, config.port)
        for each in sockets:
            closing.callback(each.close)
        held = Keys(database, keys.pepper(data), config.quota)
        if not held.any() and not is_loopback(sockets):
            raise Refusal(
                f"--host {config.host}: others could use this server, and there is no key yet; "
                f"first {PROG} keys create --data {config.data} --name NAME"
            )
        asked = _asked_to_stop()
        service = Service(config, database, held, asked.is_set)
        closing.callback(service.close)
        memory.given_back()
        most = config.bounds.connections
        listener = Listener(build(service, Audit(data / "audit.log")), sockets, most)
        closing.callback(listener.close, max(1.0, HANG_UP * config.grace))
        who = "whoever has a key" if held.any() else "this machine alone: there is no key"
        LOG.info("http://%s:%d answers %s", _shown(config.host), port, who)
        (data / "port").write_text(f"{port}\n")
        _drawing(service, asked, listener)
    return 0


def _log_into(data: Path) -> list[logging.Handler]:
    """Lines to stderr, and to a file of `data`."""
    form = logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%Y-%m-%d %H:%M:%S")
    kept = RotatingFileHandler(data / "log.txt", maxBytes=LOG_BYTES, backupCount=LOG_FILES)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr), kept]
    for handler in handlers:
        handler.setFormatter(form)
        LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # of clients' broken forms
    return handlers


def worker_arguments(config: ServeConfig) -> list[str]:
    """The options that a worker of this server is started with."""
    given = ["--model", *config.model]
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in PASSED and value != field.default:
            given += [f"--{field.name.replace('_', '-')}", str(value)]
    for field in fields(config.bounds):
        value = getattr(config.bounds, field.name)
        if value != field.default:
            given += [f"--bounds.{field.name.replace('_', '-')}", str(value)]
    return given


def _drawing(service: Service, asked: threading.Event, listener: Listener) -> None:
    """Until a stop is asked for, and what is being drawn then is done or put back."""
    config = service.config
    # in the environment, where `ps` does not see it: it may have a password
    stored = {schema.ADDRESS: config.database} if config.database else {}
    watched = [
        Supervised(
            worker_arguments(config),
            slot,
            service.jobs,
            service.workers,
            lease=config.lease,
            environment=os.environ | stored,
        )
        for slot in range(config.workers)
    ]
    threading.Thread(target=_tidy, args=(service, config), name="tidy", daemon=True).start()
    try:
        while not asked.wait(1.0):
            if not listener.alive:
                raise Unavailable("the listener ended; see the log")
    finally:
        asked.set()
        LOG.info("stopping: %.0f s for what is being drawn", config.grace)
        _all_stopped(watched, config.grace)


def _all_stopped(watched: Sequence[Supervised], grace: float) -> None:
    threads = [threading.Thread(target=each.stop, args=(grace,)) for each in watched]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _asked_to_stop() -> threading.Event:
    """Set by SIGTERM and SIGINT."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        del number, frame
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    return asked


def _tidy(service: Service, config: ServeConfig) -> None:
    """Take out what is past its time, and give away what silent workers were drawing."""
    swept = time.monotonic()
    while True:
        try:
            for worker in service.workers.gone(config.lease):
                LOG.warning("%s is not heard of any more", worker)
            if count := service.jobs.abandoned():
                LOG.warning("%d videos that nobody draws any more go to others", count)
            for job in service.jobs.expired():
                service.files.remove(job)
            if time.monotonic() - swept > SWEEP:
                old = service.files.old()
                for job in set(old) - service.jobs.exist(old):
                    service.files.remove(job)
                swept = time.monotonic()
        except (sa.exc.SQLAlchemyError, OSError) as error:
            LOG.warning("tidying: %s", type(error).__name__)
        time.sleep(TIDY)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
