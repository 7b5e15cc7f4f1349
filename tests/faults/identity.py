"""A run that is continued with something else: refused, and what differs is named."""

import subprocess

import pytest
from faults.lives import PATIENCE, Run, environment
from faults.row import Row

from vdm_jax.core.refusal import Refusal
from vdm_jax.data.loader import Loader
from vdm_jax.data.synthetic import MovingShapes

OPTIONS = {
    "seed": ("--seed", "5"),
    "batch_size": ("--batch-size", "4"),
    "accumulate": ("--accumulate", "2"),
    "learning_rate": ("--optim.learning-rate", "0.5"),
    "ema_decay": ("--ema-decay", "0.5"),
    "data.length": ("--data.length", "60"),
    "data.radius": ("--data.radius", "0.08", "0.09"),
    "held_out.length": ("--held-out.length", "20"),
}

SHAPES = {"split": "train", "num_frames": 2, "height": 8, "width": 8, "radius": (0.08, 0.1)}


def refusals(folder, cache):
    """Through the command, and below it, where only the loader could notice."""
    row = Row("other dataset, seed, batch, …", "refused, the difference named")
    run = Run(folder / "identity", cache, steps=2)
    assert run.finish() == [0], run.said()[-2000:]
    for name, option in OPTIONS.items():
        command = run.command() + list(option)
        done = subprocess.run(
            command, env=environment(cache), capture_output=True, text=True, timeout=PATIENCE
        )
        line = done.stderr
        fine = done.returncode == 2 and line.startswith("error: ") and line.count("\n") == 1
        row.add(None if fine and name in line else f"{name}: {done.returncode} {line[-300:]}")
    for name, other in LOADERS.items():
        row.add(loader_refusal(name, other))
    return row


LOADERS = {
    "source": {"source": MovingShapes(**(SHAPES | {"radius": (0.08, 0.09)}))},
    "length": {"source": MovingShapes(length=99, **SHAPES)},
    "seed": {"seed": 4},
    "batch_size": {"batch_size": 8},
}


def loader_refusal(name, other):
    usual = {"source": MovingShapes(**SHAPES), "batch_size": 4, "seed": 3}
    position = Loader(**usual).state()
    with pytest.raises(Refusal) as refusal:
        Loader(**(usual | other)).restore(position)
    return None if f"{name} " in str(refusal.value) else f"loader, {name}: {refusal.value}"
