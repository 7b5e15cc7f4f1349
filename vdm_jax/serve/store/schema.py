"""The tables, and a connection to the database that holds them: SQLite, or PostgreSQL."""

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from vdm_jax.core.refusal import Refusal, Unavailable

PATIENCE = 20  # seconds that a transaction waits for another
MARK = "store"  # the file that says to which store a folder belongs
ADDRESS = "VDM_DATABASE"  # of the environment
GATE_LOCK = 0x76646D  # a number that this program's processes lock by
TABLES = sa.MetaData()

Text, Real, Int = sa.Text, sa.Double, sa.BigInteger

JOBS = sa.Table(
    "jobs",
    TABLES,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("id", Text, nullable=False, unique=True),
    sa.Column("owner", Text, nullable=False),
    sa.Column("kind", Text, nullable=False),  # video or image
    sa.Column("status", Text, nullable=False),
    sa.Column("model", Text, nullable=False),
    sa.Column("shape", Text, nullable=False),  # jobs of one shape are drawn together
    sa.Column("asked", sa.JSON, nullable=False),
    sa.Column("reference", sa.Boolean, nullable=False),
    sa.Column("parent", Text),
    sa.Column("cost", Int, nullable=False),  # frames times pixels
    sa.Column("body", Text, nullable=False),  # a digest of the request
    sa.Column("retries", Int, nullable=False),
    sa.Column("turn", Int, nullable=False),  # the place in the queue, before the number
    sa.Column("created", Real, nullable=False),
    sa.Column("started", Real),
    sa.Column("finished", Real),
    sa.Column("expires", Real),
    sa.Column("worker", Text),
    sa.Column("attempt", Int, nullable=False, default=0),  # rises with every claim
    sa.Column("crashes", Int, nullable=False, default=0),
    sa.Column("step", Int, nullable=False, default=0),
    sa.Column("steps", Int, nullable=False),
    sa.Column("seconds", Real),
    sa.Column("bytes", Int, nullable=False, default=0),
    sa.Column("error_code", Text),
    sa.Column("error_message", Text),
    sa.Index("jobs_queue", "status", "turn", "number"),
    sa.Index("jobs_owner", "owner", "number"),
    sa.Index("jobs_body", "owner", "body"),
)
IDEMPOTENCY = sa.Table(
    "idempotency",
    TABLES,
    sa.Column("owner", Text, primary_key=True),
    sa.Column("key", Text, primary_key=True),
    sa.Column("body", Text, nullable=False),
    sa.Column("job", Text, nullable=False),
    sa.Column("created", Real, nullable=False),
)
USAGE = sa.Table(
    "usage",
    TABLES,
    sa.Column("owner", Text, primary_key=True),
    sa.Column("day", Text, primary_key=True),
    sa.Column("frame_pixels", Int, nullable=False),
)
KEYS = sa.Table(
    "keys",
    TABLES,
    sa.Column("id", Text, primary_key=True),
    sa.Column("owner", Text, nullable=False),
    sa.Column("name", Text, nullable=False),
    sa.Column("digest", Text, nullable=False),
    sa.Column("scopes", Text, nullable=False),
    sa.Column("quota", sa.JSON, nullable=False),
    sa.Column("created", Real, nullable=False),
    sa.Column("expires", Real),
    sa.Column("revoked", Real),
    sa.Column("used", Real),
)
WORKERS = sa.Table(
    "workers",
    TABLES,
    sa.Column("name", Text, primary_key=True),
    sa.Column("started", Real, nullable=False),
    sa.Column("heartbeat", Real, nullable=False),
    sa.Column("device", Text, nullable=False),
)
MODELS = sa.Table(
    "models",
    TABLES,
    sa.Column("worker", Text, primary_key=True),
    sa.Column("name", Text, primary_key=True),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("state", Text, nullable=False),
    sa.Column("message", Text),
    sa.Column("created", Real, nullable=False),
)
PROGRAMS = sa.Table(
    "programs",
    TABLES,
    sa.Column("worker", Text, primary_key=True),
    sa.Column("shape", Text, primary_key=True),
    sa.Column("model", Text, nullable=False),
    sa.Column("state", Text, nullable=False),  # compiling, ready, or known: of an earlier process
    sa.Column("compiling", Real),  # seconds
    sa.Column("drawing", Real),  # seconds a video
    sa.Column("used", Real, nullable=False),
)
GATE = sa.Table(
    "gate",
    TABLES,
    sa.Column("id", Int, primary_key=True),
    sa.Column("identity", Text, nullable=False),  # of this store, which its folder names too
)


