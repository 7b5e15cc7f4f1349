"""TrainConfig: everything that decides what a training run computes, and how it is reported."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from flax import nnx

from vdm_jax.adapters.lora import LoRA
from vdm_jax.adapters.trainable import EVERYTHING, Selected
from vdm_jax.core import config as configs
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.data.loader import Reading
from vdm_jax.data.source import Source
from vdm_jax.models.lpips import LPIPSConfig
from vdm_jax.tasks.task import ModelConfig, Task, VideoModel
from vdm_jax.train.guard import Guard
from vdm_jax.train.judge import Judge
from vdm_jax.train.optim import AdamW
from vdm_jax.train.track import Tracker


@runtime_checkable
class Data(Protocol):
    """A config part that opens a source of samples."""

    def build(self) -> Source: ...


@dataclass(frozen=True)
class PartFrom:
    """The first weights of one part of the model are those of the same part elsewhere.

    part: "network", "vae", … directory: of a model or of a run. A temporal decoder is made of a
    picture decoder where that is what lies there, and a network of videos of one of pictures.
    """

    part: str
    directory: str


COUNTS = ("steps", "batch_size", "accumulate", "log_every", "save_every", "keep", "preview_every",
          "num_previews", "held_out_samples")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. `vdm_jax.train` runs it; the run directory keeps it as config.json."""

    model: ModelConfig
    task: Task
    data: Data
    held_out: Data
    """Samples that are never trained on: previews and held-out loss."""
    init_from: str | None = None
    """Directory of the model or the run whose weights are trained on; None draws new ones."""
    parts_from: tuple[PartFrom, ...] = ()
    """Parts of the model that begin with other weights than the rest."""
    trainable: Selected | LoRA = EVERYTHING
    """What training changes; the rest of the model only is read."""
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights that only are read."""
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
    reading: Reading = Reading()
    """How samples are read ahead: threads, processes, batches; the samples are the same."""
    max_bad: int = 0
    """Records that may be damaged: each is passed over and named in log.txt, another stands in."""
    guard: Guard = Guard()
    """Which steps are skipped, and when the run goes back to a checkpoint."""
    trackers: tuple[Tracker, ...] = ()
    """Where metrics go beside metrics.jsonl."""

    def __post_init__(self) -> None:
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise Refusal(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_bad < 0:
            raise Refusal(f"max_bad must be at least 0, got {self.max_bad}")
        if self.batch_size % self.accumulate:
            raise Refusal(
                f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}"
            )
        if not 0 <= self.seed < 2**32:
            raise Refusal(f"seed must lie in [0, 2^32), got {self.seed}")
        if not 0 <= self.ema_decay < 1:
            raise Refusal(f"ema_decay must lie in [0, 1), got {self.ema_decay}")
        self.task.check(self.model)
        self._check_parts()

    def _check_parts(self) -> None:
        given = {source.part for source in self.parts_from}
        if wrong := [part for part in given if getattr(self.model, part, None) is None]:
            raise Refusal(f"parts_from names {', '.join(sorted(wrong))}; the model has none")
        asks = type(self.model.lpips) is LPIPSConfig
        if asks and self.init_from is None and "lpips" not in given:
            raise Refusal(
                "model.lpips needs trained weights: run python -m vdm_jax.convert.lpips and name "
                "their directory in parts_from; or say RandomLPIPSConfig()"
            )

    def build_model(self) -> VideoModel:
        return self.model.build(rngs=nnx.Rngs(self.seed))


# What may change when a run is continued: how long, where and how often. With other steps the rest
# of the run takes the learning rates of a run of that length.
RESUMABLE = ("steps", "mesh", "judge", "log_every", "save_every", "keep", "preview_every",
             "num_previews", "held_out_samples", "reading", "max_bad", "guard",
             "trackers")  # fmt: skip


def read(spec: str, args: Sequence[str], *, prog: str) -> TrainConfig:
    """The config that --config names, "configs/x.py:function" or a run's config.json, with the
    options of `args` in place of its values."""
    if spec.endswith(".json"):
        path = Path(spec)
        if not path.is_file():
            raise Refusal(f"no config file {spec!r}")
        config = configs.from_json(path.read_text(encoding="utf-8", errors="replace"))
    else:
        config = configs.load(spec)
    if not isinstance(config, TrainConfig):
        raise Refusal(f"{spec} gives a {type(config).__name__}; training needs a TrainConfig")
    return configs.override(config, args, prog=prog)


def differences(old: TrainConfig, new: TrainConfig) -> list[str]:
    """What differs and may not differ between the parts of one run: "seed was 0, now 5"."""
    return [
        difference
        for field in fields(TrainConfig)
        if field.name not in RESUMABLE
        for difference in _differing(field.name, getattr(old, field.name), getattr(new, field.name))
    ]


def _differing(name: str, old: Any, new: Any) -> list[str]:
    """Leaf by leaf, as far as both are parts of the same kind."""
    if old == new:
        return []
    if is_dataclass(old) and type(old) is type(new):
        return [
            difference
            for part in fields(old)
            for difference in _differing(
                f"{name}.{part.name}", getattr(old, part.name), getattr(new, part.name)
            )
        ]
    was, now = (type(v).__name__ if is_dataclass(v) else repr(v)[:60] for v in (old, new))
    return [f"{name} was {was}, now {now}"]
