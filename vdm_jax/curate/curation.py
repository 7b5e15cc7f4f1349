"""From a folder of videos to shards: look, cut, judge, write; each step goes on where it ended.

output/
  manifest.json train/ test/    the shards (`data.shard`), which training reads
  clips.parquet                 every clip that was seen: kept, or rejected and why
  files.parquet                 every file: looked at, or what is wrong with it
  report.html                   both, for people
  .work/                        the ledger, and the clips until the shards are written
"""

import fcntl
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from vdm_jax.core import config as configs
from vdm_jax.core.refusal import Refusal, Unavailable
from vdm_jax.curate import work
from vdm_jax.curate.config import CurateConfig, settings
from vdm_jax.curate.inputs import File, listed
from vdm_jax.curate.ledger import Ledger
from vdm_jax.curate.stage import Row, Span
from vdm_jax.curate.verdict import Verdict, verdict
from vdm_jax.curate.work import Task

WORK, LOCK = ".work", "lock"


@runtime_checkable
class Executor(Protocol):
    """Has tasks done: each with its result, as they come, until the queue is empty."""

    def run(self, queue: deque[Task]) -> Iterator[tuple[Task, Row]]: ...


Progress = Callable[[Task, Row], None]
"""Told of each task that was done, now or by an earlier start."""


@dataclass(frozen=True, kw_only=True)
class Curation:
    """source: a folder, or a table of files. output: a new folder, or that of a killed start."""

    config: CurateConfig
    source: Path
    output: Path

    def check(self) -> None:
        """Refuse what cannot be done, before anything is read."""
        for stage in self.config.build():
            stage.setup()
        if not self.source.exists():
            raise Refusal(f"--input {self.source}: there is no such file or folder")
        if self.source.resolve().is_relative_to(self.output.resolve()):
            raise Refusal("--input lies in --output; choose another --output")
        if (self.output / "manifest.json").exists():
            raise Refusal(f"{self.output}: holds shards already; choose another --output")
        try:
            (self.output / WORK).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Refusal(f"{self.output}: cannot be written: {error.strerror}") from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Raises Unavailable while another start works in the same output."""
        with (self.output / WORK / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Unavailable(f"{self.output}: another start is at work there") from error
            yield

    def run(self, executor: Executor, progress: Progress) -> Verdict:
        """Look at every file, cut it into clips, judge them. The shards are not yet written."""
        root, files = listed(self.source)
        described = configs.to_json(self.config)
        ledger = Ledger(self.output / WORK, {"input": _identity(files), **self._identity()})
        try:
            results = ledger.results()
            queue = deque(self._tasks(root, files, described, results, progress))
            for task, result in executor.run(queue):
                ledger.add(task.key, result)
                results[task.key] = result
                progress(task, result)
                queue.extend(self._spans(task, result, results, progress))
        finally:
            ledger.close()
        return verdict(self.config, files, results)

    def _identity(self) -> dict[str, object]:
        parts = settings(self.config)
        return {name: configs.to_json(part) if hasattr(part, "__dataclass_fields__") else
                [configs.to_json(each) for each in part] if isinstance(part, tuple) else part
                for name, part in parts.items()}  # fmt: skip

    def _tasks(
        self,
        root: Path,
        files: list[File],
        described: str,
        results: dict[str, Row],
        progress: Progress,
    ) -> Iterator[Task]:
        """What is left to do, as far as it is known."""
        for file in files:
            if file.reason:
                continue
            look = Task(
                kind="look",
                span=Span(file=file.name, caption=file.caption),
                root=str(root.absolute()),
                folder=str((self.output / WORK).absolute()),
                config=described,
                patience=max(work.LEAST, file.held / 2**20),
            )
            if look.key not in results:
                yield look
                continue
            progress(look, results[look.key])
            yield from self._spans(look, results[look.key], results, progress)

    def _spans(
        self, look: Task, result: Row, results: dict[str, Row], progress: Progress
    ) -> Iterator[Task]:
        for each in result.get("spans", ()):
            span = Span(**each)
            seconds = (span.stop - span.start) / span.fps
            patience = max(work.LEAST, self.config.patience * seconds)
            task = replace(look, kind="cut", span=span, patience=patience)
            if task.key in results and self._is_there(span, results[task.key]):
                progress(task, results[task.key])
            else:
                yield task

    def _is_there(self, span: Span, result: Row) -> bool:
        return "clips" not in result or (self.output / WORK / work.name(span)).exists()

    def tidy(self) -> None:
        """Once the shards are written: what only a start that goes on would need."""
        shutil.rmtree(self.output / WORK, ignore_errors=True)


def _identity(files: list[File]) -> str:
    return work.digest([[f.name, f.caption, f.bytes, f.changed, f.reason] for f in files])
