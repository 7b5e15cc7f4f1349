"""SIGKILL at random moments, in one process and in two; at every named phase; and SIGTERM."""

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from faults.child import PHASES
from faults.lives import HERE, Run, difference, is_saving, kill, seeded, wait_until
from faults.row import Row

KILLS_A_RUN = 10
INTERVAL = 2  # steps between two saves


def random_kills(folder, cache, count, processes, seed):
    """Runs that are killed ten times each: while they start, between saves, while they save."""
    who = "one process" if processes == 1 else "one or both of two processes"
    row = Row(f"SIGKILL, {who}", "bitwise as uninterrupted", "to the death of the others")
    for number in range(0, count, KILLS_A_RUN):
        kills = min(KILLS_A_RUN, count - number)
        steps = 2 * kills + 2
        options = ("--save-every", "1")
        reference = folder / f"clean{processes}-{steps}"
        if not reference.exists():
            Run(reference, cache, steps=steps, processes=processes, options=options).finish()
        whole = Run(reference, cache, steps=steps, processes=processes, options=options)
        run = Run(folder / f"killed{processes}-{number}", cache, steps=steps, processes=processes,
                  options=options)  # fmt: skip
        rng = seeded(seed, processes, number)
        for _ in range(kills):
            row.seconds.append(killed_life(run, rng))
        codes = run.finish()
        failure = difference(run, whole) if codes == [0] * processes else f"ended with {codes}"
        row.add(failure, count=kills)
    return row


def killed_life(run, rng):
    """One life: killed while it starts, or at some moment after its next checkpoints."""
    before = run.newest
    goal = min(before + rng.randint(0, 3) * (rng.random() < 0.8), run.steps)
    pause = rng.uniform(0, 5) if goal == before else rng.uniform(0, 0.3)
    victims = sorted(rng.sample(range(run.processes), rng.randint(1, run.processes)))
    with run.start() as processes:
        wait_until(lambda: run.newest >= goal, processes)
        time.sleep(pause)
        took = kill(processes, victims, run.grace)
    return took


class Bare(Run):
    """The lives of `bare.py`: faults and options are not for it."""

    grace = 5

    def command(self, place=()):
        where = (self.workdir / "checkpoints", self.steps, self.digest)
        return [sys.executable, str(HERE / "bare.py"), *map(str, where), *place]

    @property
    def digest(self):
        return self.workdir.with_suffix(".digest")

    def digests(self):
        files = [Path(f"{self.digest}.{index}") for index in range(self.processes)]
        return [file.read_text() if file.exists() else None for file in files]


def bare_kills(folder, cache, count, processes, seed):
    """What the same kills make of a program that saves by Orbax alone, in words."""
    outcomes = Counter()
    for number in range(0, count, KILLS_A_RUN):
        kills = min(KILLS_A_RUN, count - number)
        what = {"steps": 2 * kills + 2, "processes": processes}
        whole = Bare(folder / f"bare-clean{processes}-{number}", cache, **what)
        run = Bare(folder / f"bare-killed{processes}-{number}", cache, **what)
        assert whole.finish() == [0] * processes, whole.said()[-2000:]
        outcomes[bare_outcome(run, whole, kills, seeded(seed, processes, number))] += kills
    return ", ".join(f"{n} {what}" for what, n in outcomes.most_common())


def bare_outcome(run, whole, kills, rng):
    try:
        for _ in range(kills):
            killed_life(run, rng)
    except AssertionError as error:
        return f"in runs that {error}"
    if any(run.finish()):
        return "in runs that did not finish"
    return "bitwise" if run.digests() == whole.digests() else "in runs that ended otherwise"


def phases(folder, cache, names=tuple(PHASES)):
    """One run whose lives end at one phase each; then it finishes."""
    row = Row("SIGKILL at each phase", "≤ 1 save interval lost, bitwise")
    steps = 4 * len(names) + 4
    options = ("--save-every", str(INTERVAL), "--keep", "2")
    whole = Run(folder / "clean-phases", cache, steps=steps, options=options)
    assert whole.finish() == [0], whole.said()[-2000:]
    run = Run(folder / "phases", cache, steps=steps, options=options, faults={})
    for name in names:
        row.add(killed_at(run, name, folder / "marker", steps))
    run.steps, run.faults = steps, {}
    codes = run.finish()
    failure = difference(run, whole) if codes == [0] else f"ended with {codes}"
    if failure is not None:
        row.held = 0
        row.failures.append(f"the run that all phases belong to: {failure}")
    return row


def killed_at(run, name, marker, steps):
    """One life that ends at this phase: why it did not hold, or None."""
    marker.unlink(missing_ok=True)
    before = run.newest
    part = name.partition(":")[0]
    if part == "quarantine" and before:
        damage_newest(run)
        before -= INTERVAL
    run.steps = before + INTERVAL if part == "finish" else steps
    count = 2 if part in ("save", "commit", "cleanup") else 1
    run.faults = {"marker": str(marker), "kill": {"phase": name, "count": count}}
    codes = run.finish()
    return phase_failure(name, codes, marker, run.newest, before, run.reached - run.newest)


def phase_failure(name, codes, marker, after, before, lost):
    if not marker.exists():
        return f"{name}: never came, ended with {codes}"
    if codes != [-signal.SIGKILL]:
        return f"{name}: ended with {codes}"
    if after < before:
        return f"{name}: step {before} is gone, {after} is the newest"
    if lost > 2 * INTERVAL:  # one is being saved while the next is trained
        return f"{name}: {lost} steps lost"
    return None


def damage_newest(run):
    """As a disk might: the largest file loses its end."""
    folder = run.workdir / "checkpoints" / str(run.newest)
    file = max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    os.truncate(file, file.stat().st_size // 2)


def sigterms(folder, cache, count, processes, seed):
    """Runs stopped at random moments of training, by a signal to any of their processes."""
    who = "one process" if processes == 1 else "one or both of two processes"
    row = Row(f"SIGTERM, {who}", "saved and exit 0 in ≤ 10 s, bitwise", "to the exit")
    steps = 4 * count + 4
    options = ("--save-every", "1000")
    whole = Run(folder / "clean-stopped", cache, steps=steps, processes=processes, options=options)
    assert whole.finish() == [0] * processes, whole.said()[-2000:]
    run = Run(folder / "stopped", cache, steps=steps, processes=processes, options=options)
    rng = seeded(seed, "term", processes)
    for _ in range(count):
        row.add(*stopped_life(run, rng))
    codes = run.finish()
    failure = difference(run, whole) if codes == [0] * processes else f"ended with {codes}"
    if failure is not None:
        row.held = 0
        row.failures.append(f"the run that was stopped each time: {failure}")
    return row


def stopped_life(run, rng):
    """(why it did not hold, seconds to the exit) of one SIGTERM after a few steps."""
    before, goal = run.newest, run.newest + rng.randint(1, 3)
    victims = sorted(rng.sample(range(run.processes), rng.randint(1, run.processes)))
    with run.start() as processes:
        wait_until(lambda: run.reached >= goal, processes)
        time.sleep(rng.uniform(0, 0.05))
        if is_saving(run.workdir) or run.newest != before:
            return "was saving before it was asked", None
        for index in victims:
            processes[index].send_signal(signal.SIGTERM)
        begin = time.monotonic()
        codes = [process.wait(60) for process in processes]
        took = time.monotonic() - begin
    if codes != [0] * run.processes:
        return f"exit codes {codes}", took
    if run.newest < goal:
        return f"step {goal} was reached, {run.newest} is saved", took
    return (f"took {took:.1f} s" if took > 10 else None), took