class Database:
    """Transactions on the tables; calls may come from any thread and from several processes."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writing = threading.Lock()  # SQLite has one writer, and waits for it by polling

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that is on the disk when the block is left, or did not happen."""
        if self.engine.dialect.name != "sqlite":
            with self.engine.begin() as connection:
                yield connection
            return
        with self._writing, self.engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")

    @contextmanager
    def alone(self) -> Iterator[Connection]:
        """A transaction beside which no other of this kind runs, in any process."""
        with self.writing() as connection:
            connection.execute(sa.select(GATE.c.id).with_for_update())
            yield connection

    def close(self) -> None:
        self.engine.dispose()


def opened(data: Path, address: str) -> Database:
    """The database at `address`, or the SQLite file in `data`, with its tables made.

    Raises Refusal for an address of another kind and for a folder whose videos another database
    knows, Unavailable where it cannot be reached.
    """
    address = address or os.environ.get(ADDRESS, "")
    database = Database(_postgresql(address) if address else _sqlite(data / "jobs.sqlite"))
    try:
        with database.writing() as connection:
            if address:  # others may be making them too
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(GATE_LOCK)))
            TABLES.create_all(connection)
            if connection.execute(sa.select(GATE.c.id)).first() is None:
                new = {"id": 1, "identity": secrets.token_hex(16)}
                connection.execute(sa.insert(GATE).values(new))
            identity = str(connection.scalar(sa.select(GATE.c.identity)))
    except sa.exc.SQLAlchemyError as error:
        what = " ".join(str(getattr(error, "orig", error)).split())
        raise Unavailable(f"the job store cannot be opened: {what}") from None
    try:
        _check_belongs(data, identity)
    except Refusal:
        database.close()
        raise
    return database


def _check_belongs(data: Path, identity: str) -> None:
    """Refuse a folder whose videos another store knows: this one would take them for leftovers."""
    mark = data / MARK
    if mark.exists():
        same = mark.read_text().strip() == identity
    else:
        same = not any(data.glob("videos/*/video_*"))
        if same:
            mark.write_text(f"{identity}\n")
    if not same:
        raise Refusal(
            f"--data {data}: its videos belong to another job store; is {ADDRESS} or --database as "
            "it was?"
        )


def _sqlite(path: Path) -> Engine:
    """Written ahead, and to the disk at each commit: what was answered is not forgotten."""
    engine = sa.create_engine(
        f"sqlite:///{path}",
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,  # prompts are not for logs
        pool_size=24,
        max_overflow=24,
        connect_args={"timeout": PATIENCE, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        del record
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _postgresql(address: str) -> Engine:
    try:
        url = sa.make_url(address)
    except sa.exc.ArgumentError:
        raise Refusal("--database: that is no address; write postgresql://user@host/name") from None
    if url.get_backend_name() != "postgresql":
        raise Refusal(f"--database: {url.get_backend_name()} is not supported; use postgresql://")
    url = url.set(drivername="postgresql+psycopg")
    patience = {"connect_timeout": PATIENCE, "options": f"-c lock_timeout={PATIENCE}s"}
    return sa.create_engine(
        url,
        pool_size=16,
        max_overflow=16,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args=patience,
    )
