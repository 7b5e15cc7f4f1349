"""A server with several tenants for the tests of what one learns of another: some have videos in
every state, some have keys that are no longer good; and the worker can be made to hold still."""

import json
import os
import re
import signal
import sqlite3
import time
from contextlib import closing, contextmanager
from pathlib import Path

from serve.raw import ask, bearer, form, request
from serve.served import Server, picture

from vdm_jax.serve.api.app import build
from vdm_jax.serve.api.envelope import Audit
from vdm_jax.serve.api.service import Service
from vdm_jax.serve.config import Quota, ServeConfig
from vdm_jax.serve.store import files, keys, schema
from vdm_jax.serve.store.keys import DEFAULT, SCOPES, Keys

CANARY = "canaryz7qk"
"""In every prompt and file name of a tenant; text encoders make letters small."""
LITTLE = ("--lease", "36000", "--grace", "2")
"""Options of a server whose worker may hold still for long, and is not waited for."""
MANY = ("--quota.requests-per-minute", "10000000", "--quota.concurrent-videos", "64")
VOLATILE = re.compile(rb'"(queue_position|eta_seconds)": ?[^,}]*')


class House:
    """alice has videos, bob and mallory have none; `videos` are alice's, by state."""

    def __init__(self, model, data):
        self.server = Server(model, data, *MANY, *LITTLE, keyed=False)
        self._database = schema.opened(data, "")
        self.keys = Keys(self._database, keys.pepper(data), Quota())
        self.pepper = (data / "secret").read_bytes()
        self._secrets = []
        self.server.key = self.new("tests")
        self.alice, self.bob, self.mallory = (self.new(n) for n in ("alice", "bob", "mallory"))
        scopes = {"read": ["videos:read"], "write": ["videos:write"], "metrics": ["metrics"]}
        self.scoped = {name: self.new(name, scopes=each) for name, each in scopes.items()}
        self._end_some()
        self.unknown = f"video_{os.urandom(16).hex()}"
        self.server.start()
        self.port, self.worker = self.server.port, self.server.worker()
        self.picture = picture(32, seed=77)
        self._make_videos()

    def new(self, name, days=None, scopes=DEFAULT):
        key = self.keys.create(name, scopes, days, {})
        self._secrets.append(key)
        return key

    def _end_some(self):
        """Keys that were good."""
        self.revoked = self.new("revoked")
        self.keys.revoke(self.revoked.split("_")[1])
        self.expired = self.new("expired", days=1e-9)
        self.rotated = self.new("rotated")
        self._secrets.append(self.keys.rotate(self.rotated.split("_")[1], 0.0))
        self.foreign = f"vdm_{os.urandom(8).hex()}_{os.urandom(32).hex()}"  # of another server

    def _make_videos(self):
        done, failed = self.create("completed"), None
        self.until(done, "completed")
        hold(self.server)
        failed, deleted = self.create("failed"), self.create("deleted")
        files.Files(self.server.data).path(failed, files.REFERENCE).unlink()
        self.call("DELETE", f"/v1/videos/{deleted}")
        let_go(self.worker)
        self.until(failed, "failed")
        hold(self.server)
        queued = self.create("queued")
        self.videos = {"completed": done, "queued": queued, "failed": failed, "deleted": deleted}

    def create(self, what):
        prompt = f"{CANARY} {what} {'that goes on ' * 20} {CANARY}"  # longer than is encoded
        named = "input_reference", f"{CANARY}.png", self.picture
        kind, body = form([("prompt", prompt)], [named])
        return json.loads(self.call("POST", "/v1/videos", kind, body).body)["id"]

    def call(self, method, path, headers=(), body=b""):
        """As alice."""
        return ask(self.port, request(method, path, [*bearer(self.alice), *headers], body), 30)

    def until(self, video, status):
        def there():
            return json.loads(self.call("GET", f"/v1/videos/{video}").body)["status"] == status

        self.server.until(there)

    # ---- What is to stay secret ------------------------------------------------------------------

    @property
    def secrets(self):
        """The random part of every key, and what their digests are made with."""
        hidden = [key.split("_")[2].encode() for key in (*self._secrets, self.foreign)]
        return [*hidden, self.pepper, self.pepper.hex().encode()]

    @property
    def words(self):
        """Of alice's prompts, file names and pictures."""
        return [CANARY.encode(), self.picture[60:90]]

    def told(self, content):
        """Whether these bytes have anything of alice's in them."""
        ids = [video.encode() for video in self.videos.values()]
        return any(word in content for word in (*ids, *self.words, *self.secrets))

    def seen_by_owner(self):
        """All that alice has, as she gets it."""
        listed = VOLATILE.sub(b"", self.call("GET", "/v1/videos?limit=100").body)
        root = self.server.data / "videos"
        kept = {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        return listed, kept

    def processes(self):
        """Ids of the server's own and of those that it started."""
        found = [self.server.process.pid]
        for each in found:
            for thread in Path(f"/proc/{each}/task").iterdir():
                found += [int(c) for c in (thread / "children").read_text().split()]
        return list(dict.fromkeys(found))

    @contextmanager
    def broken_store(self):
        """While it is so, no job can be written."""
        trigger = "CREATE TRIGGER broken BEFORE INSERT ON jobs BEGIN SELECT RAISE(ABORT, 'no'); END"
        path = self.server.data / "jobs.sqlite"
        with closing(sqlite3.connect(path, isolation_level=None)) as store:
            store.execute(trigger)
        yield
        with closing(sqlite3.connect(path, isolation_level=None)) as store:
            store.execute("DROP TRIGGER broken")

    def close(self):
        let_go(self.worker)
        self._database.close()
        self.server.stop()


def hold(server):
    """Let its worker do nothing until `let_go`; it holds no lock of the store meanwhile."""
    worker, locked = server.worker(), True
    while locked:
        os.kill(worker, signal.SIGSTOP)
        path = server.data / "jobs.sqlite"
        with closing(sqlite3.connect(path, timeout=0.5, isolation_level=None)) as store:
            try:
                store.execute("BEGIN IMMEDIATE")
                store.execute("ROLLBACK")
                locked = False
            except sqlite3.OperationalError:
                let_go(worker)
                time.sleep(0.05)
    return worker


def let_go(worker):
    os.kill(worker, signal.SIGCONT)


def keyed(server):
    """The server with a key, which a program that starts anew would take seconds to make."""
    database = schema.opened(server.data, "")
    made = Keys(database, keys.pepper(server.data), Quota())
    server.key = made.create("tests", SCOPES, None, {})
    database.close()
    return server


@contextmanager
def app_of(model, data):
    """The program's routes, without a server."""
    config = ServeConfig(model=(f"tiny={model}",), data=str(data))
    database = schema.opened(data, "")
    held = Keys(database, keys.pepper(data), config.quota)
    service = Service(config, database, held, lambda: False)
    try:
        yield build(service, Audit(data / "audit.log"))
    finally:
        service.close()
        database.close()


def ends(app):
    """The routes below whatever surrounds them."""
    while not hasattr(app, "routes"):
        app = app._app
    return [each for each in app.routes if hasattr(each, "methods")]
