"""One process of a run on several: python child.py PLAN.json INDEX; see `run.py`.

The plan names jobs, done in order; what they tell is written to PLAN.INDEX.out.json.
"""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.core import processes
from vdm_jax.core.arrays import named
from vdm_jax.core.checkpoint import Checkpoints
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.train import begin
from vdm_jax.train.loop import open_loader, open_sources, train


def opened(plan):
    config = replace(
        configs.load(plan["config"]), mesh=MeshConfig(**plan["mesh"]), **plan["changes"]
    )
    return config, config.mesh.build()


def trained(plan, job):
    """The run in a directory, from wherever it stands to its last step."""
    config, _ = opened(plan)
    return train(config, Path(job["workdir"]))


def restored(plan, job):
    """Names of the arrays whose bytes on these devices are not those that numpy read."""
    config, mesh = opened(plan)
    with Checkpoints(Path(job["workdir"]) / "checkpoints") as checkpoints:
        found = checkpoints.restore(begin.build(config, mesh).abstract)
    truth = np.load(job["truth"])
    arrays = named(found.state)
    assert arrays.keys() == set(truth.files)
    return [
        name
        for name, array in arrays.items()
        for shard in array.addressable_shards
        if np.asarray(shard.data).tobytes() != truth[name][shard.index].tobytes()
    ]


def delivered(plan, job):
    """What the devices of this process hold of each batch: {"step/row": digest of the video}."""
    config, mesh = opened(plan)
    loader = open_loader(config, open_sources(config, mesh)[0], mesh)
    seen = {}
    for step in range(job["batches"]):
        batch = meshes.put_batch({"video": next(loader)["video"]}, mesh)["video"]
        for shard in batch.addressable_shards:
            first = shard.index[0].start or 0
            for row, video in enumerate(np.asarray(shard.data), first):
                digest = hashlib.sha256(video.tobytes()).hexdigest()[:16]
                assert seen.setdefault(f"{step}/{row}", digest) == digest
    loader.close()
    return seen


JOBS = {"train": trained, "restore": restored, "data": delivered}


def main(path, index):
    jax.config.update("jax_numpy_rank_promotion", "raise")
    plan = json.loads(Path(path).read_text())
    count = plan["processes"]
    processes.join(str(count), str(index), f"127.0.0.1:{plan['port']}")
    assert (jax.process_count(), jax.local_device_count()) == (count, plan["devices"])
    told = [JOBS[job["do"]](plan, job) for job in plan["jobs"]]
    Path(path).with_suffix(f".{index}.out.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
