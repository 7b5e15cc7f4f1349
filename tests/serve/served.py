"""A real server on a tiny model, as a process of its own, for tests and benches."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from io import BytesIO
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from PIL import Image

from vdm_jax.core import checkpoint, config
from vdm_jax.core import mesh as meshes
from vdm_jax.tasks.task import Pretrained

ROOT = Path(__file__).parents[2]
SOON = 90.0


def write_model(folder):
    """The quickstart's smallest model, with random weights."""
    asked = config.load(str(ROOT / "configs/quickstart.py:smoke"))
    made = Pretrained(asked.model, asked.task)
    with meshes.unplaced():
        params = nnx.state(made.model.build(rngs=nnx.Rngs(0)), nnx.Param)
    keys = iter(jax.random.split(jax.random.key(0), 1000))
    params = jax.tree.map(lambda a: a + 0.05 * jax.random.normal(next(keys), a.shape), params)
    checkpoint.save_weights(folder, config.to_json(made), params)
    return folder


def picture(side=24, seed=0, form="PNG"):
    """The bytes of a picture file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()


def environment():
    """Of a server's process: one device, compiled quickly."""
    one = {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        "PYTHONUNBUFFERED": "1",
    }
    return {k: v for k, v in os.environ.items() if k != "VDM_DATABASE"} | one


class Server:
    """`python -m vdm_jax.serve` with `options`, in the folder `data`, started with `start`."""

    def __init__(self, model, data, *options, keyed=True):
        self.models = model if isinstance(model, dict) else {"tiny": model}
        self.data = Path(data)
        self.options, self.process = [str(each) for each in options], None
        self.port, self.key = 0, ""
        self.data.mkdir(parents=True, exist_ok=True)
        if keyed:
            self.key = self.keys("create", "--name", "tests")

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def keys(self, *arguments):
        """What `serve keys` prints."""
        command = [sys.executable, "-m", "vdm_jax.serve", "keys", *arguments]
        command += ["--data", str(self.data), *self._database()]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        return done.stdout.strip()

    def start(self, *, ready=True):
        """Start the process; it keeps the port that it first got."""
        (self.data / "port").unlink(missing_ok=True)
        command = [sys.executable, "-m", "vdm_jax.serve", "--model"]
        command += [f"{name}={folder}" for name, folder in self.models.items()]
        command += ["--data", str(self.data), "--port", str(self.port), *self.options]
        with (self.data / "said.txt").open("ab") as said:
            self.process = subprocess.Popen(
                command, stdout=said, stderr=said, env=environment(), cwd=ROOT
            )
        self.port = int(self.until(lambda: (self.data / "port").read_text()))
        if ready:
            self.until(lambda: self.get("/ready", public=True)["ready"])
        return self

    def until(self, condition, seconds=SOON):
        """What `condition` says as soon as it is true; asked again where it raises."""
        ends = time.monotonic() + seconds
        while True:
            try:
                if answer := condition():
                    return answer
            except (OSError, ValueError, KeyError) as error:
                answer = error
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"the server ended: {self.words()[-2000:]}")
            if time.monotonic() > ends:
                raise AssertionError(f"still {answer!r}; the server said: {self.words()[-2000:]}")
            time.sleep(0.05)

    def words(self):
        return (self.data / "said.txt").read_text()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def worker(self):
        """The process id of its worker; 0 where there is none."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as file:
            children = file.read().split()
        for thread in Path(f"/proc/{self.process.pid}/task").iterdir():
            children += (thread / "children").read_text().split()
        for child in set(children):
            line = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if b"worker" in line:
                return int(child)
        return 0

    def stop(self, seconds=60):
        """SIGTERM: its exit code."""
        if self.process is None or self.process.poll() is not None:
            return None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    # ---- Speaking to it --------------------------------------------------------------------------

    def call(self, method, path, body=None, *, headers=None, key=None, public=False, timeout=30):
        """(status, headers, content)."""
        given = dict(headers or {})
        key = self.key if key is None else key
        if key and not public:
            given.setdefault("Authorization", f"Bearer {key}")
        if isinstance(body, dict):
            body, given["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(self.url + path, body, given, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def get(self, path, **how):
        return json.loads(self.call("GET", path, **how)[2])

    def post(self, path, body, **how):
        return json.loads(self.call("POST", path, body, **how)[2])

    def create(self, **fields):
        """The new video; fails where it is not taken."""
        status, _, content = self.call("POST", "/v1/videos", {"prompt": "a red circle"} | fields)
        assert status == 200, content
        return json.loads(content)

    def done(self, video, seconds=SOON):
        """The video, once it is completed or failed."""
        path = f"/v1/videos/{video}"
        self.until(lambda: self.get(path)["status"] in ("completed", "failed"), seconds)
        return self.get(path)

    def _database(self):
        if "--database" in self.options:
            return ["--database", self.options[self.options.index("--database") + 1]]
        return []
