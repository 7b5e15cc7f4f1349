"""The queue: jobs that are stored before they are accepted, and drawn once whatever crashes.

A job is claimed with a number, its `attempt`, that rises at each claim: who was given an earlier
one can neither finish it nor say how far it is. Its seed is stored, so that a video begun again is
the same video. Who asks for a job says whose it must be; of another's it learns nothing.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from vdm_jax.serve.config import Bounds, Quota
from vdm_jax.serve.store.schema import IDEMPOTENCY, JOBS, USAGE, WORKERS, Database

QUEUED, RUNNING, COMPLETED, FAILED = "queued", "in_progress", "completed", "failed"
RETRIED = 120.0  # seconds within which a client's own retry is taken for the request it repeats
REMEMBERED = 24 * 3600.0  # seconds that an idempotency key is known
HEAD = 64  # jobs of the queue that are looked through for those of the same shape
AT_ONCE = 500  # ids in one question
DAY = "%Y-%m-%d"

Job = Any  # a row of JOBS


@dataclass(frozen=True, kw_only=True)
class New:
    """A job to be. body: a digest of the request that asks for it. cost: frames times pixels.

    idempotency: the client's key, if it gave one. retry: how often the client sent this before.
    """

    owner: str
    kind: str
    model: str
    shape: str
    asked: Mapping[str, Any]
    reference: bool
    parent: str | None
    cost: int
    steps: int
    body: str
    idempotency: str | None
    retry: int


class Denied(Exception):  # noqa: N818 - an answer, not a fault
    """A job that is not taken. code: queue_full, too_many_jobs, insufficient_quota, disk_quota,
    idempotency. wait: seconds after which it may be, where that is known."""

    def __init__(self, code: str, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.code, self.wait = code, wait


class Claimed(NamedTuple):
    """What a worker was given: it speaks for a job by its id and attempt."""

    id: str
    attempt: int


class Jobs:
    """The jobs of a database. Times are seconds since 1970."""

    def __init__(self, database: Database, bounds: Bounds) -> None:
        self._database, self._bounds = database, bounds

    # ---- Asking ----------------------------------------------------------------------------------

    def new_id(self) -> str:
        return f"video_{secrets.token_hex(16)}"

    def add(self, new: New, job: str, quota: Quota) -> tuple[Job, bool]:
        """Store a job under the id `job`: its row, and whether it is new.

        It is not new where the request repeats another: the same idempotency key, or the same body
        sent again by the client within `RETRIED`. Raises Denied.
        """
        now = time.time()
        with self._database.alone() as connection:
            known = self._repeated(connection, new, now)
            if known is not None:
                return known, False
            self._check_room(connection, new, quota, now)
            row = {
                "id": job, "owner": new.owner, "kind": new.kind, "status": QUEUED,
                "model": new.model, "shape": new.shape, "asked": dict(new.asked),
                "reference": new.reference, "parent": new.parent, "cost": new.cost,
                "body": new.body, "retries": new.retry, "created": now, "steps": new.steps,
                "turn": self._turn(connection, new.owner),
            }  # fmt: skip
            connection.execute(sa.insert(JOBS).values(row))
            if new.idempotency is not None:
                kept = {"owner": new.owner, "key": new.idempotency, "body": new.body, "job": job}
                connection.execute(sa.insert(IDEMPOTENCY).values(kept | {"created": now}))
            _charge(connection, new.owner, now, new.cost)
            return _one(connection, JOBS.c.id == job), True

    def get(self, owner: str, job: str) -> Job | None:
        with self._database.reading() as connection:
            return _one(connection, _owned(owner, job))

    def page(
        self, owner: str, limit: int, after: str | None, *, ascending: bool
    ) -> tuple[list[Job], bool] | None:
        """Up to `limit` videos behind the job `after`, and whether there are more; None where there
        is no such job."""
        number = JOBS.c.number
        query = sa.select(JOBS).where(JOBS.c.owner == owner, JOBS.c.kind == "video")
        with self._database.reading() as connection:
            if after is not None:
                at = _one(connection, _owned(owner, after))
                if at is None:
                    return None
                query = query.where(number > at.number if ascending else number < at.number)
            query = query.order_by(number if ascending else number.desc()).limit(limit + 1)
            rows = list(connection.execute(query))
        return rows[:limit], len(rows) > limit

    def delete(self, owner: str, job: str) -> Job | None:
        """The row that was: a worker that draws it stops. What was not begun costs nothing."""
        with self._database.writing() as connection:
            row = connection.execute(
                sa.delete(JOBS).where(_owned(owner, job)).returning(JOBS)
            ).first()
            if row is not None and row.status == QUEUED and not row.attempt:
                _charge(connection, owner, row.created, -row.cost)
            return row

    def used(self, owner: str) -> tuple[int, int]:
        """Jobs of an owner that wait or run, and the frame pixels of today."""
        with self._database.reading() as connection:
            return _active(connection, owner), _spent(connection, owner, time.time())

    def waiting(self) -> list[Job]:
        """The queue in the order in which it is served: (id, shape, turn, number)."""
        columns = JOBS.c.id, JOBS.c.shape
        query = sa.select(*columns).where(JOBS.c.status == QUEUED).order_by(*_ORDER)
        with self._database.reading() as connection:
            return list(connection.execute(query))

    def running(self) -> list[Job]:
        query = sa.select(JOBS.c.id, JOBS.c.shape, JOBS.c.step, JOBS.c.steps, JOBS.c.started)
        with self._database.reading() as connection:
            return list(connection.execute(query.where(JOBS.c.status == RUNNING)))

    def counts(self) -> dict[str, int]:
        query = sa.select(JOBS.c.status, sa.func.count()).group_by(JOBS.c.status)
        with self._database.reading() as connection:
            return {status: count for status, count in connection.execute(query)}

    # ---- Drawing ---------------------------------------------------------------------------------

    def any_waiting(self, models: Sequence[str]) -> bool:
        """Whether `claim` may find something; takes no lock."""
        query = sa.select(JOBS.c.id).where(JOBS.c.status == QUEUED, JOBS.c.model.in_(models))
        with self._database.reading() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def claim(self, worker: str, models: Sequence[str], most: int) -> list[Job]:
        """The next job of these models, and up to `most` in all of its shape; they are running.

        One that took a worker down before is drawn alone.
        """
        now = time.time()
        with self._database.writing() as connection:
            ready = JOBS.c.status == QUEUED, JOBS.c.model.in_(models)
            query = sa.select(JOBS.c.id, JOBS.c.shape, JOBS.c.crashes).where(*ready)
            query = query.order_by(*_ORDER).limit(HEAD).with_for_update(skip_locked=True)
            rows = connection.execute(query).all()
            if not rows:
                return []
            first = rows[0]
            alike = [r.id for r in rows if r.shape == first.shape and not r.crashes]
            chosen = [first.id] if first.crashes else alike[:most]
            changed = {"status": RUNNING, "worker": worker, "attempt": JOBS.c.attempt + 1,
                       "started": now, "step": 0}  # fmt: skip
            taken = sa.update(JOBS).where(JOBS.c.id.in_(chosen)).values(changed).returning(JOBS)
            return sorted(connection.execute(taken), key=lambda row: (row.turn, row.number))

    def advance(self, claimed: Sequence[Claimed], step: int, steps: int) -> set[str]:
        """Say how far jobs are; those that are still wanted."""
        with self._database.writing() as connection:
            wanted = set()
            for each in claimed:
                said = sa.update(JOBS).where(_mine(each)).values(step=step, steps=steps)
                if connection.execute(said).rowcount:
                    wanted.add(each.id)
            return wanted

    def complete(
        self, claimed: Claimed, seconds: float, size: int, publish: Callable[[], None]
    ) -> bool:
        """Whether the result counts: false where the job was deleted, or given to another.

        publish: puts the files in place, while nobody else can end the job; what it raises leaves
        the job as it was.
        """
        now = time.time()
        done = {"status": COMPLETED, "finished": now, "seconds": seconds, "bytes": size,
                "expires": now + 3600 * self._bounds.keep_hours, "step": JOBS.c.steps,
                "worker": None}  # fmt: skip
        return self._end(claimed, done, publish)

    def fail(self, claimed: Claimed, code: str, message: str) -> bool:
        now = time.time()
        failed = {"status": FAILED, "finished": now, "error_code": code, "error_message": message,
                  "expires": now + 3600 * self._bounds.keep_hours, "worker": None}  # fmt: skip
        return self._end(claimed, failed)

    def release(self, claimed: Sequence[Claimed]) -> None:
        """Put jobs back that were not finished, through no fault of theirs."""
        for each in claimed:
            self._end(each, _AGAIN)

    def returned(self, worker: str) -> None:
        """Put back what a worker has that is well but draws nothing, or will not any more."""
        held = (JOBS.c.worker == worker) & (JOBS.c.status == RUNNING)
        with self._database.writing() as connection:
            connection.execute(sa.update(JOBS).where(held).values(_AGAIN))

    def crashed(self, claimed: Sequence[Claimed]) -> None:
        """Put jobs back that may be what went wrong; the last time, give them up."""
        with self._database.writing() as connection:
            for each in claimed:
                self._crashed(connection, _mine(each))

    def orphaned(self, worker: str) -> int:
        """What a worker was drawing that is gone; how many there were."""
        with self._database.writing() as connection:
            return self._crashed(connection, JOBS.c.worker == worker)

    def abandoned(self) -> int:
        """What workers were drawing of which nothing is known; how many there were."""
        with self._database.writing() as connection:
            return self._crashed(connection, JOBS.c.worker.not_in(sa.select(WORKERS.c.name)))

    def _crashed(self, connection: Connection, which: Any) -> int:
        running = which & (JOBS.c.status == RUNNING)
        again = {**_AGAIN, "crashes": JOBS.c.crashes + 1}
        found = connection.execute(sa.update(JOBS).where(running).values(again)).rowcount
        now = time.time()
        lost = (JOBS.c.status == QUEUED) & (JOBS.c.crashes >= self._bounds.attempts)
        given_up = {"status": FAILED, "finished": now, "error_code": "worker_crashed",
                    "error_message": "drawing this video stopped the worker several times",
                    "expires": now + 3600 * self._bounds.keep_hours}  # fmt: skip
        connection.execute(sa.update(JOBS).where(lost).values(given_up))
        return found

    def _end(
        self, claimed: Claimed, values: Mapping[str, Any], then: Callable[[], None] | None = None
    ) -> bool:
        with self._database.writing() as connection:
            ended = connection.execute(sa.update(JOBS).where(_mine(claimed)).values(dict(values)))
            if ended.rowcount and then is not None:
                then()
            return bool(ended.rowcount)

    # ---- Keeping ---------------------------------------------------------------------------------

    def expired(self) -> list[str]:
        """Take out what is past its time; the ids, whose files may go."""
        now = time.time()
        with self._database.writing() as connection:
            gone = sa.delete(JOBS).where(JOBS.c.expires < now).returning(JOBS.c.id)
            ids = [row.id for row in connection.execute(gone)]
            old = sa.delete(IDEMPOTENCY).where(IDEMPOTENCY.c.created < now - REMEMBERED)
            connection.execute(old)
            return ids

    def exist(self, jobs: Sequence[str]) -> set[str]:
        found: set[str] = set()
        with self._database.reading() as connection:
            for start in range(0, len(jobs), AT_ONCE):
                part = jobs[start : start + AT_ONCE]
                rows = connection.execute(sa.select(JOBS.c.id).where(JOBS.c.id.in_(part)))
                found |= {row.id for row in rows}
        return found

    # ---- Rules -----------------------------------------------------------------------------------

    def _repeated(self, connection: Connection, new: New, now: float) -> Job | None:
        if new.idempotency is not None:
            mine = (IDEMPOTENCY.c.owner == new.owner) & (IDEMPOTENCY.c.key == new.idempotency)
            known = connection.execute(sa.select(IDEMPOTENCY).where(mine)).first()
            if known is None:
                return None
            if known.body != new.body:
                raise Denied("idempotency", "this Idempotency-Key was used for another request")
            job = _one(connection, JOBS.c.id == known.job)
            if job is None:
                connection.execute(sa.delete(IDEMPOTENCY).where(mine))
            return job
        if not new.retry:
            return None
        same = (JOBS.c.owner == new.owner) & (JOBS.c.body == new.body)
        recent = same & (JOBS.c.created > now - RETRIED) & (JOBS.c.retries < new.retry)
        query = sa.select(JOBS).where(recent).order_by(JOBS.c.number.desc()).limit(1)
        job = connection.execute(query).first()
        if job is not None:
            again = sa.update(JOBS).where(JOBS.c.id == job.id).values(retries=new.retry)
            connection.execute(again)
        return job

    def _check_room(self, connection: Connection, new: New, quota: Quota, now: float) -> None:
        if _active(connection, new.owner) >= quota.concurrent_videos:
            raise Denied(
                "too_many_jobs",
                f"{quota.concurrent_videos} videos of this key wait or are being drawn; "
                "wait for one, or delete one",
                5.0,
            )
        if not self._queue_takes(connection, new.owner):
            raise Denied("queue_full", "the queue is full; come back later", 10.0)
        most = quota.frame_pixels_per_day
        if most is not None and _spent(connection, new.owner, now) + new.cost > most:
            raise Denied(
                "insufficient_quota",
                f"this key's budget of {most} frame pixels a day does not have the {new.cost} "
                "that this video takes; days begin at 0:00 UTC",
                86400 - now % 86400,
            )
        kept = connection.scalar(sa.select(sa.func.sum(JOBS.c.bytes))) or 0
        if kept > self._bounds.disk_gb * 1e9:
            raise Denied("disk_quota", "no more room for videos; delete some, or wait", 60.0)

    def _queue_takes(self, connection: Connection, owner: str) -> bool:
        """Whether there is room; where others filled it, an owner still has an equal share, so
        that the queue may grow to twice its length."""
        queued = sa.select(JOBS.c.owner, sa.func.count()).where(JOBS.c.status == QUEUED)
        of = {each: n for each, n in connection.execute(queued.group_by(JOBS.c.owner))}
        total, most = sum(of.values()), self._bounds.queue
        if total < most:
            return True
        share = most // len({*of, owner})
        return total < 2 * most and of.get(owner, 0) < share

    def _turn(self, connection: Connection, owner: str) -> int:
        """Behind the owner's own jobs, and beside the first of everybody else."""
        queued = JOBS.c.status == QUEUED
        last = connection.scalar(
            sa.select(sa.func.max(JOBS.c.turn)).where(queued, JOBS.c.owner == owner)
        )
        if last is not None:
            return last + 1
        first = connection.scalar(sa.select(sa.func.min(JOBS.c.turn)).where(queued))
        return 0 if first is None else first


