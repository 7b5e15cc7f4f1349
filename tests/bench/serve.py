"""The server's own cost: how soon it answers under load, and what it adds to a video.

    python tests/bench/serve.py [--only start imports status overload overhead]

A server on a tiny model, as users start it. `start`: seconds until it answers, and until /ready.
`imports`: what of them goes to which package. `status`: how long status requests take over
connections that are kept while the worker draws without a break. `overload`: a greedy key asks for
ten times what is drawn, beside one that asks for the next video when it has the last. `overhead`:
videos drawn and written one after another in a process that does nothing else, and through the
server, in turn; what the server adds to each is taken as the same for a video of any length, but
for its files, which are timed at full size.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.pop(0)  # where this file would be taken for `serve`
sys.path.insert(0, str(Path(__file__).parents[1]))

from serve.crowd import Client
from serve.served import ROOT, Server, environment, write_model

from vdm_jax.serve.config import Bounds, Quota
from vdm_jax.serve.store import schema
from vdm_jax.serve.store.files import Files
from vdm_jax.serve.store.jobs import Jobs
from vdm_jax.serve.store.keys import Keys, pepper

FREE = (
    "--quota.requests-per-minute", "1000000", "--quota.concurrent-videos", "10000",
    "--bounds.num-inference-steps", "10000",
)  # fmt: skip
FULL = (25, 576, 1024, 3)
FULL_SECONDS = {"40 s (an H100)": 40.0, "60 s": 60.0}


def row(what: str, figure: str, bar: str = "") -> None:
    print(f"{what:58} {figure:>22}   {bar}", flush=True)


# ---- Start ---------------------------------------------------------------------------------------


def start(model: Path, folder: Path, rounds: int) -> None:
    answers, readies = [], []
    for number in range(rounds):
        server = Server(model, folder / f"start{number}", keyed=False)
        begun = time.perf_counter()
        server.start(ready=False)
        server.until(lambda server=server: server.get("/health", public=True))
        answers.append(time.perf_counter() - begun)
        server.until(lambda server=server: server.get("/ready", public=True)["ready"])
        readies.append(time.perf_counter() - begun)
        server.stop()
    row(f"until it answers, median of {rounds}", f"{statistics.median(answers):.1f} s")
    row(f"until it is ready, median of {rounds}", f"{statistics.median(readies):.1f} s", "<= 5 s")


def imports(model: Path, folder: Path, rounds: int) -> None:
    del model, folder, rounds
    for module in ("commands.server", "worker.loop"):
        command = [sys.executable, "-X", "importtime", "-c", f"import vdm_jax.serve.{module}"]
        subprocess.run(command, capture_output=True, cwd=ROOT, env=environment(), check=True)
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment())
        own: Counter[str] = Counter()
        for line in done.stderr.splitlines():
            if line.startswith("import time:") and line.split()[2].isdecimal():
                package = line.split("|")[2].strip().split(".")
                depth = 2 if package[0] == "vdm_jax" else 1
                own[".".join(package[:depth])] += int(line.split()[2])
        row(f"importing vdm_jax.serve.{module}", f"{sum(own.values()) / 1e6:.2f} s")
        for package, took in own.most_common(12):
            row(f"    {package}", f"{took / 1e3:.0f} ms")


# ---- Answers -------------------------------------------------------------------------------------


def status(model: Path, folder: Path, rounds: int) -> None:
    """40 requests a second, of 20 clients, while the queue is never empty."""
    del rounds
    server = Server(model, folder / "status", *FREE).start()
    server.done(server.create(num_inference_steps=500)["id"])
    videos = [server.create(num_inference_steps=500, seed=n)["id"] for n in range(200)]
    took: list[float] = []

    async def one(number: int) -> None:
        client = Client(server.port, server.key)
        begins = time.perf_counter() + number * 0.025
        for turn in range(60):
            await asyncio.sleep(max(0.0, begins + 0.5 * turn - time.perf_counter()))
            asked = time.perf_counter()
            code, _, _ = await client.call("GET", f"/v1/videos/{videos[number * 10]}")
            took.append(time.perf_counter() - asked)
            assert code == 200
        await client.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(one(number) for number in range(20)))

    asyncio.run(all_of_them())
    left = server.get(f"/v1/videos/{videos[-1]}")["status"]
    server.stop()
    row(f"status requests, while it draws ({len(took)}; the last {left})", "")
    took.sort()
    for share, bar in ((0.5, ""), (0.99, "<= 200 ms"), (1.0, "")):
        value = took[min(len(took) - 1, int(share * len(took)))]
        row(f"    p{100 * share:.0f}", f"{1e3 * value:.0f} ms", bar)


def memory(pid: int) -> float:
    """MB that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def programs(server: Server) -> list:
    return server.get("/v1/models")["data"][0]["programs"]


