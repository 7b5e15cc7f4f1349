"""TrainConfig: everything that decides what a training run computes, and how it is reported."""

from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

from flax import nnx

from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.loader import Source
from vdm_jax.tasks.task import ModelConfig, Task, VideoModel
from vdm_jax.train.judge import Judge
from vdm_jax.train.optim import AdamW


@runtime_checkable
class Data(Protocol):
    """A config part that opens a source of samples."""

    def build(self) -> Source: ...


COUNTS = ("steps", "batch_size", "accumulate", "log_every", "save_every", "keep", "preview_every",
          "num_previews", "held_out_samples", "max_skipped")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. `vdm_jax.train` runs it; the run directory keeps it as config.json."""

    model: ModelConfig
    task: Task
    data: Data
    held_out: Data
    """Samples that are never trained on: previews and held-out loss."""
    optim: AdamW = AdamW()
    mesh: MeshConfig = MeshConfig()
    steps: int = 1000
    batch_size: int = 16
    """Samples of a step, over all devices and processes."""
    accumulate: int = 1
    """Parts that a batch is cut into to save memory; their gradients are averaged."""
    ema_decay: float = 0.999
    seed: int = 0
    judge: Judge | None = None
    """What grades the finished model; None where nobody can say what is right."""
    log_every: int = 10
    """Steps between two lines of metrics.jsonl."""
    save_every: int = 500
    """Steps between two checkpoints."""
    keep: int = 3
    """Checkpoints that stay on disk."""
    preview_every: int = 500
    """Steps between two preview grids."""
    num_previews: int = 6
    """Videos in a preview grid."""
    held_out_samples: int = 32
    """Samples that the held-out loss is measured on."""
    max_skipped: int = 50
    """Non-finite steps in a row after which the run gives up."""

    def __post_init__(self) -> None:
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise Refusal(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size % self.accumulate:
            raise Refusal(
                f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}"
            )
        if not 0 <= self.seed < 2**32:
            raise Refusal(f"seed must lie in [0, 2^32), got {self.seed}")
        if not 0 <= self.ema_decay < 1:
            raise Refusal(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
        self.task.check(self.model)

    def build_model(self) -> VideoModel:
        return self.model.build(rngs=nnx.Rngs(self.seed))


# What may change when a run is continued: how long, where and how often. With other steps the rest
# of the run takes the learning rates of a run of that length.
RESUMABLE = ("steps", "mesh", "judge", "log_every", "save_every", "keep", "preview_every",
             "num_previews", "held_out_samples", "max_skipped")  # fmt: skip


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Fields that differ and may not differ between the parts of one run."""
    return [
        field.name
        for field in fields(TrainConfig)
        if field.name not in RESUMABLE and getattr(old, field.name) != getattr(new, field.name)
    ]
