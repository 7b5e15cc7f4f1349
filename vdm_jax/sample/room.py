"""Whether a request fits the device: told before it runs, or refused with the largest that fits."""

import math
from dataclasses import replace

from jax.sharding import Mesh

from vdm_jax.core.mesh import batch_shards
from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.pieces import Chunked
from vdm_jax.sample import estimate as estimates
from vdm_jax.sample.estimate import Setting
from vdm_jax.tasks.stable_video import StableVideo
from vdm_jax.tasks.task import ModelConfig

CHUNKS = (8, 4, 2, 1)  # frames decoded at once, of which the most that fit are the default


def chunk_that_fits(task: StableVideo, model: ModelConfig, mesh: Mesh, dtype: str) -> int:
    """The most frames that can be decoded at once, of 8, 4, 2 and 1."""
    limit = estimates.device_memory()
    for chunk in CHUNKS[:-1] if limit is not None else CHUNKS[:1]:
        setting = replace(on_one_device(task, mesh, 1), chunk=chunk)
        if limit is None or estimates.estimate(model, setting, dtype).peak_bytes <= limit:
            return chunk
    return CHUNKS[-1]


def batch_that_fits(
    task: StableVideo, model: ModelConfig, mesh: Mesh, dtype: str, wanted: int
) -> int:
    """Of `wanted` videos, how many to draw at once; at least one on each part of the batch.

    Raises Refusal, naming the largest setting that fits, where not even that fits.
    """
    limit = estimates.device_memory()
    shards = batch_shards(mesh)
    alone = on_one_device(task, mesh, 1)
    if limit is None:
        return shards
    needed = estimates.estimate(model, alone, dtype).peak_bytes
    if needed > limit:
        raise Refusal(
            f"{_described(task)} need about {_gb(needed)} of memory, there are {_gb(limit)}; "
            f"{_advice(estimates.largest_fitting(model, alone, dtype, limit))}"
        )
    for batch in range(math.ceil(wanted / shards), 1, -1):
        setting = replace(alone, batch=batch)
        if estimates.estimate(model, setting, dtype).peak_bytes <= limit:
            return batch * shards
    return shards


def announced(task: StableVideo, model: ModelConfig, mesh: Mesh, dtype: str, count: int) -> str:
    """One line: what is drawn, the memory that it takes, and about how long."""
    alone = on_one_device(task, mesh, 1)
    cost = estimates.estimate(model, alone, dtype)
    limit = estimates.device_memory()
    of = "" if limit is None else f" of {_gb(limit)}"
    rounds = math.ceil(count / batch_shards(mesh))
    seconds = estimates.seconds(rounds * cost.flops, dtype)
    time = "" if seconds is None else f", about {_spoken(seconds)} once compiled"
    return f"{_described(task)}, in {dtype}: about {_gb(cost.peak_bytes)}{of}{time}"


def on_one_device(task: StableVideo, mesh: Mesh, batch: int) -> Setting:
    """What one device of the mesh draws of one video."""
    video, sampling = task.video, task.sampling
    chunk = task.decoding.size if isinstance(task.decoding, Chunked) else video.num_frames
    guided = not sampling.min_guidance_scale == sampling.max_guidance_scale == 1
    return Setting(
        num_frames=math.ceil(video.num_frames / mesh.shape["context"]),
        height=video.height,
        width=video.width,
        batch=batch,
        chunk=chunk,
        num_steps=sampling.num_steps,
        halves=2 if guided else 1,
    )


def _described(task: StableVideo) -> str:
    video = task.video
    steps = task.sampling.num_steps
    return f"{video.num_frames} frames of {video.width}x{video.height} in {steps} steps"


def _advice(setting: Setting | None) -> str:
    if setting is None:
        return "not even the smallest video fits"
    return (
        f"--num-frames {setting.num_frames} --height {setting.height} --width {setting.width} "
        f"--decode-chunk-size {setting.chunk} fit"
    )


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def _spoken(seconds: float) -> str:
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