class Overload:
    """What the two keys were told."""

    def __init__(self) -> None:
        self.codes: dict[str, Counter[int]] = {"greedy": Counter(), "modest": Counter()}
        self.without_wait = self.slow = 0
        self.waits: list[float] = []

    async def post(self, who: str, client: Client, seed: int) -> tuple[str | None, float]:
        """The video, or seconds to wait for one."""
        body = {"prompt": "x", "num_inference_steps": 100, "seed": seed}
        begun = time.perf_counter()
        code, headers, content = await client.call("POST", "/v1/videos", body)
        self.slow += time.perf_counter() - begun > 5
        self.codes[who][code] += 1
        if code == 200:
            return json.loads(content)["id"], 0.0
        self.without_wait += "retry-after" not in headers
        return None, float(headers.get("retry-after", 1))

    async def greedy(self, server: Server, number: int, ends: float, every: float) -> None:
        """Asks again and again, whatever it is told."""
        client, seed = Client(server.port, server.key), number * 100_000
        while time.perf_counter() < ends:
            begun = time.perf_counter()
            seed += 1
            await self.post("greedy", client, seed)
            await asyncio.sleep(max(0.0, begun + every - time.perf_counter()))
        await client.close()

    async def modest(self, server: Server, key: str, ends: float) -> None:
        client, seed = Client(server.port, key), 0
        while time.perf_counter() < ends:
            begun, seed = time.perf_counter(), seed + 1
            video, wait = await self.post("modest", client, seed)
            await asyncio.sleep(min(wait, 2.0))
            while video is not None:
                _, _, content = await client.call("GET", f"/v1/videos/{video}")
                if json.loads(content)["status"] in ("completed", "failed"):
                    self.waits.append(time.perf_counter() - begun)
                    break
                await asyncio.sleep(0.05)
        await client.close()


def overload(model: Path, folder: Path, rounds: int) -> None:
    """A minute; the queue takes 32, batches of one."""
    del rounds
    options = (*FREE, "--bounds.queue", 32, "--batch-size", 1)
    server = Server(model, folder / "overload", *options).start()
    database = schema.opened(server.data, "")
    kept = Keys(database, pepper(server.data), Quota())
    key = kept.create("modest", ["videos:read", "videos:write"], None, {})
    owner = kept.caller(key).owner
    through(server, 2, 100)  # compiled, from here on
    server.until(lambda: all(p["state"] == "ready" for p in programs(server)))
    rate = 12 / through(server, 12, 100)  # videos a second
    clients, seconds, told = 100, 60.0, Overload()
    before, most = memory(server.process.pid), 0.0

    async def all_of_them() -> None:
        nonlocal most
        ends = time.perf_counter() + seconds
        asking = [
            told.greedy(server, number, ends, clients / max(20.0, 10 * rate))
            for number in range(clients)
        ]
        whole = asyncio.gather(told.modest(server, key, ends), *asking)
        while not whole.done():
            most = max(most, memory(server.process.pid))
            await asyncio.sleep(0.5)
        await whole

    asyncio.run(all_of_them())
    with database.reading() as connection:
        done = [r.owner for r in connection.execute(schema.JOBS.select()) if r.finished]
    waiting = len(Jobs(database, Bounds()).waiting())
    database.close()
    server.stop()
    greedy = told.codes["greedy"]
    row(f"overload: {greedy.total() / seconds:.0f} posts/s, {rate:.1f} videos/s", "")
    row("    answers to the greedy key", str(dict(greedy)), "200 and 429")
    row("    answers to the modest key", str(dict(told.codes["modest"])))
    row("    429 without Retry-After; posts over 5 s", f"{told.without_wait}; {told.slow}", "0; 0")
    row("    queue in the end", str(waiting), "<= 64")
    row("    memory of the server", f"{before:.0f} to {most:.0f} MB", "+- 100 MB")
    share = sum(each == owner for each in done) / max(1, len(done) - 14)
    row("    videos of the modest key", f"{100 * share:.0f} % of {len(done) - 14}")
    row("    seconds until it has one, median", f"{statistics.median(told.waits):.1f} s")


