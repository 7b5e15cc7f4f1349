"""The queue and its files, on SQLite and on a real PostgreSQL."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from serve.served import ROOT

from vdm_jax.serve.config import Bounds, Quota
from vdm_jax.serve.store import jobs as stored
from vdm_jax.serve.store import schema
from vdm_jax.serve.store.files import VIDEO, Files
from vdm_jax.serve.store.jobs import Claimed, Denied, Jobs, New
from vdm_jax.serve.store.schema import IDEMPOTENCY, JOBS
from vdm_jax.serve.store.workers import Workers

FREE = Quota(concurrent_videos=10_000)
SECONDS = 60.0


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request):
    """Of a new store; empty is SQLite's."""
    return "" if request.param == "sqlite" else request.getfixturevalue("postgres").made()


@pytest.fixture
def database(address, tmp_path):
    database = schema.opened(tmp_path, address)
    yield database
    database.close()


@pytest.fixture
def queue(database):
    return Jobs(database, Bounds())


def new(owner="ann", *, shape="m/16x16x4/2/plain", body="", idempotency=None, retry=0, **given):
    asked = {"prompt": "a red circle", "fps": 5}
    whole = {"kind": "video", "model": "m", "asked": asked, "reference": False, "parent": None,
             "cost": 10, "steps": 2} | given  # fmt: skip
    return New(
        owner=owner, shape=shape, body=body, idempotency=idempotency, retry=retry, **whole
    )  # fmt: skip


def add(queue, *args, quota=FREE, **given):
    """The id of a job that is stored, or of the one that it repeats."""
    return queue.add(new(*args, **given), queue.new_id(), quota)[0].id


def claim(queue, most=1, worker="w-0"):
    return [Claimed(row.id, row.attempt) for row in queue.claim(worker, ["m"], most)]


def complete(queue, claimed):
    return queue.complete(claimed, 1.5, 100, lambda: None)


def denied(queue, *args, **given):
    with pytest.raises(Denied) as caught:
        add(queue, *args, **given)
    return caught.value


# ---- One job -------------------------------------------------------------------------------------


def test_a_job_goes_from_the_queue_to_its_end(queue):
    job = add(queue)
    assert queue.get("ann", job).status == "queued" and queue.any_waiting(["m"])
    (claimed,) = claim(queue)
    row = queue.get("ann", job)
    assert (row.status, row.worker, row.attempt) == ("in_progress", "w-0", 1)
    assert queue.advance([claimed], 1, 2) == {job}
    assert queue.get("ann", job).step == 1
    assert complete(queue, claimed)
    row = queue.get("ann", job)
    assert (row.status, row.step, row.seconds, row.bytes) == ("completed", 2, 1.5, 100)
    assert row.created <= row.started <= row.finished < row.expires and row.worker is None
    assert not queue.any_waiting(["m"]) and claim(queue) == []


def test_what_was_stored_is_there_for_the_next_process(queue, address, tmp_path):
    job = add(queue)
    again = schema.opened(tmp_path, address)
    assert Jobs(again, Bounds()).get("ann", job).asked == {"prompt": "a red circle", "fps": 5}
    again.close()


def test_another_owner_learns_nothing(queue):
    job = add(queue)
    assert queue.get("bob", job) is None and queue.delete("bob", job) is None
    assert queue.page("bob", 5, job, ascending=True) is None
    assert queue.page("bob", 5, None, ascending=True) == ([], False)
    assert queue.used("bob") == (0, 0) and queue.get("ann", job) is not None


def test_a_job_of_another_model_is_not_claimed(queue):
    add(queue, model="other")
    assert not queue.any_waiting(["m"]) and claim(queue) == []


# ---- Whose turn it is to write -------------------------------------------------------------------


def test_who_was_given_an_earlier_attempt_can_do_nothing(queue):
    job = add(queue)
    (stale,) = claim(queue, worker="w-0")
    assert queue.orphaned("w-0") == 1
    (held,) = claim(queue, worker="w-1")
    assert held == Claimed(job, 2)
    published = []
    assert queue.advance([stale], 1, 2) == set()
    assert not queue.complete(stale, 1.0, 1, lambda: published.append(1)) and not published
    assert not queue.fail(stale, "storage", "no")
    queue.release([stale])
    queue.crashed([stale])
    row = queue.get("ann", job)
    assert (row.status, row.worker, row.step, row.crashes) == ("in_progress", "w-1", 0, 1)
    assert complete(queue, held) and not complete(queue, held)
    assert not queue.fail(held, "storage", "no")
    assert queue.get("ann", job).status == "completed"


