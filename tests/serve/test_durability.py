"""What was accepted is drawn, once, whatever happens to the processes, the disk and the store."""

import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from serve.crowd import Client, Crowd, listed
from serve.served import ROOT, Server, environment, picture

from vdm_jax.core import video as videos
from vdm_jax.serve.config import Bounds, Quota
from vdm_jax.serve.store import schema
from vdm_jax.serve.store.jobs import Jobs
from vdm_jax.serve.store.keys import Keys, pepper

FREE = (
    "--quota.requests-per-minute", "1000000", "--quota.concurrent-videos", "10000",
    "--bounds.queue", "10000", "--bounds.num-inference-steps", "10000",
)  # fmt: skip
LEASE, GRACE = 5, 10
LONG = 10_000  # steps of a video that takes many seconds
SLACK = 0.5  # seconds that a client may notice a fault later

pytestmark = pytest.mark.long


@pytest.fixture
def server(tiny, tmp_path):
    """Makes servers, which end with the test."""
    made = []

    def make(*options, data=tmp_path / "data"):
        made.append(Server(tiny, data, *FREE, "--lease", LEASE, "--grace", GRACE, *options))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture(scope="module")
def steady(tiny, tmp_path_factory):
    """A server that several tests vex, and that goes on."""
    data = tmp_path_factory.mktemp("steady")
    server = Server(tiny, data, *FREE, "--lease", LEASE, "--grace", GRACE).start()
    server.done(server.create()["id"])
    yield server
    assert server.stop() == 0


def keys_of(server, count):
    database = schema.opened(server.data, "")
    made = Keys(database, pepper(server.data), Quota())
    keys = [
        made.create(f"key {n}", ["videos:read", "videos:write"], None, {}) for n in range(count)
    ]
    database.close()
    return keys


def drawn(server):
    """The row of the job that is being drawn, as soon as there is one."""
    with contextlib.closing(sqlite3.connect(server.data / "jobs.sqlite")) as store:
        query = "SELECT id, step, attempt FROM jobs WHERE status = 'in_progress' ORDER BY number"
        return server.until(lambda: store.execute(query).fetchone())


def killed(server):
    """SIGKILL to the worker, as soon as there is one: its process id."""
    worker = server.until(server.worker)
    os.kill(worker, signal.SIGKILL)
    return worker


def check_content(server, video, tmp_path):
    status, _, content = server.call("GET", f"/v1/videos/{video}/content")
    assert status == 200
    (tmp_path / "video.mp4").write_bytes(content)
    assert len(videos.read(tmp_path / "video.mp4").frames) == 4


# ---- Crowds --------------------------------------------------------------------------------------


async def check_nothing_lost(server, keys, record, tmp_path):
    """Each that was accepted is there once, is done and can be played; and no other is."""
    assert record.wrong == []
    ids = list(record.accepted.values())
    assert len(set(ids)) == len(ids) > 0
    for key in keys:
        mine = {video for (owner, _), video in record.accepted.items() if owner == key}
        there = await listed(server.port, key)
        assert len(there) == len(mine) and {video["id"] for video in there} == mine
        ended = [(video["status"], video["error"]) for video in there]
        assert set(ended) <= {("completed", None)}, ended
        client = Client(server.port, key)
        for video in there:
            status, _, content = await client.call("GET", f"/v1/videos/{video['id']}/content")
            assert status == 200
            (tmp_path / "video.mp4").write_bytes(content)
            assert len(videos.read(tmp_path / "video.mp4").frames) == 4
        await client.close()


def outside(record, windows):
    """Faults that clients met while no process of the server was down."""
    return [
        (at, what)
        for at, what in record.faults
        if not any(begins <= at <= ends + SLACK for begins, ends in windows)
    ]


