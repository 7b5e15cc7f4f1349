"""Draw for servers: the process that a server starts, or one that is started on another host."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from vdm_jax.core import config as configs
from vdm_jax.core import options
from vdm_jax.core.refusal import Refusal
from vdm_jax.serve.config import ServeConfig
from vdm_jax.serve.store import schema
from vdm_jax.serve.worker import place
from vdm_jax.serve.worker.watch import Parent

PROG = "python -m vdm_jax.serve worker"


def main(args: Sequence[str]) -> int:
    """Exit code 0 after a stop that was asked for."""
    values, _, rest, lists = options.own(args, ("--slot",), (), ("--model",))
    config = configs.override(ServeConfig(model=tuple(lists["--model"])), rest, prog=PROG)
    config.check()
    data = Path(config.data)
    if not data.is_dir():
        raise Refusal(f"--data {data}: is no folder; give that of the server, on a shared disk")
    slot = values.get("--slot")
    if slot is not None and not slot.isdecimal():
        raise Refusal(f"--slot {slot}: is no number")
    if slot is None and not (config.database or os.environ.get(schema.ADDRESS)):
        raise Refusal(
            "a worker of its own needs the server's PostgreSQL store: --database, or the "
            f"environment's {schema.ADDRESS}"
        )
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str((data / "compiled").absolute()))
    _begin_log()
    parent = None if slot is None else Parent()
    name, lock = place.taken(data, None if slot is None else int(slot))
    database = schema.opened(data, config.database)

    from vdm_jax.serve.worker.loop import Worker, quiet  # JAX, from here on

    quiet()
    worker = Worker(config, database, name)
    if parent is not None:
        parent.tell(worker.watch)

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        worker.watch.stop(config.grace)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    worker.run()
    database.close()
    lock.close()
    return 0


def _begin_log() -> None:
    log = logging.getLogger("vdm_jax.serve")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname).1s worker: %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
