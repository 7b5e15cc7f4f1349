"""Checkpoints that are whole or absent: asynchronous, atomic, verified, and never silently wrong.

Orbax writes the arrays. Around it stands a commit protocol of our own, because Orbax has no
checksums, does not fall back to an older step, and leaves half-written folders behind:

    .saving/12/         Orbax writes here, then the manifest, then everything is forced to the disk
    12/                 one rename later: a step, valid as long as its manifest verifies
    .deleting/3/        an old step on its way out
    quarantine/12/      a step that did not verify; moved aside, never deleted

Which step is the newest is read from the disk each time.
"""

import logging
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from vdm_jax.core import deferred, folders, manifest, storage
from vdm_jax.core.arrays import any_float, kinds, named, nested, read_numpy, restored
from vdm_jax.core.processes import any_process, together
from vdm_jax.core.refusal import Refusal, Unavailable

LOG = logging.getLogger(__name__)
CONFIG = "config.json"


class Restored(NamedTuple):
    """What a checkpoint held: arrays on the devices the abstract state asked for, and its meta."""

    step: int
    state: PyTree
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run, in one folder of a file system all processes share.

    keep: how many of the newest verified steps stay; at least 2, so that one may go bad.
    Opening removes what dead saves left behind and refuses a folder that cannot be written or in
    which another process is saving. Use as a context manager, or call close().
    """

    def __init__(self, directory: str | Path, keep: int = 3):
        if keep < 2:
            raise Refusal(f"keep is {keep}; at least 2 checkpoints stay, so that one may go bad")
        self.directory = Path(directory).absolute()
        self._keep = keep
        self._saving = self.directory / ".saving"
        self._deleting = self.directory / ".deleting"
        self._known: set[int] = set()  # steps that this object wrote or verified
        self._in_flight = -1
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        with together(f"{self.directory} could not be opened"):
            if jax.process_index() == 0:
                self._lock = folders.locked(self.directory)
                folders.removed(self._saving, self._deleting)
        storage.hush()
        self._orbax = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())

    def save(self, step: int, state: PyTree, meta: Mapping[str, Any]) -> None:
        """Start saving; returns as soon as the arrays of `state` may be donated or overwritten.

        meta is JSON kept with the arrays (data position, fingerprint, …). A failure of the save
        is raised by the next save, wait or close, as Unavailable where the disk is at fault. A
        step that this object already saved or restored is not written again.
        """
        self.wait()
        if step in self._known:
            return
        if (self.directory / str(step)).exists():
            raise Refusal(f"{self.directory} already holds step {step}; restore it or move it away")
        self.check_room(state)
        body = {"step": step, "meta": dict(meta), "arrays": kinds(state)}
        target = self._saving / str(step)
        with storage.one_line(f"step {step} could not be saved in {self.directory}"):
            try:
                self._orbax.save(target, args=ocp.args.PyTreeSave(nested(named(state))), force=True)
            except BaseException:
                self._discard()
                raise
        self._in_flight = step
        self._thread = threading.Thread(target=self._commit, args=(step, body), name="commit")
        self._thread.start()

    def _commit(self, step: int, body: Mapping[str, Any]) -> None:
        """In a thread: once Orbax is done, prove the step, give it its name, drop old ones."""
        try:
            self._orbax.wait_until_finished()
            if jax.process_index() == 0:
                manifest.write(self._saving / str(step), body)
                (self._saving / str(step)).rename(self.directory / str(step))
                manifest.force(self.directory)
            self._known.add(step)
            if jax.process_index() == 0:
                self._prune()
        except BaseException as error:
            self._failure = error
        finally:
            self._discard()

    def _discard(self) -> None:
        if jax.process_index() == 0:
            folders.removed(self._saving)

    def wait(self) -> None:
        """Until the save in flight is on the disk; raises what went wrong with it."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread, failure, self._failure = None, self._failure, None
        failed_anywhere = any_process(flag=failure is not None)
        if failed_anywhere:
            self._known.discard(self._in_flight)
        if failure is not None:
            with storage.one_line(f"the last save in {self.directory} failed"):
                raise failure
        if failed_anywhere:
            raise Unavailable(f"the last save in {self.directory} failed in another process")

    def restore(self, abstract_state: PyTree, before: int | None = None) -> Restored | None:
        """The newest step that verifies, or None when the folder holds no step.

        before: only a step below this one is wanted; None then also where there is none intact.

        abstract_state: the pytree to fill, of arrays or `jax.ShapeDtypeStruct`s; their shardings
        decide where the arrays go, whatever mesh they were saved from.
        Steps that do not verify are moved to quarantine/, with the reason in the log. Refuses when
        steps exist but none verifies, and when the arrays are not those of abstract_state.
        """
        self.wait()
        newest, damaged = self._newest(before) if jax.process_index() == 0 else (-1, 0)
        newest, damaged = _from_first_process(newest), _from_first_process(damaged)
        if newest < 0 and (damaged == 0 or before is not None):
            return None
        if newest < 0:
            raise Refusal(
                f"none of the checkpoints in {self.directory} is intact; they are in quarantine/: "
                "repair one and move it back, or start in another folder"
            )
        folder = self.directory / str(newest)
        body = manifest.read(folder)
        state = restored(folder, abstract_state, body["arrays"], prefix="")
        self._known.add(newest)
        return Restored(newest, state, body["meta"])

    def check_room(self, state: PyTree) -> None:
        """Unavailable where a checkpoint of `state` (arrays or shapes) has no room on the disk."""
        missing = storage.lacking(self.directory, state)
        if any_process(flag=missing is not None):
            raise Unavailable(missing or f"another process finds no room in {self.directory}")

    def holds(self, steps: range) -> bool:
        """Whether a committed step is among `steps`, as the first process sees the disk."""
        self.wait()
        return bool(_from_first_process(any(step in steps for step in self.steps())))

    def steps(self) -> list[int]:
        """Committed steps on the disk, ascending; verified or not."""
        return folders.steps(self.directory)

    def close(self) -> None:
        """Wait for the save in flight, and let other processes save here."""
        try:
            self.wait()
        finally:
            self._release()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
            return
        if self._thread is not None:
            self._thread.join()  # its own failure must not hide the one on its way up
        self._release()

    def _release(self) -> None:
        self._orbax.close()
        if jax.process_index() == 0:
            self._lock.close()

    def _newest(self, before: int | None) -> tuple[int, int]:
        """(newest step that verifies or -1, number that did not); moves the latter aside."""
        damaged = len(folders.steps(self.directory / "quarantine"))
        for step in reversed(self.steps()):
            if before is not None and step >= before:
                continue
            if self._intact(step):
                return step, damaged
            damaged += 1
        return -1, damaged

    def _intact(self, step: int) -> bool:
        folder = self.directory / str(step)
        try:
            folders.verified(folder)
        except manifest.Damaged as reason:
            aside = folders.free_name(self.directory / "quarantine" / str(step))
            LOG.warning("checkpoint %d is damaged, moved to %s: %s", step, aside, reason)
            aside.parent.mkdir(exist_ok=True)
            folder.rename(aside)
            return False
        self._known.add(step)
        return True

    def _prune(self) -> None:
        """Delete all but the newest `keep` steps, counting none that does not verify."""
        kept = 0
        for step in reversed(self.steps()):
            if kept < self._keep:
                kept += step in self._known or self._intact(step)
                continue
            self._deleting.mkdir(exist_ok=True)
            (self.directory / str(step)).rename(self._deleting / str(step))
        shutil.rmtree(self._deleting, ignore_errors=True)