async def restarted(server, down, stop):
    """Ended by `stop` and started again, after `down` seconds: from when to when it was away."""
    begun = time.monotonic()
    await asyncio.to_thread(stop)
    await asyncio.sleep(down)
    await asyncio.to_thread(server.start, ready=False)
    await asyncio.to_thread(server.until, lambda: server.get("/health", public=True))
    return begun, time.monotonic()


def hit_twice(server):
    """Videos being drawn that a third kill would rightly end: they are spared that."""
    with contextlib.closing(sqlite3.connect(server.data / "jobs.sqlite", timeout=30)) as store:
        query = "SELECT count(*) FROM jobs WHERE status = 'in_progress' AND crashes >= 2"
        return store.execute(query).fetchone()[0]


async def slain(server, rng, kills, seconds):
    """SIGKILLs at random moments, half of them to the server's process and half to its worker."""
    what = [["server", "worker"][number % 2] for number in range(kills)]
    rng.shuffle(what)
    room = seconds / kills
    begun, windows = time.monotonic(), []
    for number, each in enumerate(what):
        moment = begun + (number + 0.3 + 0.7 * rng.random()) * room
        await asyncio.sleep(max(0.0, moment - time.monotonic()))
        if each == "worker":
            await asyncio.to_thread(server.until, lambda: not hit_twice(server), 120)
            await asyncio.to_thread(killed, server)
        else:
            windows.append(await restarted(server, rng.random(), server.kill))
    return windows


@pytest.mark.parametrize(
    ("keys", "clients", "kills", "seconds", "seed"),
    [
        pytest.param(4, 5, 4, 40, 1, id="short"),
        pytest.param(20, 50, 20, 300, 2, id="full", marks=pytest.mark.slow),
    ],
)
def test_nothing_is_lost_when_processes_are_killed(
    server, keys, clients, kills, seconds, seed, tmp_path
):
    one = server().start()
    given = keys_of(one, keys)
    think = 1.0 if clients < 10 else 10.0
    crowd = Crowd(one.port, given, clients, seed=seed, think=think)

    async def play():
        over = asyncio.Event()
        asking = asyncio.create_task(crowd.run(over))
        windows = await slain(one, random.Random(seed), kills, seconds)
        over.set()
        await asking
        assert outside(crowd.record, windows) == []
        await check_nothing_lost(one, given, crowd.record, tmp_path)

    asyncio.run(play())
    print(f"{len(crowd.record.accepted)} videos, {len(crowd.record.faults)} faults while down")


@pytest.mark.parametrize(
    ("rounds", "seed"),
    [pytest.param(2, 3, id="short"), pytest.param(30, 4, id="full", marks=pytest.mark.slow)],
)
def test_it_stops_in_peace_under_load(server, rounds, seed, tmp_path):
    one = server().start()
    given, rng = keys_of(one, 4), random.Random(seed)
    crowd = Crowd(one.port, given, 5, seed=seed, num_inference_steps=400)
    took = []

    def stop():
        begun = time.monotonic()
        assert one.stop() == 0
        took.append(time.monotonic() - begun)

    async def play():
        over = asyncio.Event()
        asking = asyncio.create_task(crowd.run(over))
        windows = []
        for _ in range(rounds):
            await asyncio.sleep(1 + 6 * rng.random())
            windows.append(await restarted(one, 0.0, stop))
        over.set()
        await asking
        assert outside(crowd.record, windows) == []
        await check_nothing_lost(one, given, crowd.record, tmp_path)

    asyncio.run(play())
    assert max(took) <= GRACE
    print(f"{len(crowd.record.accepted)} videos, gone after {sorted(took)[-3:]} s at most")


def test_many_retries_with_one_key_make_one_video(steady):
    """1,000 at once, each over a connection of its own."""

    async def ask():
        clients = [Client(steady.port, steady.key) for _ in range(1000)]
        body = {"prompt": "a red circle", "seed": 1}
        asked = [c.call("POST", "/v1/videos", body, Idempotency_Key="one") for c in clients]
        answers = await asyncio.gather(*asked)
        for client in clients:
            await client.close()
        return answers

    before = len(asyncio.run(listed(steady.port, steady.key)))
    answers = asyncio.run(ask())
    assert {status for status, _, _ in answers} == {200}
    assert len({json.loads(content)["id"] for _, _, content in answers}) == 1
    assert len(asyncio.run(listed(steady.port, steady.key))) == before + 1


