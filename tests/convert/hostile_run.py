"""Open every case of `hostile.py` in this one process and report what came of it, as JSON.

Run as a script: FOLDER SEED. In the report, for each case: its name, the kind and text of what was
raised, seconds of the processor, bytes of the file, and the growth of this process's memory; for
the whole: the largest child, and every event of the interpreter that reading weights should not
cause.
"""

import json
import os
import random
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forge
import hostile
import numpy as np

from vdm_jax.convert.read import sandbox
from vdm_jax.convert.read.source import open_component, open_source

HARMLESS = ("object.__getattr__", "os.listdir", "os.scandir", "sys._getframe", "builtins.id",
            "gc.", "cpython.", "time.sleep",
            "os.kill")  # which ends an interpreter that took too long  # fmt: skip


class Watch:
    """Notes what reading a file has no reason to do."""

    def __init__(self, folder: Path):
        self.events: list[str] = []
        self._folder = str(folder)
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        if event == "subprocess.Popen":
            expected = str(sandbox.SCRIPT) in [str(part) for part in arguments[1]]
        elif event == "open":
            path = str(arguments[0])
            expected = path.startswith((self._folder, "/dev/", "/proc/self/")) or path.isdecimal()
        else:
            expected = event.startswith(HARMLESS)
        if not expected:
            self.events.append(f"{event} {str(arguments)[:100]}")


def read_all(path: str) -> dict[str, np.ndarray]:
    opened = open_component(path, None) if os.path.isdir(path) else open_source(path)
    with opened as source:
        return {name: source.read(name) for name in source.tensors()}


def outcome(path: str) -> dict[str, Any]:
    Path("/proc/self/clear_refs").write_text("5")
    before, start = _memory("VmRSS"), time.process_time()
    try:
        arrays = read_all(path)
        kind, text = "read", " ".join(f"{n} {a.dtype} {a.tolist()}" for n, a in arrays.items())
    except BaseException as error:
        kind, text = type(error).__name__, str(error)
    seconds = time.process_time() - start
    grown = _memory("VmHWM") - before
    return {"kind": kind, "text": text, "seconds": seconds, "grown": grown}


def _memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def mutations(folder: Path, seed: int) -> Iterator[hostile.Case]:
    """Good files with a little damage; a pickle's damage is hidden from its checksum."""
    rng = random.Random(seed)
    for number in range(200):
        kind = ("zip", "pickle", "legacy", "safetensors")[number % 4]
        path = folder / f"mutated-{kind}-{number}"
        if kind == "pickle":
            path.write_bytes(forge.torch_zip(forge.mutated(forge.GOOD_PICKLE, rng)))
        else:
            path.write_bytes(forge.mutated(getattr(forge, f"GOOD_{kind.upper()}"), rng))
        yield hostile.Case(path.name, str(path), "")


def main() -> None:
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    cases = [*hostile.cases(folder, seed), *mutations(folder, seed)]
    read = []
    for name in ("GOOD_ZIP", "GOOD_LEGACY", "GOOD_SAFETENSORS"):  # what loads late is loaded now
        (folder / name).write_bytes(getattr(forge, name))
        read.append(outcome(str(folder / name))["text"])
    watch = Watch(folder)
    report = [{**case._asdict(), **outcome(case.path)} for case in cases]
    events = list(watch.events)
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    result = {"cases": report, "events": events, "good": read, "child": child}
    (folder / "report.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