# ---- Model directories ---------------------------------------------------------------------------


def check_new(directory: str | Path) -> None:
    """Refuse a directory that already holds something, or that cannot be made."""
    directory = Path(directory).absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise Refusal(f"{directory} exists and is not empty; a model is written to a new directory")
    above = next(folder for folder in directory.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        what = "is no directory" if not above.is_dir() else "may not be written"
        raise Refusal(f"{directory} cannot be made: {above} {what}")


def save_weights(
    directory: str | Path,
    config_json: str,
    weights: PyTree,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Write a model directory: config.json, weights/ and their manifest, all or nothing.

    weights: arrays, or `core.deferred.Deferred` ones, which are read as they are written.
    beside: further texts by the name of their file, "a.json" or "folder/a.json". Refuses a
    directory that already holds something.
    """
    check_new(directory)
    directory = Path(directory).absolute()
    draft = directory.with_name(f".{directory.name}.saving")
    with storage.one_line(f"the model could not be saved in {directory}"):
        try:
            if jax.process_index() == 0:
                folders.removed(draft)
                draft.mkdir(parents=True)
                for name, text in {CONFIG: config_json, **(beside or {})}.items():
                    (draft / name).parent.mkdir(exist_ok=True)
                    (draft / name).write_text(text, encoding="utf-8")
            _meet()  # nobody writes before the draft is there
            handler = ocp.PyTreeCheckpointHandler(type_handler_registry=deferred.handlers())
            with ocp.Checkpointer(handler) as orbax:
                orbax.save(draft / "weights", args=ocp.args.PyTreeSave(nested(named(weights))))
            if jax.process_index() == 0:
                manifest.write(draft, {"arrays": kinds(weights)})
                draft.rename(directory)
                manifest.force(directory.parent)
            _meet()
        except BaseException:
            folders.removed(draft)
            raise


def check_weights(directory: str | Path) -> None:
    """Refuse a directory in which no weights lie; does not read them."""
    directory = Path(directory).absolute()
    if not (directory / manifest.NAME).exists() and not folders.steps(directory / "checkpoints"):
        raise Refusal(
            f"{directory} is neither a model directory nor a run with weights: it has no checkpoint"
        )


class Stored(NamedTuple):
    """Verified weights on the disk: the folder of arrays, their kinds, and what precedes a name."""

    folder: Path
    held: dict[str, str]
    prefix: str

    @property
    def kinds(self) -> dict[str, str]:
        """Type and shape of each array, "float32[8,16]", by its name without the prefix."""
        return {
            name.removeprefix(self.prefix): kind
            for name, kind in self.held.items()
            if name.startswith(self.prefix)
        }

    def read(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """A few of the arrays, by their names without the prefix."""
        return read_numpy(self.folder, {name: self.prefix + name for name in names})


def stored_weights(directory: str | Path) -> Stored:
    """The weights of a model directory, or the averaged (EMA) ones of a run's newest checkpoint.

    Reads only: a damaged checkpoint of a run is passed over with a warning in the log, a damaged
    model directory is refused.
    """
    directory = Path(directory).absolute()
    check_weights(directory)
    if (directory / manifest.NAME).exists():
        try:
            body = manifest.verify(directory)
        except manifest.Damaged as reason:
            raise Refusal(f"the model in {directory} is damaged: {reason}") from None
        return Stored(directory / "weights", body["arrays"], "")
    steps = folders.steps(directory / "checkpoints")
    for step in reversed(steps):
        folder = directory / "checkpoints" / str(step)
        try:
            body = folders.verified(folder)
        except manifest.Damaged as reason:
            LOG.warning("checkpoint %s is damaged, passed over: %s", folder, reason)
            continue
        return Stored(folder, body["arrays"], "ema/")
    raise Refusal(f"{directory}: none of its {len(steps)} checkpoints is intact")


def load_weights(directory: str | Path, abstract: PyTree, part: str = "") -> PyTree:
    """`abstract` filled with the weights that `stored_weights` finds.

    abstract: the pytree to fill, as for `Checkpoints.restore`; weights stored in another float
    type are converted to its own. part: "vae/" for weights of which only those are read.
    """
    folder, held, prefix = stored_weights(directory)
    prefix += part
    return restored(folder, abstract, any_float(held, abstract, prefix), prefix)


def load_config(directory: str | Path) -> str:
    """The config.json of a model directory or a run directory."""
    try:
        return (Path(directory) / CONFIG).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(
            f"{directory} has no readable {CONFIG}; a model or run directory has"
        ) from error


# ---- Processes -----------------------------------------------------------------------------------


def _meet() -> None:
    any_process(flag=False)


def _from_first_process(value: int) -> int:
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
