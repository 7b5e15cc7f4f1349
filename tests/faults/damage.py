"""Checkpoints whose files are damaged, restored by ours and by bare Orbax."""

import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from faults.lives import seeded
from faults.row import Row

from vdm_jax.core import storage
from vdm_jax.core.checkpoint import Checkpoints
from vdm_jax.core.refusal import Refusal

STEPS = (10, 20, 30)


def state(step):
    """A little of everything that a training state is, told by its step in each number."""
    key = jax.random.key(step)
    return {
        "step": jnp.int32(step),
        "params": {str(i): jax.random.normal(jax.random.fold_in(key, i), (64, 33)) for i in (0, 1)},
        "ema": jax.random.normal(jax.random.fold_in(key, 9), (500,)).astype(jnp.bfloat16),
    }


def is_state(found, step):
    same = jax.tree.map(lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(),
                        found, state(step))  # fmt: skip
    return all(jax.tree.leaves(same))


def flip(file, rng):
    content = bytearray(file.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def cut(file, rng):
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(max(1, len(content)))])


def zero(file, rng):
    content = bytearray(file.read_bytes())
    begin = rng.randrange(max(1, len(content)))
    content[begin : begin + 512] = bytes(len(content[begin : begin + 512]))
    file.write_bytes(content)


def lengthen(file, rng):
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.randint(1, 100)))


def swap(file, rng):
    """Two sectors of the file change places."""
    content, size = bytearray(file.read_bytes()), 64
    a, b = (rng.randrange(0, max(1, len(content) - size)) for _ in range(2))
    content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]
    file.write_bytes(content)


def delete(file, rng):
    file.unlink()


def older(file, rng):
    """The same file of an older step in its place."""
    newest, root = None, file
    while not root.name.isdecimal():
        root = root.parent
    newest = root.parent / str(STEPS[-2]) / file.relative_to(root)
    if newest.is_file():
        shutil.copyfile(newest, file)
    else:
        file.unlink()


KINDS = (flip, flip, cut, zero, lengthen, swap, delete, older)


def saved(folder):
    with Checkpoints(folder) as checkpoints:
        for step in STEPS:
            checkpoints.save(step, state(step), {"data": {"position": step}})


def saved_by_orbax(folder):
    options = ocp.CheckpointManagerOptions(max_to_keep=3)
    with ocp.CheckpointManager(folder, options=options) as manager:
        for step in STEPS:
            manager.save(step, args=ocp.args.StandardSave(state(step)))


def files(folder):
    """Of the newest step, all of them, in a fixed order."""
    newest = folder / str(STEPS[-1])
    return sorted(f.relative_to(folder) for f in newest.rglob("*") if f.is_file())


def restored(folder):
    """(what became of it, whether it fell back), by ours."""
    try:
        with Checkpoints(folder) as checkpoints:
            found = checkpoints.restore(state(0))
    except Refusal:
        return "refused", False
    right = is_state(found.state, found.step) and found.meta == {"data": {"position": found.step}}
    return ("right" if right else "wrong"), found.step == STEPS[-2]


def restored_by_orbax(folder):
    try:
        with ocp.CheckpointManager(folder) as manager:
            step = manager.latest_step()
            found = manager.restore(step, args=ocp.args.StandardRestore(state(0)))
    except Exception:
        return "raised", False
    return ("right" if is_state(found, step) else "wrong"), step == STEPS[-2]


def corruptions(folder, count, seed):
    """Each file of the newest step in turn, damaged in each way in turn."""
    return compared("checkpoint damaged, any file", folder, plan(files, KINDS), count, seed)


def bits(folder, count, seed):
    """One bit of the file that holds most of the arrays."""
    return compared("one bit of the arrays", folder, plan(largest, (flip,)), count, seed)


def compared(fault, folder, choose, count, seed):
    """A row: by ours, and beside it by bare Orbax."""
    row = Row(fault, "no wrong restore, falls back")
    theirs = tried(folder / "orbax", count, seed, saved_by_orbax, restored_by_orbax, choose)
    row.beside = told(theirs)
    harmless = 0
    for case, (what, fell_back), same in tried(folder / "ours", count, seed, choose=choose):
        unhurt = what == "right" and not fell_back and same
        harmless += unhurt  # every byte was left as it was, or only blanks of JSON are others
        row.add(None if unhurt or (what == "right" and fell_back) else f"{case}: {what}")
    row.fault += f" ({harmless} of them harmless)" if harmless else ""
    return row


def largest(folder):
    """The file of the newest step that has most bytes, as a list."""
    return [max(files(folder), key=lambda name: (folder / name).stat().st_size)]


def plan(which, kinds):
    """(folder, number) -> the file and the damage of that try."""

    def choose(folder, number):
        names = which(folder)
        return names[number % len(names)], kinds[(number // len(names)) % len(kinds)]

    return choose


def told(outcomes):
    counts = {}
    for _, (what, fell_back), _ in outcomes:
        what = "fell back" if fell_back else "harmless" if what == "right" else what
        counts[what] = counts.get(what, 0) + 1
    wrong = counts.get("wrong", 0)
    rest = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()) if what != "wrong")
    return f"{wrong} restored wrong, {rest}"


def tried(folder, count, seed, save=saved, restore=restored, choose=None):
    """(the case, what `restore` made of it, whether the content was left equal) of each."""
    choose = choose or plan(files, KINDS)
    storage.hush()
    for name, level in (("vdm_jax", logging.ERROR), ("absl", 100), ("asyncio", 100)):
        logging.getLogger(name).setLevel(level)
    good, bad = folder / "good", folder / "bad"
    save(good)
    for number in range(count):
        name, kind = choose(good, number)
        shutil.copytree(good, bad)
        before = (bad / name).read_bytes()
        kind(bad / name, seeded(seed, "damage", number))
        after = (bad / name).read_bytes() if (bad / name).exists() else b""
        yield f"{kind.__name__} {name} ({number})", restore(bad), meaning(after) == meaning(before)
        shutil.rmtree(bad)


def meaning(content):
    """What a reader of JSON makes of it, who does not see blanks; other files as they are."""
    try:
        return json.loads(content)
    except ValueError:
        return content
