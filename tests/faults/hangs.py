"""Processes that stop, hold the interpreter lock or wait for ever; and their supervisor."""

import signal
import time

from faults.child import HANGS
from faults.lives import PATIENCE, Run, difference, seeded
from faults.row import Row

OPTIONS = ("--save-every", "2")
STEPS = 16


def hangs(folder, cache, count, seed):
    """Each kind of hang at random steps; the supervisor finds it, and the run ends as if not."""
    promise = "found in ≤ 30 s, resumed bitwise"
    row = Row("hang: stopped, lock held, waiting", promise, "to be found")
    whole = Run(folder / "clean-hang", cache, steps=STEPS, options=OPTIONS)
    assert whole.finish() == [0], whole.said()[-2000:]
    kinds = list(HANGS)
    for number in range(count):
        kind, step = kinds[number % len(kinds)], seeded(seed, "hang", number).randint(2, STEPS - 2)
        row.add(*hung_life(folder / f"hung{number}", cache, kind, step, whole))
    return row


def hung_life(workdir, cache, kind, step, whole):
    marker = workdir.with_suffix(".marker")
    faults = {"marker": str(marker), "hang": {"step": step, "how": kind}}
    run = Run(workdir, cache, steps=STEPS, options=OPTIONS, faults=faults)
    found = None
    with run.start(supervised=True) as (process,):
        end = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < end:
            if found is None and "started again" in run.said():
                found = time.time() - float(marker.read_text())
            time.sleep(0.05)
        code = process.poll()
    what = f"{kind} after step {step}"
    if code != 0 or found is None:
        return f"{what}: ended with {code}, found after {found} s", found
    if found > 30:
        return f"{what}: found after {found:.1f} s", found
    other = difference(run, whole)
    return (f"{what}: {other}" if other else None), found


def crash_loop(folder, cache):
    """A run that dies at the same place each time is given up with one line."""
    row = Row("crash loop; refusal", "one clear line, no endless restarts")
    marker = folder / "never-made" / "marker"
    faults = {"marker": str(marker), "kill": {"phase": "start: lock taken", "count": 1}}
    run = Run(folder / "loop", cache, steps=STEPS, options=OPTIONS, faults=faults)
    codes, said = run.finish(supervised=True), run.said()
    fine = codes == [1] and said.count("started again") == 4 and "crashes in a loop" in said
    row.add(None if fine else f"crash loop: {codes} {said[-300:]}")
    refused = Run(folder / "refused", cache, steps=STEPS, options=("--batch-size", "0"))
    codes, said = refused.finish(supervised=True), refused.said()
    fine = codes == [2] and said.startswith("error: ") and said.count("\n") == 1
    row.add(None if fine else f"refusal: {codes} {said[-300:]}")
    return row


def passed_on(folder, cache):
    """SIGTERM to the supervisor: the training saves, and its exit code is the supervisor's."""
    row = Row("SIGTERM to the supervisor", "passed on, saved, exit 0 in ≤ 10 s", "to the exit")
    run = Run(folder / "passed-on", cache, steps=1000, options=("--save-every", "1000"))
    with run.start(supervised=True) as (process,):
        end = time.monotonic() + PATIENCE
        while run.reached < 3 and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        code = process.wait(60)
        took = time.monotonic() - begin
    fine = code == 0 and run.newest >= 3 and took <= 10
    row.add(None if fine else f"code {code}, step {run.newest}, {took:.1f} s", took)
    return row