def test_a_result_that_cannot_be_put_in_place_is_none(queue):
    job = add(queue)
    (claimed,) = claim(queue)

    def full():
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        queue.complete(claimed, 1.0, 1, full)
    assert queue.get("ann", job).status == "in_progress"
    assert queue.fail(claimed, "storage", "the disk is full")
    row = queue.get("ann", job)
    assert (row.status, row.error_code) == ("failed", "storage") and row.expires > row.finished


def test_a_deleted_job_is_no_longer_wanted(queue):
    first, second = add(queue), add(queue)
    batch = claim(queue, most=4)
    assert queue.delete("ann", first).status == "in_progress"
    assert queue.advance(batch, 1, 2) == {second}
    assert not complete(queue, batch[0]) and complete(queue, batch[1])
    assert queue.exist([first, second]) == {second}


CLAIMS = """
import sys, time
from pathlib import Path
from vdm_jax.serve.config import Bounds
from vdm_jax.serve.store import schema
from vdm_jax.serve.store.jobs import Claimed, Jobs
data, address, worker = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
database = schema.opened(data, address)
queue = Jobs(database, Bounds())
(data / worker).touch()
while not (data / "go").exists():
    time.sleep(0.001)
while queue.any_waiting(["m"]):
    for row in queue.claim(worker, ["m"], 2):
        assert queue.complete(Claimed(row.id, row.attempt), 0.1, 1, lambda: None)
        print(row.id)
database.close()
"""


def test_no_two_processes_get_the_same_job(queue, address, tmp_path):
    jobs = {add(queue) for _ in range(60)}
    names = ["w-0", "w-1", "w-2"]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMS, tmp_path, address, name],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for name in names
    ]  # fmt: skip
    ends = time.monotonic() + SECONDS
    while not all((tmp_path / name).exists() for name in names) and time.monotonic() < ends:
        time.sleep(0.02)
    (tmp_path / "go").touch()
    said = [child.communicate(timeout=SECONDS) for child in children]
    assert [error for _, error in said] == [""] * 3
    drawn = [out.split() for out, _ in said]
    assert sum(map(len, drawn)) == 60 and set().union(*drawn) == jobs
    assert queue.counts() == {"completed": 60}


# ---- Crashes -------------------------------------------------------------------------------------


def test_a_job_that_takes_its_worker_down_is_given_up(queue):
    job = add(queue)
    for crash in range(1, 4):
        assert len(claim(queue)) == 1
        assert queue.orphaned("w-0") == 1
        assert queue.get("ann", job).crashes == crash
    row = queue.get("ann", job)
    assert (row.status, row.error_code) == ("failed", "worker_crashed") and row.expires
    assert claim(queue) == [] and queue.used("ann")[0] == 0


def test_a_job_that_raises_is_given_up_as_well(queue):
    job = add(queue)
    for _ in range(3):
        queue.crashed(claim(queue))
    assert queue.get("ann", job).error_code == "worker_crashed"


def test_what_is_put_back_is_not_blamed(queue):
    job = add(queue)
    for number in range(1, 9):
        (claimed,) = claim(queue)
        assert claimed.attempt == number
        if number % 2:
            queue.release([claimed])
        else:
            queue.returned("w-0")
    row = queue.get("ann", job)
    assert (row.status, row.crashes, row.worker, row.started) == ("queued", 0, None, None)


def test_a_worker_gives_back_only_its_own(queue):
    mine, other = add(queue), add(queue)
    claim(queue, worker="w-0")
    claim(queue, worker="w-1")
    queue.returned("w-0")
    assert queue.get("ann", mine).status == "queued"
    assert queue.get("ann", other).status == "in_progress"


def test_a_job_that_crashed_is_drawn_alone(queue):
    first, second = add(queue), add(queue)
    assert len(claim(queue, most=4)) == 2
    queue.orphaned("w-0")
    third = add(queue)
    batches = [claim(queue, most=4) for _ in range(3)]
    assert [[each.id for each in batch] for batch in batches] == [[first], [second], [third]]