# ---- One process at a time -----------------------------------------------------------------------


def test_what_was_answered_is_kept_by_a_server_that_is_killed_at_once(steady, tmp_path):
    reference = f"data:image/png;base64,{base64.b64encode(picture()).decode()}"
    made = [steady.create()["id"], steady.create(input_reference=reference)["id"]]
    steady.kill()
    steady.start(ready=False)
    for video in made:
        told = steady.done(video)
        assert (told["status"], told["error"]) == ("completed", None)
        check_content(steady, video, tmp_path)
    with contextlib.closing(sqlite3.connect(steady.data / "jobs.sqlite")) as store:
        assert store.execute("SELECT max(crashes) FROM jobs").fetchone() == (0,)


def test_a_worker_killed_between_the_files_and_the_row_draws_again(steady, tmp_path):
    """The store is held while it is drawn, so that its files come and its row cannot follow."""
    store = sqlite3.connect(steady.data / "jobs.sqlite", isolation_level=None, timeout=30)
    video = steady.create(num_inference_steps=1000)["id"]
    folder = steady.data / "videos" / video[6:8] / video
    steady.until(lambda: steady.get(f"/v1/videos/{video}")["step"] > 0)
    store.execute("BEGIN IMMEDIATE")
    steady.until(lambda: any(folder.glob(".spritesheet.jpg.*")))
    killed(steady)
    store.execute("ROLLBACK")
    assert not (folder / "video.mp4").exists()
    assert steady.done(video)["status"] == "completed"
    row = store.execute("SELECT attempt, crashes FROM jobs WHERE id = ?", (video,)).fetchone()
    store.close()
    assert row == (2, 1)
    names = {each.name for each in folder.iterdir()}
    assert names == {"video.mp4", "thumbnail.webp", "spritesheet.jpg"}
    check_content(steady, video, tmp_path)


def test_a_deleted_video_is_not_drawn_to_its_end(steady):
    """Of the two that are drawn side by side the other goes on, until it is deleted too."""
    pair = [steady.create(num_inference_steps=LONG)["id"] for _ in range(2)]
    steady.until(lambda: all(steady.get(f"/v1/videos/{each}")["step"] > 0 for each in pair))
    assert steady.call("DELETE", f"/v1/videos/{pair[0]}")[0] == 200
    step = steady.get(f"/v1/videos/{pair[1]}")["step"]
    steady.until(lambda: steady.get(f"/v1/videos/{pair[1]}")["step"] > step + 10)
    assert steady.call("DELETE", f"/v1/videos/{pair[1]}")[0] == 200
    assert steady.done(steady.create()["id"], 20)["status"] == "completed"
    for each in pair:
        assert steady.call("GET", f"/v1/videos/{each}")[0] == 404
        assert not (steady.data / "videos" / each[6:8] / each).exists()


def test_a_worker_that_hangs_is_replaced(steady):
    video = steady.create(num_inference_steps=3000)["id"]
    steady.until(lambda: steady.get(f"/v1/videos/{video}")["step"] > 0)
    hung, begun = steady.worker(), time.monotonic()
    os.kill(hung, signal.SIGSTOP)
    steady.until(lambda: steady.worker() not in (0, hung), 40)
    found = time.monotonic() - begun
    told = steady.done(video)
    assert (told["status"], told["error"]) == ("completed", None)
    assert found < 30


