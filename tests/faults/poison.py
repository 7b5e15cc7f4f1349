"""NaN, Inf and spikes in loss and gradient at random steps; windows of bad data."""

import math

import numpy as np
from faults.lives import Run, contents, losses, seeded
from faults.row import Row

STEPS = 240
OPTIONS = ("--save-every", "20", "--held-out-samples", "10")
FACTORS = ("nan", "inf", 1e6, -1e6)
WITHIN = 0.02  # of the clean run's held-out loss


def held_out(run):
    from vdm_jax.train import log

    records = log.read(run.workdir / "metrics.jsonl")
    return [r["held_out_loss"] for r in records if "held_out_loss" in r][-1]


def poisoned(folder, cache, count, seed):
    """Runs with some bad steps each, all kinds at random places."""
    row = Row("NaN, Inf, 1e6 in loss or gradient", "finite, final loss within 2 % of clean")
    whole = Run(folder / "clean-poison", cache, steps=STEPS, options=OPTIONS, faults={})
    whole.faults = {"poison": {"place": "loss", "batches": {}}}
    assert whole.finish() == [0], whole.said()[-2000:]
    wanted, rng, number = held_out(whole), seeded(seed, "poison"), 0
    worst = 0.0
    for place in ("loss", "gradient"):
        share = count // 2 + (count % 2 if place == "loss" else 0)
        for begin in range(0, share, 5):
            steps = rng.sample(range(2, STEPS - 1), min(5, share - begin))
            batches = {str(step): rng.choice(FACTORS) for step in steps}
            run = Run(folder / f"poisoned{number}", cache, steps=STEPS, options=OPTIONS,
                      faults={"poison": {"place": place, "batches": batches}})  # fmt: skip
            codes, number = run.finish(), number + 1
            failure = f"ended with {codes}" if codes != [0] else poison_failure(run, wanted)
            worst = max(worst, abs(held_out(run) / wanted - 1)) if codes == [0] else math.inf
            row.add(failure and f"{place} {batches}: {failure}", count=len(steps))
    row.fault += f" (largest change of the final loss {worst:.2%})"
    return row


def poison_failure(run, wanted):
    arrays = contents(run.workdir / "checkpoints" / str(run.steps))
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        return f"{broken[0]} is not finite"
    if abs(held_out(run) / wanted - 1) > WITHIN:
        return f"held-out loss {held_out(run):.4g}, clean {wanted:.4g}"
    return None


def windows(folder, cache, count, seed):
    """Windows of data that are bad throughout: gone back from, and passed over."""
    row = Row("20 bad batches in a row", "back to a good step, on with other data")
    for number in range(count):
        begin = seeded(seed, "window", number).randrange(60, 160)
        batches = {str(step): "nan" for step in range(begin, begin + 20)}
        run = Run(folder / f"window{number}", cache, steps=STEPS, options=OPTIONS,
                  faults={"poison": {"place": "loss", "batches": batches}})  # fmt: skip
        codes = run.finish()
        good = losses(run.workdir)
        after = [loss for step, (loss, _) in good.items() if step > begin + 20]
        failure = None
        if codes != [0]:
            failure = f"ended with {codes}"
        elif "the weights are those of step" not in run.said():
            failure = "did not go back"
        elif any(loss is None for loss in after) or run.newest != STEPS:
            failure = "did not recover"
        row.add(failure)
    return row