def test_jobs_of_a_worker_of_which_nothing_is_known_go_to_others(queue, database):
    """A server that dies between forgetting a silent worker and giving its jobs away."""
    workers = Workers(database)
    workers.begin("w-0", "a CPU")
    workers.begin("w-1", "a CPU")
    lost, kept = add(queue), add(queue)
    claim(queue, worker="w-0")
    claim(queue, worker="w-1")
    assert queue.abandoned() == 0
    with database.writing() as connection:
        silent = sa.update(schema.WORKERS).where(schema.WORKERS.c.name == "w-0")
        connection.execute(silent.values(heartbeat=time.time() - 31))
    assert workers.gone(30.0) == ["w-0"] and workers.gone(30.0) == []
    assert not workers.beat("w-0") and workers.beat("w-1")
    assert queue.abandoned() == 1 and queue.abandoned() == 0
    assert queue.get("ann", lost).status == "queued"
    assert queue.get("ann", kept).status == "in_progress"


# ---- Turns ---------------------------------------------------------------------------------------


def test_owners_take_turns(queue):
    greedy = [add(queue, "ann") for _ in range(4)]
    modest = [add(queue, "bob"), add(queue, "bob")]
    (first,) = claim(queue)
    late = add(queue, "cid")
    order = [first.id, *(claim(queue)[0].id for _ in range(6))]
    assert order == [greedy[0], modest[0], late, greedy[1], modest[1], *greedy[2:]]


def test_a_batch_is_of_one_shape(queue):
    plain = [add(queue, shape="m/16x16x4/2/plain") for _ in range(2)]
    other = add(queue, shape="m/16x16x4/3/plain")
    more = [add(queue, shape="m/16x16x4/2/plain") for _ in range(3)]
    assert [each.id for each in claim(queue, most=4)] == [*plain, *more[:2]]
    assert [each.id for each in claim(queue, most=4)] == [other]
    assert [each.id for each in claim(queue, most=4)] == more[2:]


# ---- Repeated requests ---------------------------------------------------------------------------


def test_an_idempotency_key_names_one_job(queue):
    first = add(queue, body="x", idempotency="k")
    assert add(queue, body="x", idempotency="k") == first
    assert add(queue, "bob", body="x", idempotency="k") != first
    refused = denied(queue, body="y", idempotency="k")
    assert refused.code == "idempotency"
    (claimed, _) = claim(queue, most=2)
    complete(queue, claimed)
    assert add(queue, body="x", idempotency="k") == first
    assert queue.used("ann") == (0, 10)


def test_a_repeated_request_is_answered_where_a_new_one_would_not_be(queue):
    one = Quota(concurrent_videos=1)
    first = add(queue, body="x", idempotency="k", quota=one)
    assert denied(queue, body="x", idempotency="other", quota=one).code == "too_many_jobs"
    assert add(queue, body="x", idempotency="k", quota=one) == first


def test_the_key_of_a_deleted_job_makes_another(queue):
    first = add(queue, body="x", idempotency="k")
    queue.delete("ann", first)
    assert denied(queue, body="y", idempotency="k").code == "idempotency"
    second = add(queue, body="x", idempotency="k")
    assert second != first and add(queue, body="x", idempotency="k") == second


def test_many_at_once_with_one_idempotency_key_make_one_job(queue, address, tmp_path):
    """From two servers' pools of connections."""
    other = schema.opened(tmp_path, address)
    queues = [queue, Jobs(other, Bounds())]
    barrier = threading.Barrier(16)

    def ask(number):
        barrier.wait()
        return {add(queues[number % 2], body="x", idempotency="k") for _ in range(4)}

    with ThreadPoolExecutor(16) as pool:
        ids = set().union(*pool.map(ask, range(16)))
    other.close()
    assert len(ids) == 1 and queue.counts() == {"queued": 1}
    assert queue.used("ann") == (1, 10)


def test_a_clients_own_retry_is_the_request_that_it_repeats(queue, database):
    first = add(queue, body="x")
    assert add(queue, body="x", retry=1) == first
    assert add(queue, body="x", retry=2) == first
    again = add(queue, body="x")
    assert again != first
    assert add(queue, body="x", retry=1) == again
    assert add(queue, body="y", retry=1) not in (first, again)
    assert add(queue, "bob", body="x", retry=1) not in (first, again)
    with database.writing() as connection:
        connection.execute(sa.update(JOBS).values(created=JOBS.c.created - stored.RETRIED - 1))
    assert add(queue, body="x", retry=1) not in (first, again)


# ---- Bounds --------------------------------------------------------------------------------------


def test_the_queue_is_bounded(database):
    queue = Jobs(database, Bounds(queue=3))
    for _ in range(3):
        add(queue)
    refused = denied(queue)
    assert refused.code == "queue_full" and refused.wait > 0
    claim(queue)
    add(queue)


