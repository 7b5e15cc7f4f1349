"""A program that saves by Orbax's CheckpointManager alone, as its guide says, to be killed.

    python bare.py CHECKPOINTS STEPS DIGEST [--processes N --process I --coordinator HOST:PORT]

A loop of plain arithmetic over six times the bytes that the harness's tiny run saves, so that a
kill meets a save more often. At its end each process writes the digest of its part of the state to
DIGEST.I.
"""

import argparse
import hashlib
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec

ARRAYS, ROWS, COLUMNS = 24, 256, 256  # 6.3 MB
PACE = 0.1  # seconds a step


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoints", type=Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("digest")
    for name, kind in (("processes", int), ("process", int), ("coordinator", str)):
        parser.add_argument(f"--{name}", type=kind)
    args = parser.parse_args()
    if args.processes:
        jax.distributed.initialize(args.coordinator, args.processes, args.process)
    mesh = jax.make_mesh((jax.device_count(),), ("data",))

    def begin():
        rows = jnp.arange(ROWS * COLUMNS, dtype=jnp.float32).reshape(ROWS, COLUMNS)
        return {str(i): jnp.sin(rows + i) for i in range(ARRAYS)}

    state = jax.jit(begin, out_shardings=NamedSharding(mesh, PartitionSpec("data")))()
    advance = jax.jit(lambda state: jax.tree.map(lambda x: jnp.cos(2 * x), state))
    options = ocp.CheckpointManagerOptions(max_to_keep=3)
    with ocp.CheckpointManager(args.checkpoints.absolute(), options=options) as manager:
        done = manager.latest_step() or 0
        if done:
            state = manager.restore(done, args=ocp.args.StandardRestore(state))
        for step in range(done + 1, args.steps + 1):
            state = advance(state)
            time.sleep(PACE)
            manager.save(step, args=ocp.args.StandardSave(state))
    digest = hashlib.sha256()
    for array in state.values():
        for shard in array.addressable_shards:
            digest.update(np.asarray(shard.data))
    Path(f"{args.digest}.{jax.process_index()}").write_text(digest.hexdigest())


if __name__ == "__main__":
    main()
