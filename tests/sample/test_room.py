"""What fits is found without compiling: chunk, batch, and the advice where nothing does."""

import re
from dataclasses import replace

import jax
import pytest

from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.models.clip_vision import CLIP_VIT_H
from vdm_jax.models.svd_unet import SVD_XT
from vdm_jax.models.vae import SVD_VAE
from vdm_jax.nn.pieces import Chunked
from vdm_jax.sample import estimate, room
from vdm_jax.tasks.stable_video import StableVideo
from vdm_jax.tasks.task import ModelConfig, tuned

MODEL = ModelConfig(SVD_XT, vae=SVD_VAE, image_encoder=CLIP_VIT_H)
TASK = StableVideo()
ONE = MeshConfig().build_on(jax.devices()[:1])


@pytest.fixture
def memory(monkeypatch):
    """Sets how much memory the device is said to have."""
    return lambda limit: monkeypatch.setattr(estimate, "device_memory", lambda: limit)


def test_more_memory_decodes_more_at_once(memory):
    chunks = []
    for limit in (20e9, 40e9, 60e9, 200e9):
        memory(int(limit))
        chunks.append(room.chunk_that_fits(TASK, MODEL, ONE, "bfloat16"))
    assert chunks == sorted(chunks) and chunks[-1] == 8 and chunks[0] < 8
    memory(None)
    assert room.chunk_that_fits(TASK, MODEL, ONE, "bfloat16") == 8


def test_more_memory_draws_more_at_once_and_never_more_than_asked(memory):
    task = tuned(TASK, {"height": 256, "width": 384, "num_frames": 14})
    batches = []
    for limit in (40e9, 80e9, 1e12):
        memory(int(limit))
        batches.append(room.batch_that_fits(task, MODEL, ONE, "bfloat16", 6))
    assert batches == sorted(batches) and batches[0] < batches[-1] == 6


def test_the_advice_of_a_refusal_is_accepted(memory):
    memory(int(18e9))
    with pytest.raises(Refusal, match="25 frames of 1024x576 in 25 steps need about") as refused:
        room.batch_that_fits(TASK, MODEL, ONE, "bfloat16", 1)
    words = ("num-frames", "height", "width", "decode-chunk-size")
    advised = [int(re.search(rf"--{w} (\d+)", str(refused.value))[1]) for w in words]
    video = replace(TASK.video, num_frames=advised[0], height=advised[1], width=advised[2])
    smaller = replace(TASK, video=video, decoding=Chunked(advised[3]))
    assert room.batch_that_fits(smaller, MODEL, ONE, "bfloat16", 1) == 1
    memory(int(10e9))
    with pytest.raises(Refusal, match="not even the smallest"):
        room.batch_that_fits(TASK, MODEL, ONE, "bfloat16", 1)


def test_devices_share_frames_and_videos(memory):
    memory(int(1e12))
    shared = MeshConfig(data=2, context=4).build()
    assert room.on_one_device(TASK, shared, 1).num_frames == 7
    assert room.batch_that_fits(TASK, MODEL, shared, "bfloat16", 3) == 4
