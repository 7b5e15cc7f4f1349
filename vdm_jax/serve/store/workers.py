"""What workers say of themselves: that they live, which models they have, what they compiled."""

import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from vdm_jax.serve.store.schema import MODELS, PROGRAMS, WORKERS, Database

LOADING, READY, FAILED = "loading", "ready", "failed"
COMPILING, KNOWN = "compiling", "known"
SMOOTH = 0.3  # of a new time in the running mean


class Workers:
    """The workers of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, worker: str, device: str) -> None:
        """A worker starts under this name: nothing that an earlier one compiled is ready."""
        now = time.time()
        with self._database.writing() as connection:
            connection.execute(sa.delete(WORKERS).where(WORKERS.c.name == worker))
            row = {"name": worker, "started": now, "heartbeat": now, "device": device}
            connection.execute(sa.insert(WORKERS).values(row))
            mine = PROGRAMS.c.worker == worker
            connection.execute(sa.update(PROGRAMS).where(mine).values(state=KNOWN))

    def beat(self, worker: str) -> bool:
        """Say that it lives; false where it was taken for dead, and its jobs were given away."""
        alive = sa.update(WORKERS).where(WORKERS.c.name == worker).values(heartbeat=time.time())
        with self._database.writing() as connection:
            return bool(connection.execute(alive).rowcount)

    def end(self, worker: str) -> None:
        """It will not say anything any more; what it knew of its models' times stays."""
        with self._database.writing() as connection:
            connection.execute(sa.delete(WORKERS).where(WORKERS.c.name == worker))

    def gone(self, lease: float) -> list[str]:
        """Workers that were silent for longer than `lease` seconds; they are forgotten."""
        with self._database.writing() as connection:
            silent = WORKERS.c.heartbeat < time.time() - lease
            rows = connection.execute(sa.delete(WORKERS).where(silent).returning(WORKERS.c.name))
            return [row.name for row in rows]

    def alive(self, lease: float) -> list[Any]:
        heard = WORKERS.c.heartbeat >= time.time() - lease
        with self._database.reading() as connection:
            return list(connection.execute(sa.select(WORKERS).where(heard)))

    def tell(
        self,
        worker: str,
        model: str,
        state: str,
        facts: Mapping[str, Any],
        message: str | None = None,
    ) -> None:
        """How a model is; facts: as `sample.studio` tells them."""
        mine = (MODELS.c.worker == worker) & (MODELS.c.name == model)
        said = {"state": state, "facts": dict(facts), "message": message}
        with self._database.writing() as connection:
            if not connection.execute(sa.update(MODELS).where(mine).values(said)).rowcount:
                new = {"worker": worker, "name": model, "created": time.time()} | said
                connection.execute(sa.insert(MODELS).values(new))

    def models(self) -> list[Any]:
        with self._database.reading() as connection:
            return list(connection.execute(sa.select(MODELS).order_by(MODELS.c.created)))

    def program(self, worker: str, model: str, shape: str, **said: Any) -> None:
        """How a program is. said: of state, compiling and drawing; drawing is averaged."""
        mine = (PROGRAMS.c.worker == worker) & (PROGRAMS.c.shape == shape)
        now = time.time()
        with self._database.writing() as connection:
            known = connection.execute(sa.select(PROGRAMS).where(mine)).first()
            if known is None:
                said = {"state": READY, "model": model} | said
                new = {"worker": worker, "shape": shape, "used": now} | said
                connection.execute(sa.insert(PROGRAMS).values(new))
                return
            if "drawing" in said and known.drawing is not None:
                said["drawing"] = (1 - SMOOTH) * known.drawing + SMOOTH * said["drawing"]
            connection.execute(sa.update(PROGRAMS).where(mine).values(used=now, **said))

    def programs(self) -> list[Any]:
        with self._database.reading() as connection:
            query = sa.select(PROGRAMS).order_by(PROGRAMS.c.used.desc()).limit(200)
            return list(connection.execute(query))