def test_a_video_that_takes_its_worker_down_is_given_up_alone(steady):
    """The worker is killed whenever it draws this one."""
    with contextlib.closing(sqlite3.connect(steady.data / "jobs.sqlite")) as store:
        victim = steady.create(num_inference_steps=LONG)["id"]
        for attempt in range(1, 4):
            steady.until(lambda attempt=attempt: drawn(steady)[::2] == (victim, attempt))
            killed(steady)
        others = [steady.create(seed=seed)["id"] for seed in range(3)]
        told = steady.done(victim)
        assert (told["status"], told["error"]["code"]) == ("failed", "worker_crashed")
        assert [steady.done(each)["status"] for each in others] == ["completed"] * 3
        crashes = store.execute("SELECT crashes FROM jobs WHERE id = ?", (victim,)).fetchone()
    assert crashes == (3,)


def test_a_second_server_does_not_take_the_same_folder(steady):
    command = [sys.executable, "-m", "vdm_jax.serve", "--model", f"tiny={steady.models['tiny']}"]
    command += ["--data", str(steady.data), "--port", "0"]
    second = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=ROOT)
    assert second.returncode == 75 and "another server" in second.stderr
    assert steady.get("/health", public=True)


def test_what_cannot_be_stored_is_said_and_nothing_else_is_lost(steady):
    """Files lie where the folders of videos would be made."""
    before = steady.done(steady.create()["id"])
    blocks = [steady.data / "videos" / f"{number:02x}" for number in range(256)]
    blocks = [block for block in blocks if not block.exists()]
    for block in blocks:
        block.touch()
    told = {"status": "completed"}
    for _ in range(200):  # a video whose folder is blocked, as most are
        if (told := steady.done(steady.create()["id"]))["status"] == "failed":
            break
    assert told["error"]["code"] == "storage" and told["inference_time_s"] is None
    reference = f"data:image/png;base64,{base64.b64encode(picture()).decode()}"
    for _ in range(200):
        body = {"prompt": "", "input_reference": reference}
        status, headers, content = steady.call("POST", "/v1/videos", body)
        if status != 200:
            break
    assert (status, json.loads(content)["error"]["code"]) == (503, "storage")
    assert int(headers["retry-after"]) > 0
    for block in blocks:
        block.unlink(missing_ok=True)
    assert steady.done(steady.create(input_reference=reference)["id"])["status"] == "completed"
    assert steady.get(f"/v1/videos/{before['id']}")["status"] == "completed"


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "none", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_said_and_works_again_with_room(server, small_disk, tmp_path):
    one = server(data=small_disk).start()
    one.done(one.create()["id"])
    waiting = [one.create(num_inference_steps=2000, seed=seed)["id"] for seed in range(3)]
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb") as filler:
        while True:
            filler.write(bytes(4096))
            filler.flush()
    answers = [one.call("POST", "/v1/videos", {"prompt": f"x{n}" * 999}) for n in range(30)]
    accepted = [json.loads(content)["id"] for status, _, content in answers if status == 200]
    refused = [(status, json.loads(content)) for status, _, content in answers if status != 200]
    assert refused and all(status == 503 for status, _ in refused)
    assert {said["error"]["code"] for _, said in refused} == {"storage"}
    assert one.get(f"/v1/videos/{waiting[0]}")["id"] == waiting[0]
    (small_disk / "filler").unlink()
    for video in (*waiting, *accepted):
        told = one.done(video)
        assert told["status"] == "completed" or told["error"]["code"] == "storage"
    assert one.done(one.create()["id"])["status"] == "completed"
    assert one.stop() == 0


def test_what_is_past_its_time_is_gone(server):
    one = server("--bounds.keep-hours", 1 / 3600).start()
    video = one.create()["id"]
    folder = one.data / "videos" / video[6:8] / video
    assert one.until(lambda: (folder / "video.mp4").exists())
    one.until(lambda: one.call("GET", f"/v1/videos/{video}")[0] == 404)
    one.until(lambda: not folder.exists())
    assert one.get("/v1/videos")["data"] == []


