"""Where else a run's metrics go beside metrics.jsonl, as config parts: TensorBoard, W&B.

Their packages are imported where they are used; `pip install 'vdm-jax[track]'` installs them.
"""

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from vdm_jax.core.refusal import Refusal

IDENTITY = "wandb.id"  # of the run there, kept in the run directory so that going on goes on


@runtime_checkable
class Writer(Protocol):
    """Takes the records of one run."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


@runtime_checkable
class Tracker(Protocol):
    """A config part that records go to."""

    @property
    def package(self) -> str:
        """What it imports."""
        ...

    def open(self, workdir: Path, step: int, config: Mapping[str, Any]) -> Writer:
        """step: that the run goes on from. config: of the run, as nested dicts."""
        ...


@dataclass(frozen=True)
class TensorBoard:
    """Event files in RUN/tensorboard: `tensorboard --logdir RUN/tensorboard`."""

    @property
    def package(self) -> str:
        return "tensorboardX"

    def open(self, workdir: Path, step: int, config: Mapping[str, Any]) -> Writer:
        del config  # it is in the run directory
        return _Events(workdir / "tensorboard", step)


@dataclass(frozen=True)
class WandB:
    """Weights & Biases (wandb.ai). offline: kept in RUN/wandb until `wandb sync`."""

    project: str = "vdm-jax"
    entity: str | None = None
    mode: Literal["online", "offline"] = "online"

    @property
    def package(self) -> str:
        return "wandb"

    def open(self, workdir: Path, step: int, config: Mapping[str, Any]) -> Writer:
        del step  # it keeps what it has
        return _Run(self, workdir, config)


def check(trackers: Sequence[Tracker]) -> None:
    """Refuse trackers whose package is not installed."""
    for tracker in trackers:
        if find_spec(tracker.package) is None:
            raise Refusal(
                f"{type(tracker).__name__} needs {tracker.package}; pip install 'vdm-jax[track]'"
            )


class _Events:
    def __init__(self, folder: Path, step: int):
        package = import_module("tensorboardX")
        self._writer = package.SummaryWriter(logdir=str(folder), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Run:
    def __init__(self, tracker: WandB, workdir: Path, config: Mapping[str, Any]):
        identity = workdir / IDENTITY
        if not identity.exists():
            identity.write_text(secrets.token_hex(4), encoding="ascii")
        self._run = import_module("wandb").init(
            project=tracker.project,
            entity=tracker.entity,
            mode=tracker.mode,
            name=workdir.resolve().name,
            id=identity.read_text(encoding="ascii"),
            resume="allow",
            dir=str(workdir),
            config=dict(config),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self._run.log(finite, step=step)

    def close(self) -> None:
        self._run.finish()
