"""Training with a fault in it: python child.py FAULTS.json ARGUMENTS-OF-TRAIN

FAULTS.json, of which every entry may be absent:
    marker   file that is made when a fault strikes; kill and hang strike only while it is absent
    kill     {"phase": one of PHASES, "count": at which of its times}
    hang     {"step": after which, "how": one of HANGS}
    poison   {"place": "loss" or "gradient", "batches": {"number of the batch, from 0": factor}}

The package knows nothing of it: its functions are wrapped here, before it runs.
"""
# ruff: noqa: E402 - the heart beats before JAX is loaded, as in the command itself

import ctypes
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from vdm_jax.core import command
from vdm_jax.train import heartbeat

heartbeat.start()

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from vdm_jax.core import arrays, checkpoint, folders, manifest
from vdm_jax.core.checkpoint import Checkpoints
from vdm_jax.data.loader import Loader
from vdm_jax.tasks.text_to_video import TextToVideo
from vdm_jax.train import __main__ as train
from vdm_jax.train import log, loop, rundir

BEFORE, AFTER = "before", "after"


def renamed_to(part):
    return lambda path, target: part in Path(target).parts[-2:] or part in path.parts[-2:]


def named(name):
    return lambda path, *_, **__: Path(path).name == name


PHASES = {
    "save: begins": (ocp.AsyncCheckpointer, "save", BEFORE, None),
    "save: arrays in flight": (ocp.AsyncCheckpointer, "save", AFTER, None),
    "commit: arrays written": (manifest, "write", BEFORE, None),
    "commit: half a manifest": (Path, "write_text", "half", named(manifest.NAME)),
    "commit: manifest not forced": (Path, "write_text", AFTER, named(manifest.NAME)),
    "commit: half forced": (manifest, "force", BEFORE, named("_METADATA")),
    "commit: before its name": (Path, "rename", BEFORE, renamed_to(".saving")),
    "commit: has its name": (Path, "rename", AFTER, renamed_to(".saving")),
    "cleanup: begins": (Checkpoints, "_prune", BEFORE, None),
    "cleanup: set aside": (Path, "rename", AFTER, renamed_to(".deleting")),
    "cleanup: half deleted": (shutil, "rmtree", "half", named(".deleting")),
    "start: lock taken": (folders, "locked", AFTER, None),
    "start: sweeping": (folders, "removed", BEFORE, None),
    "start: config half kept": (Path, "write_text", "half", named("config.json.part")),
    "start: config kept": (rundir, "prepare", AFTER, None),
    "start: metrics cut": (log.MetricsLog, "__init__", AFTER, None),
    "restore: verifying": (manifest, "verify", AFTER, None),
    "restore: reading arrays": (arrays, "restored", BEFORE, None),
    "restore: arrays read": (Checkpoints, "restore", AFTER, None),
    "quarantine: begins": (Path, "rename", BEFORE, renamed_to("quarantine")),
    "quarantine: moved": (Path, "rename", AFTER, renamed_to("quarantine")),
    "finish: previews drawn": (loop.Observer, "finish", BEFORE, None),
}


def sleep_holding_everything():
    ctypes.PyDLL(None).sleep(100_000)  # keeps the interpreter lock


HANGS = {
    "stopped": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "lock held": sleep_holding_everything,
    "main thread waits": lambda: time.sleep(100_000),
}


class Strike:
    """Something that happens once in all lives of a run."""

    def __init__(self, marker, deed):
        self.marker, self.deed = Path(marker), deed

    def __call__(self):
        if not self.marker.exists():
            self.marker.write_text(repr(time.time()))
            self.deed()


def die():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(100)


def half(original, path, *args, **kwargs):
    """Do half of what was asked."""
    if original.__name__ == "rmtree":
        files = [f for f in Path(path).rglob("*") if f.is_file()]
        for file in files[: len(files) // 2]:
            file.unlink()
    else:
        original(path, args[0][: len(args[0]) // 2], **kwargs)


def interrupt(phase, count, strike):
    """Wrap a function so that `strike` comes around one of its calls."""
    owner, name, when, applies = PHASES[phase]
    original, calls = getattr(owner, name), 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        if applies is not None and not applies(*args, **kwargs):
            return original(*args, **kwargs)
        calls += 1
        if calls == count and when == "half" and not strike.marker.exists():
            half(original, *args, **kwargs)
        if calls == count and when != AFTER:
            strike()
        result = original(*args, **kwargs)
        if calls == count and when == AFTER:
            strike()
        return result

    wrapped.__name__ = name
    setattr(owner, name, wrapped)
    if owner is arrays:
        checkpoint.restored = wrapped  # by this name it is called


def hang_after(step, strike):
    original = heartbeat.Pulse.beat

    def beat(self, done):
        original(self, done)
        if done == step:
            time.sleep(1.5)  # the supervisor hears of it
            strike()

    heartbeat.Pulse.beat = beat


@jax.custom_vjp
def with_gradient(loss, factor):
    return loss


with_gradient.defvjp(
    lambda loss, factor: (loss, factor), lambda factor, g: (g * factor, jnp.zeros_like(factor))
)


def poison(place, batches):
    """Multiply the loss, or its gradient alone, wherever the data is one of those batches."""
    take, prepare, loss = Loader.__next__, TextToVideo.prepare, TextToVideo.loss

    def poisoned_batch(self):
        number = self.position // self.batch_size
        batch = take(self)
        rows = len(batch["video"])
        return batch | {"poison": np.full(rows, float(batches.get(str(number), 1.0)), "f")}

    def poisoned_arrays(self, model, batch):
        arrays = prepare(self, model, batch)
        return arrays | {"poison": batch.get("poison", np.ones(len(batch["video"]), "f"))}

    def poisoned_loss(self, model, batch, key):
        factor = batch["poison"].mean()
        value, scalars = loss(self, model, batch, key)
        return value * factor if place == "loss" else with_gradient(value, factor), scalars

    Loader.__next__, TextToVideo.prepare = poisoned_batch, poisoned_arrays
    TextToVideo.loss = poisoned_loss


def main(args):
    faults = json.loads(Path(args[0]).read_text())
    if "kill" in faults:
        strike = Strike(faults["marker"], die)
        interrupt(faults["kill"]["phase"], faults["kill"]["count"], strike)
    if "hang" in faults:
        how = HANGS[faults["hang"]["how"]]
        hang_after(faults["hang"]["step"], Strike(faults["marker"], how))
    if "poison" in faults:
        poison(**faults["poison"])
    return train.main(args[1:])


if __name__ == "__main__":
    command.run(main, sys.argv[1:])