# ---- Several hosts -------------------------------------------------------------------------------


class Hands:
    """`serve worker` processes, as on other hosts."""

    def __init__(self, server, address):
        self._command = [sys.executable, "-m", "vdm_jax.serve", "worker", "--model"]
        self._command += [f"tiny={server.models['tiny']}", "--data", str(server.data), "--database"]
        self._command += [address, "--lease", str(LEASE), "--grace", str(GRACE), *FREE]
        self._said = server.data / "hands.txt"
        self.processes = []

    def begin(self):
        with self._said.open("ab") as said:
            process = subprocess.Popen(
                self._command, stdout=said, stderr=said, env=environment(), cwd=ROOT
            )
        self.processes.append(process)
        return process

    def end(self):
        """SIGTERM: the exit codes of those that live."""
        living = [each for each in self.processes if each.poll() is None]
        for each in living:
            each.terminate()
        return [each.wait(60) for each in living]


@pytest.fixture
def shared(server, postgres):
    """(server, its workers, its queue): a store that several hosts have."""
    address = postgres.made()
    one = server("--database", address, "--workers", 0)
    hands = Hands(one, address)
    database = schema.opened(one.data, address)
    yield one, hands, Jobs(database, Bounds()), database
    hands.end()
    database.close()


def rows_of(database):
    with database.reading() as connection:
        return list(connection.execute(sa.select(schema.JOBS).order_by(schema.JOBS.c.number)))


def test_workers_on_several_hosts_share_the_work(shared, tmp_path):
    one, hands, queue, database = shared
    one.start(ready=False)
    first, second = hands.begin(), hands.begin()
    one.until(lambda: one.get("/ready", public=True)["ready"])
    made = [one.create(num_inference_steps=500, seed=seed)["id"] for seed in range(24)]
    seen = set()

    def both():
        seen.update(row.worker for row in rows_of(database) if row.status == "in_progress")
        return len(seen) == 2

    one.until(both)
    last = one.create(num_inference_steps=LONG)["id"]
    one.until(lambda: one.get(f"/v1/videos/{last}")["step"] > 0, 120)
    holder = next(row.worker for row in rows_of(database) if row.id == last)
    lock = (one.data / f".worker-{holder}.lock").stat().st_ino
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    locked = {int(line[4]): line[5] for line in lines if line[1] == "FLOCK"}
    dead = next(p for p in (first, second) if locked[p.pid].endswith(f":{lock}"))
    dead.kill()
    dead.wait()
    one.until(lambda: rows_of(database)[-1].attempt == 2, 60)
    queue.delete(rows_of(database)[-1].owner, last)
    for video in made:
        assert one.done(video)["status"] == "completed"
        check_content(one, video, tmp_path)
    rows = rows_of(database)
    assert [row.id for row in rows] == made
    assert hands.end() == [0]


@pytest.mark.slow
def test_a_store_that_is_away_for_a_while_loses_nothing(shared, postgres, tmp_path):
    one, hands, _, database = shared
    one.start(ready=False)
    worker = hands.begin()
    one.until(lambda: one.get("/ready", public=True)["ready"])
    made = [one.create(num_inference_steps=500, seed=seed)["id"] for seed in range(8)]
    one.until(lambda: any(row.step for row in rows_of(database)))
    postgres.stop()
    try:
        status, headers, content = one.call("POST", "/v1/videos", {"prompt": "x"})
        assert (status, json.loads(content)["error"]["code"]) == (503, "storage")
        assert int(headers["retry-after"]) > 0
        assert one.call("GET", "/v1/videos")[0] == 503
        time.sleep(2 * LEASE)
    finally:
        postgres.start()
    for video in made:
        assert one.done(video)["status"] == "completed"
        check_content(one, video, tmp_path)
    assert [row.crashes <= 1 for row in rows_of(database)] == [True] * 8
    assert worker.poll() is None and hands.end() == [0]
