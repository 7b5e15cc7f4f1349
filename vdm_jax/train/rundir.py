"""The run directory, and whether a config may go on in it.

config.json  checkpoints/  metrics.jsonl  samples/  loss.png  report.html  log.txt
frozen/      the weights that the run reads and does not change, where there are any
tokenizer/   the files of the text encoder's, where it has any
"""

import shutil
from pathlib import Path

import jax
from flax import nnx

from vdm_jax.conditioning.tower import TextTower
from vdm_jax.core import checkpoint, processes, storage
from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal
from vdm_jax.sample.load import FROZEN
from vdm_jax.train.config import RESUMABLE, TrainConfig, differences
from vdm_jax.train.state import Built, TrainState

CONFIG = "config.json"


def check(workdir: Path, config: TrainConfig) -> None:
    """Refuse a directory that is a file, or that holds a run of something else."""
    if workdir.exists() and not workdir.is_dir():
        raise Refusal(f"--workdir {workdir} is a file; give a directory")
    if any((workdir / "checkpoints").glob("[0-9]*")):
        _check_config(workdir, config)


def prepare(workdir: Path, config: TrainConfig) -> None:
    """Make the folders and keep the config; process 0 of the run does it, holding its lock."""
    if jax.process_index() == 0:
        with storage.one_line(f"{workdir} cannot be written"):
            (workdir / "samples").mkdir(exist_ok=True)
            _keep_tokenizer(workdir, config)
            part = workdir / (CONFIG + ".part")
            part.write_text(configs.to_json(config), encoding="utf-8")
            part.replace(workdir / CONFIG)


def _keep_tokenizer(workdir: Path, config: TrainConfig) -> None:
    """Whoever samples from the run finds its tokenizer, wherever it lies then."""
    if isinstance(config.model.text, TextTower):
        for name, text in config.model.text.texts().items():
            (workdir / name).parent.mkdir(exist_ok=True)
            (workdir / name).write_text(text, encoding="utf-8")


def weights(
    workdir: Path, config: TrainConfig, built: Built, restored: TrainState | None
) -> tuple[TrainState, nnx.State]:
    """The state to train from, and the frozen weights, which the run keeps from its first step."""
    kept = workdir / FROZEN
    if restored is not None:
        if not jax.tree.leaves(built.frozen):
            return restored, built.frozen
        if not kept.is_dir():
            raise Refusal(
                f"{kept} is missing: the weights that this run reads and does not train; bring it "
                "back, or begin another run"
            )
        return restored, checkpoint.load_weights(kept, built.frozen)
    state, frozen = built.init()
    if jax.tree.leaves(frozen):
        if jax.process_index() == 0:
            shutil.rmtree(kept, ignore_errors=True)  # of a run that ended before its first save
        processes.meet("a place for the frozen weights")
        checkpoint.save_weights(kept, configs.to_json(config), frozen)
    return state, frozen


def _check_config(workdir: Path, config: TrainConfig) -> None:
    try:
        old = configs.from_json((workdir / CONFIG).read_text(encoding="utf-8"))
    except (Refusal, UnicodeDecodeError, OSError) as error:
        raise Refusal(
            f"{workdir / CONFIG} is unreadable ({error}); give another --workdir"
        ) from error
    if not isinstance(old, TrainConfig):
        raise Refusal(f"{workdir} holds something else than a training run; give another --workdir")
    if changed := differences(old, config):
        raise Refusal(
            f"{workdir} holds a run of something else: {', '.join(changed)}; give another "
            f"--workdir, or change only {', '.join(RESUMABLE)}"
        )