_AGAIN = {"status": QUEUED, "worker": None, "started": None, "step": 0}
_ORDER = JOBS.c.turn, JOBS.c.number


def _owned(owner: str, job: str) -> Any:
    return (JOBS.c.id == job) & (JOBS.c.owner == owner)


def _mine(claimed: Claimed) -> Any:
    held = (JOBS.c.id == claimed.id) & (JOBS.c.attempt == claimed.attempt)
    return held & (JOBS.c.status == RUNNING)


def _one(connection: Connection, which: Any) -> Job | None:
    return connection.execute(sa.select(JOBS).where(which)).first()


def _active(connection: Connection, owner: str) -> int:
    active = JOBS.c.status.in_((QUEUED, RUNNING)), JOBS.c.owner == owner
    return connection.scalar(sa.select(sa.func.count()).where(*active)) or 0


def _spent(connection: Connection, owner: str, now: float) -> int:
    today = USAGE.c.owner == owner, USAGE.c.day == _day(now)
    return connection.scalar(sa.select(USAGE.c.frame_pixels).where(*today)) or 0


def _charge(connection: Connection, owner: str, when: float, cost: int) -> None:
    day = _day(when)
    which = USAGE.c.owner == owner, USAGE.c.day == day
    more = sa.update(USAGE).where(*which).values(frame_pixels=USAGE.c.frame_pixels + cost)
    if not connection.execute(more).rowcount:
        new = {"owner": owner, "day": day, "frame_pixels": max(0, cost)}
        connection.execute(sa.insert(USAGE).values(new))


def _day(now: float) -> str:
    return time.strftime(DAY, time.gmtime(now))
