"""Disks that are full or read-only for a while, below a run that goes on."""

import contextlib
import os
import signal
import subprocess
import time

from faults.lives import Run, losses, seeded, wait_until
from faults.row import Row

from vdm_jax.core import manifest

SIZE = "24m"
OPTIONS = ("--save-every", "2")


def may_mount(folder):
    with contextlib.suppress(OSError, subprocess.CalledProcessError), small_disk(folder / "probe"):
        return True
    return False


@contextlib.contextmanager
def small_disk(path):
    path.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-R", str(path)], check=True)


@contextlib.contextmanager
def full(workdir):
    """Not a byte is free on the disk, except what a moment's deletions give back."""
    ballast = workdir.parent / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"0")
    try:
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def read_only(workdir):
    """All that is opened from now on in the run's directory can only be read."""
    subprocess.run(["mount", "--bind", "-o", "ro", workdir, workdir], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", workdir], check=True)


TROUBLES = {"full": full, "read-only": read_only}


def troubled(folder, cache, count, seed):
    promise = "no committed step lost, saves again"
    row = Row("disk full, disk read-only", promise, "to the next save")
    for number in range(count):
        kind = list(TROUBLES)[number % 2]
        with small_disk(folder / f"disk{number}") as disk:
            why, seconds = troubled_life(disk / "run", cache, kind, seeded(seed, "disk", number))
            row.add(why and f"{kind}: {why}", seconds)
    return row


def troubled_life(workdir, cache, kind, rng):
    run = Run(workdir, cache, steps=100_000, options=OPTIONS)
    out = workdir.parent.parent / f"{workdir.parent.name}.out"
    run.output = out
    with run.start() as processes:
        wait_until(lambda: run.newest >= 4 + rng.randint(0, 6), processes)
        with TROUBLES[kind](workdir):
            wait_until(lambda: run.said().count("not written") >= 3, processes)
            held = [step for step in steps(workdir) if is_whole(workdir, step)]
        begin, last = time.monotonic(), run.newest
        wait_until(lambda: run.newest > last, processes)
        took = time.monotonic() - begin
        if not held or last not in held:
            return f"steps {held} were whole, {last} is the newest", took
        processes[0].send_signal(signal.SIGTERM)
        code = processes[0].wait(60)
    left = sorted(os.listdir(workdir / "checkpoints"))
    left = [name for name in left if not name.isdecimal() and name != ".lock"]
    if code != 0 or left:
        return f"exit code {code}, left behind: {left}", took
    if set(losses(workdir)) != set(range(1, run.newest + 1)):
        return "records are missing", took
    return (None if is_whole(workdir, run.newest) else "the last save is damaged"), took


def steps(workdir):
    return [int(f.name) for f in (workdir / "checkpoints").iterdir() if f.name.isdecimal()]


def is_whole(workdir, step):
    try:
        manifest.verify(workdir / "checkpoints" / str(step))
    except (manifest.Damaged, OSError):
        return False
    return True