# ---- Overhead ------------------------------------------------------------------------------------

BARE = """
import os, sys, time
os.nice(5)  # as the server's worker on a CPU
from vdm_jax.core import video
from vdm_jax.sample.order import Order
from vdm_jax.sample.studio import Studio
studio = Studio(sys.argv[1], batch_size=1)
studio.load()
settings = {"num_steps": int(sys.argv[2])}
studio.draw([Order(prompt="x", settings=settings)], lambda done, steps: True)
print("ready", flush=True)
for line in sys.stdin:
    begun = time.perf_counter()
    for seed in range(int(line)):
        order = Order(prompt="x", seed=seed, settings=settings)
        video.write(sys.argv[3], studio.draw([order], lambda done, steps: True)[0], 5.0)
    print(time.perf_counter() - begun, flush=True)
"""


def through(server: Server, count: int, steps: int) -> float:
    begun = time.perf_counter()
    made = [server.create(num_inference_steps=steps, seed=n)["id"] for n in range(count)]
    while server.get(f"/v1/videos/{made[-1]}")["status"] != "completed":
        time.sleep(0.2)
    return time.perf_counter() - begun - 0.1  # half of what is slept too long


def files_of_full_size(folder: Path) -> tuple[float, float]:
    """Seconds to write a video of Stable Video Diffusion's size, and to make and keep all files."""
    from vdm_jax.core import video
    from vdm_jax.serve.worker import results

    rng = np.random.default_rng(0)
    count, height, width, _ = FULL
    y, x = np.mgrid[:height, :width]
    waves = [90 * np.sin((x + 2 * y + 9 * n) / 40)[..., None] + [0, 9, 18] for n in range(count)]
    grain = rng.normal(0, 3, (height, width, 3))
    frames = np.stack([(128 + wave + grain).clip(0, 255).astype(np.uint8) for wave in waves])
    files, alone, whole = Files(folder), [], []
    for number in range(5):
        begun = time.perf_counter()
        video.write(folder / "alone.mp4", frames, 7.0)
        alone.append(time.perf_counter() - begun)
        files.put(f"video_{number:032x}", results.of_video(frames, 7))
        whole.append(time.perf_counter() - begun - alone[-1])
    return statistics.median(alone), statistics.median(whole)


def overhead(model: Path, folder: Path, rounds: int) -> None:
    count, steps = 4, 2500
    server = Server(model, folder / "overhead", *FREE, "--batch-size", 1).start()
    through(server, 1, steps)
    bare = subprocess.Popen(
        [sys.executable, "-c", BARE, str(model), str(steps), str(folder / "alone.mp4")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment(),
    )  # fmt: skip
    with bare:
        bare.stdout.readline()
        alone, served = [], []
        for _ in range(rounds):
            bare.stdin.write(f"{count}\n")
            bare.stdin.flush()
            alone.append(float(bare.stdout.readline()) / count)
            served.append(through(server, count, steps) / count)
        bare.stdin.close()
    server.stop()
    one, other = statistics.median(alone), statistics.median(served)
    added = other - one
    row(f"a video alone, median of {rounds} x {count}", f"{one:.2f} s")
    row("a video through the server", f"{other:.2f} s")
    row("    added", f"{1e3 * added:.0f} ms, {100 * added / one:.1f} %")
    alone, whole = files_of_full_size(folder)
    files = whole - alone
    row("25 frames of 1024x576: the video alone", f"{1e3 * alone:.0f} ms")
    row("    all files, on the disk", f"{1e3 * whole:.0f} ms")
    for what, seconds in FULL_SECONDS.items():
        row(f"added to a video of {what}", f"{100 * (added + files) / seconds:.2f} %", "<= 3 %")


PARTS = {each.__name__: each for each in (start, imports, status, overload, overhead)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = write_model(folder / "tiny")
        for name in args.only:
            PARTS[name](model, folder, args.rounds)


if __name__ == "__main__":
    main()