def test_who_waits_for_nothing_has_a_share_of_a_queue_that_others_filled(database):
    queue = Jobs(database, Bounds(queue=4))
    for _ in range(4):
        add(queue, "ann")
    assert denied(queue, "ann").code == "queue_full"
    assert [add(queue, "bob") for _ in range(2)]
    assert denied(queue, "bob").code == "queue_full"
    add(queue, "cid")
    assert denied(queue, "cid").code == "queue_full"
    add(queue, "dan")
    assert denied(queue, "eve").code == "queue_full"  # at twice its length it takes nobody's


def test_an_owner_has_so_many_at_once(queue):
    two = Quota(concurrent_videos=2)
    first = add(queue, quota=two)
    add(queue, quota=two)
    assert denied(queue, quota=two).code == "too_many_jobs"
    add(queue, "bob", quota=two)
    claim(queue)
    assert denied(queue, quota=two).code == "too_many_jobs"  # one that runs counts
    queue.delete("ann", first)
    add(queue, quota=two)


def test_a_days_budget_is_given_back_for_what_was_not_begun(queue):
    budget = Quota(frame_pixels_per_day=25)
    first, second = add(queue, quota=budget), add(queue, quota=budget)
    refused = denied(queue, quota=budget)
    assert refused.code == "insufficient_quota" and 0 < refused.wait <= 86400
    queue.delete("ann", first)
    assert queue.used("ann") == (1, 10)
    third = add(queue, quota=budget)
    assert [each.id for each in claim(queue, most=4)] == [second, third]
    queue.delete("ann", second)
    assert queue.used("ann") == (1, 20)  # it was begun
    queue.release([Claimed(third, 1)])
    queue.delete("ann", third)
    assert queue.used("ann") == (0, 20)


def test_a_full_disk_takes_no_more(database):
    queue = Jobs(database, Bounds(disk_gb=1e-9))
    add(queue)
    complete(queue, claim(queue)[0])
    assert denied(queue).code == "disk_quota"


def test_what_is_past_its_time_goes(database):
    queue = Jobs(database, Bounds(keep_hours=1e-7))
    kept, gone = add(queue, idempotency="k", body="x"), add(queue)
    queue.delete("ann", kept)
    kept = add(queue)
    complete(queue, claim(queue)[0])
    time.sleep(0.01)
    assert queue.expired() == [gone] and queue.expired() == []
    assert queue.exist([gone, kept]) == {kept}
    with database.writing() as connection:
        long_ago = IDEMPOTENCY.c.created - stored.REMEMBERED
        connection.execute(sa.update(IDEMPOTENCY).values(created=long_ago))
    queue.expired()
    add(queue, idempotency="k", body="another")


def test_more_jobs_are_looked_for_than_fit_one_question(queue):
    job = add(queue)
    assert queue.exist([*(queue.new_id() for _ in range(70_000)), job]) == {job}


def test_pages_are_whole_and_in_order(queue):
    jobs = [add(queue) for _ in range(7)]
    add(queue, "bob")
    add(queue, kind="image")
    for ascending in (True, False):
        seen, after, more = [], None, True
        while more:
            rows, more = queue.page("ann", 3, after, ascending=ascending)
            seen += [row.id for row in rows]
            after = seen[-1]
        assert seen == (jobs if ascending else jobs[::-1])
    queue.delete("ann", jobs[3])
    assert queue.page("ann", 3, jobs[3], ascending=True) is None
    assert [row.id for row in queue.page("ann", 3, jobs[2], ascending=True)[0]] == jobs[4:]


# ---- Files ---------------------------------------------------------------------------------------


def test_a_draft_is_not_seen_until_it_is_published(tmp_path, queue):
    kept, job = Files(tmp_path), queue.new_id()
    path = kept.path(job, VIDEO)
    with kept.drafted(job, {VIDEO: b"first"}):
        assert not path.exists()
    assert list(path.parent.iterdir()) == []
    kept.put(job, {"reference.png": b"12345"})
    (path.parent / ".video.mp4.crashed").write_bytes(b"half of i")
    with kept.drafted(job, {VIDEO: b"first"}) as first, kept.drafted(job, {VIDEO: b"2"}) as second:
        assert (first.size, second.size) == (10, 6)
        first.publish()
        assert path.read_bytes() == b"first"
    assert {each.name for each in path.parent.iterdir()} == {VIDEO, "reference.png"}
    assert path.read_bytes() == b"first"
