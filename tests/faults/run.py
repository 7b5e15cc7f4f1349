"""Every fault that a run must survive: one command, one table.

    python tests/faults/run.py [--kills 100] [--only kills,damage] [--seed 0]

--kills is how many SIGKILLs at random moments; the other kinds are tried in proportion (at 100: 50
SIGTERMs, 300 damaged checkpoints, 30 bad steps, 20 hangs, …). Exit code 1: something did not hold.
Needs Linux; small disks are mounted where that is allowed, else left out and said so.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import damage, disk, hangs, identity, kills, poison
from faults.row import table


def kinds(folder, cache, count, seed):
    """{name: what makes rows of it}, each in proportion to `count` kills."""
    share = lambda full: max(1, round(full * count / 100))  # noqa: E731
    each = lambda name: made(folder / name)  # noqa: E731
    return {
        "damage": lambda: [
            damage.corruptions(each("damage"), share(300), seed),
            damage.bits(each("bits"), share(100), seed),
        ],
        "kills": lambda: [
            random_kills(each("kills"), cache, share(50), processes, seed) for processes in (1, 2)
        ],
        "phases": lambda: [kills.phases(each("phases"), cache)],
        "sigterm": lambda: [
            kills.sigterms(each("term1"), cache, share(30), 1, seed),
            kills.sigterms(each("term2"), cache, share(20), 2, seed),
        ],
        "poison": lambda: [
            poison.poisoned(each("poison"), cache, share(30), seed),
            poison.windows(each("windows"), cache, share(5), seed),
        ],
        "hangs": lambda: [
            hangs.hangs(each("hangs"), cache, share(20), seed),
            hangs.crash_loop(each("loop"), cache),
            hangs.passed_on(each("passed"), cache),
        ],
        "disk": lambda: [disk.troubled(each("disk"), cache, share(10), seed)],
        "identity": lambda: [identity.refusals(each("identity"), cache)],
    }


def random_kills(*args):
    """A row: of ours, and beside it of bare Orbax."""
    row = kills.random_kills(*args)
    row.beside = kills.bare_kills(*args)
    return row


def made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", default=str(Path.home() / ".cache" / "vdm_jax" / "faults"))
    options = parser.parse_args()
    rows, begin = [], time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        chosen = kinds(Path(scratch), options.cache, options.kills, options.seed)
        for name in filter(None, options.only.split(",")) if options.only else chosen:
            if name == "disk" and not disk.may_mount(Path(scratch)):
                print("disk: left out, nothing may be mounted here", flush=True)
                continue
            then = time.monotonic()
            new = chosen[name]()
            rows += new
            held = f"{sum(r.held for r in new)}/{sum(r.tries for r in new)}"
            print(f"{name}: {held} held in {time.monotonic() - then:.0f} s", flush=True)
    print(f"\n{table(rows)}\n\nin {(time.monotonic() - begin) / 60:.0f} min, seed {options.seed}")
    return 0 if all(row.held == row.tries for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
