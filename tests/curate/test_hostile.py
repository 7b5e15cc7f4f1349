"""The command over videos that are odd, damaged or hostile, among good ones."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from curate import hostile
from curate.cases import CANARY, COLOUR

from vdm_jax.data.record import unpack
from vdm_jax.data.shard import verify

CONFIG = """
from vdm_jax.curate.config import CurateConfig
from vdm_jax.curate.motion import Motion
from vdm_jax.curate.quality import Quality
from vdm_jax.curate.shots import Shots
from vdm_jax.curate.text import Text

def some():
    shots = Shots(shortest=1, seconds=())
    return CurateConfig(size=48, shots=shots, stages=(Quality(),), rules=(), alike=1.0)

def all():
    shots = Shots(shortest=1, seconds=())
    stages = Motion(), Quality(), Text(frames=1)
    return CurateConfig(size=48, shots=shots, stages=stages, rules=(), alike=1.0)
"""
MOST = 2**30  # bytes of memory that any process may take
LONGEST = 30.0  # seconds from one file to the next


@dataclass
class Run:
    """What the command did. waited: seconds in which it did nothing. peak: bytes of memory."""

    code: int
    said: str
    output: Path
    waited: float
    peak: int
    seconds: float

    def rows(self, name):
        return pq.read_table(self.output / f"{name}.parquet").to_pylist()


@contextmanager
def nobody_called():
    """A port of this machine, for TCP and UDP, at which nothing came when it is over."""
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(type=socket.SOCK_DGRAM) as udp,
    ):
        port = tcp.getsockname()[1]
        udp.bind(("127.0.0.1", port))
        yield port
        for listener, come in ((tcp, tcp.accept), (udp, lambda: udp.recv(99))):
            listener.settimeout(0)
            with pytest.raises(BlockingIOError):
                come()


def run(made, output, function, before=()):
    config = output.parent / "config.py"
    config.write_text(CONFIG)
    line = [
        *before, sys.executable, "-m", "vdm_jax.curate", "--input", str(made.folder), "--output",
        str(output), "--config", f"{config}:{function}", "--workers", "2",
    ]  # fmt: skip
    begun, peak, waited, heard = time.monotonic(), 0, 0.0, None
    with (output.parent / "said").open("w+") as said:
        process = subprocess.Popen(
            line, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
        last = time.monotonic()
        while process.poll() is None:
            peak = max([peak, *map(held, session(process.pid))])
            size = written(output)
            if size != heard:
                heard, last = size, time.monotonic()
            elif size:
                waited = max(waited, time.monotonic() - last)
            time.sleep(0.05)
        said.seek(0)
        return Run(process.returncode, said.read(), output, waited, peak, time.monotonic() - begun)


def session(leader):
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and os.getsid(int(entry.name)) == leader:
                yield entry
        except OSError:
            continue


def held(process):
    """The most memory that a process ever had, in bytes."""
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", (process / "status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def written(output):
    """Something that changes with each result."""
    try:
        told = (output / ".work" / "ledger.sqlite-wal").stat()
    except OSError:
        return None
    return told.st_size, told.st_mtime_ns


def seen(output, clips):
    """{file: all frames of it that were kept, in order}."""
    starts = {clip["key"]: (clip["file"], clip["start"]) for clip in clips}
    frames = defaultdict(dict)
    for path in sorted(output.glob("*/*.array_record")):
        reader = ArrayRecordReader(str(path))
        for record in reader.read_all():
            header = header_of(record)
            name, start = starts[header["clip"]]
            count = len(header["sizes"])
            pictures = unpack(record, header["clip"], header["start"], range(count))
            for number, picture in enumerate(pictures):
                frames[name][start + header["start"] + number] = picture
        reader.close()
    return {name: np.stack([each[n] for n in sorted(each)]) for name, each in frames.items()}


def header_of(record):
    (length,) = np.frombuffer(record, "<u4", 1, 10)
    return json.loads(record[14 : 14 + int(length)])


def wrong(case, row, frames):
    """What is not as it should be with a file; "" if all is."""
    if row is None:
        return "is in no table"
    if row["reason"] not in case.allowed:
        return f"{row['reason'] or 'kept'}: {row['why']}"
    if row["reason"] or case.frames is None:
        return ""
    if frames is None:
        return "nothing of it was kept"
    if not case.prefix and len(frames) != len(case.frames):
        return f"has {len(frames)} frames of {len(case.frames)}"
    whole = case.frames[: len(frames)]
    if frames.shape != whole.shape:
        return f"is of {frames.shape}, not {whole.shape}"
    shifts = range(4 if case.prefix else 1)  # what is cut may lack pictures before its last one
    errors = [np.abs(frames.astype(int) - late(whole, shift)).mean((1, 2, 3)) for shift in shifts]
    error = np.min(errors, 0).max()
    return f"is off by {error:.1f}" if error > case.error else ""


def late(frames, shift):
    return frames[np.maximum(np.arange(len(frames)) - shift, 0)]


def shown(name):
    return name.encode("utf-8", "backslashreplace").decode()


def check(made, done):
    """The whole bar, but that nobody called. Prints a table of what was right."""
    assert done.code == 0, done.said[-3000:]
    assert "Traceback" not in done.said, done.said[-3000:]
    files, clips = done.rows("files"), done.rows("clips")
    rows = {row["file"]: row for row in files}
    names = sorted(shown(case.name) for case in made.cases)
    assert sorted(row["file"] for row in files) == names
    kept = seen(done.output, clips)
    faults = {c.name: wrong(c, rows.get(shown(c.name)), kept.get(c.name)) for c in made.cases}
    counts = Counter(case.kind for case in made.cases)
    right = Counter(case.kind for case in made.cases if not faults[case.name])
    print(*(f"{kind}: {right[kind]} of {count}" for kind, count in counts.items()), sep="\n")
    print(f"{done.seconds:.0f} s, {done.waited:.1f} s of waiting, {done.peak / 2**20:.0f} MB")
    assert not {name: fault for name, fault in faults.items() if fault}
    for row in files:
        assert bool(row["reason"]) == bool(row["why"])
    assert done.peak <= MOST and done.waited <= LONGEST
    unread(made, done.output, kept, str((files, clips)))
    verify(done.output)


def unread(made, output, kept, tables):
    """Nothing of a canary is anywhere in the output, and none was opened."""
    assert CANARY.decode() not in tables
    for path in output.rglob("*"):
        assert not path.is_file() or CANARY not in path.read_bytes(), path
    for name, frames in kept.items():
        assert np.abs(frames.mean((0, 1, 2)) - COLOUR).max() > 30, name
    for canary in made.canaries:
        assert canary.stat().st_atime == 0, canary
    assert not (made.outside / "ran").exists()


def sample(made, most):
    """Leaves the neighbours, and of each kind so many that there are about `most`."""
    kinds = defaultdict(list)
    for case in made.cases:
        kinds[case.kind].append(case)
    kinds.pop("hole of 1 TB")
    left = []
    for kind, cases in kinds.items():
        count = 5 if kind == "neighbour" else max(1, round(len(cases) * most / len(made.cases)))
        left += [cases[n] for n in np.linspace(0, len(cases) - 1, count).round().astype(int)]
    for case in made.cases:
        path = made.folder / case.name
        if case not in left and not path.is_dir():
            path.unlink()
        elif case not in left:
            path.unlink() if path.is_symlink() else shutil.rmtree(path)
    made.cases = left


def test_hostile_files_cost_nothing_but_themselves(tmp_path):
    with nobody_called() as port:
        made = hostile.corpus(tmp_path / "in", tmp_path / "outside", port)
        sample(made, 60)
        check(made, run(made, tmp_path / "out", "some"))


@pytest.mark.long
def test_the_whole_corpus(tmp_path):
    with nobody_called() as port:
        made = hostile.corpus(tmp_path / "in", tmp_path / "outside", port, seed=1)
        assert len(made.cases) >= 320
        check(made, run(made, tmp_path / "out", "all"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_no_connection_is_made_and_no_canary_opened(tmp_path):
    """As the kernel sees it."""
    trace = tmp_path / "trace"
    before = [
        "strace",
        "-f",
        "--seccomp-bpf",
        "-e",
        "trace=network,open,openat,openat2",
        "-o",
        str(trace),
    ]
    with nobody_called() as port:
        made = hostile.corpus(tmp_path / "in", tmp_path / "outside", port, seed=2)
        done = run(made, tmp_path / "out", "some", before)
    assert done.code == 0, done.said[-3000:]
    calls = trace.read_text(errors="replace").splitlines()
    opened = [call for call in calls if re.search(r"open(at|at2)?\(", call)]
    assert sum("neighbour" in call for call in opened) >= 10  # it does trace
    assert not [call for call in opened if re.search(r"canary\.(bin|txt)", call)]
    assert not [
        call for call in calls if re.search(r"(connect|sendto|sendmsg|bind)\(.*AF_INET", call)
    ]
