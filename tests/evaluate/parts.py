"""What evaluations are tried with: clips of moving shapes, a tiny model, and a tiny I3D."""

import jax
import numpy as np
from flax import nnx

from vdm_jax.core import checkpoint, video
from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.data.shard import Manifest, Provenance, Writer
from vdm_jax.data.synthetic import MovingShapes
from vdm_jax.diffusion.density import LogNormal
from vdm_jax.diffusion.loss import OutputWeight
from vdm_jax.diffusion.precond import EDM
from vdm_jax.diffusion.process import Process
from vdm_jax.diffusion.sampler import Euler
from vdm_jax.diffusion.schedule import Karras
from vdm_jax.models.i3d import I3DConfig
from vdm_jax.models.vdm_unet import VDMUNetConfig
from vdm_jax.tasks.image_to_video import PICTURE_CHANNELS, TIME_FEATURES, ImageToVideo
from vdm_jax.tasks.task import ModelConfig, Pretrained, Sampling, VideoShape

FRAMES, SIDE = 9, 16
BLOCK = (4, 2, 4, 2, 2, 2)
I3D_TINY = I3DConfig(stem=(4, 4, 4), stages=((BLOCK,), (BLOCK,), (BLOCK,)), classes=20)
PRECOND = EDM(sigma_data=0.5)
MODEL = Pretrained(
    model=ModelConfig(
        network=VDMUNetConfig(
            channels=8, multipliers=(1,), blocks=1, space_attention=(), time_attention=(0,),
            heads=1, head_size=8, groups=4, concat_channels=PICTURE_CHANNELS,
            vec_features=TIME_FEATURES,
        )
    ),
    task=ImageToVideo(
        process=Process(
            schedule=Karras(sigma_min=0.02, sigma_max=80.0),
            precond=PRECOND,
            density=LogNormal(p_mean=-0.8, p_std=1.4),
            weight=OutputWeight(PRECOND),
        ),
        video=VideoShape(num_frames=FRAMES, height=SIDE, width=SIDE, fps=8.0),
        sampling=Sampling(Euler(), num_steps=1),
    ),
)  # fmt: skip


def model(folder, config, *, seed=0, spoilt=False, scale=0.05):
    """A model directory with random weights; spoilt ones are no numbers."""
    part = config.model if isinstance(config, Pretrained) else config
    with meshes.unplaced():
        built = part.build(rngs=nnx.Rngs(seed))
    keys, params = iter(jax.random.split(jax.random.key(seed), 1000)), nnx.state(built, nnx.Param)
    params = jax.tree.map(  # layers that begin as nothing, too
        lambda a: a + scale * jax.random.normal(next(keys), a.shape), params
    )
    if spoilt:
        params = jax.tree.map(lambda a: a * np.nan, params)
    checkpoint.save_weights(folder, configs.to_json(config), params)
    return folder


def clips(count, seed=0):
    shapes = MovingShapes(num_frames=FRAMES, height=SIDE, width=SIDE, split="train")
    return [shapes[seed * 1000 + i]["video"] for i in range(count)]


def shards(folder, count):
    """A dataset of short clips, with a training and a test split alike in number."""
    nobody = Provenance(title="shapes", source="drawn", licence="CC0", credit="nobody")
    splits = {}
    for seed, split in enumerate(("train", "test")):
        writer = Writer(folder, split)
        for number, frames in enumerate(clips(count, seed)):
            writer.add(f"clip-{number}", frames, 8, f"shape {number}")
        splits[split] = writer.close()
    Manifest(provenance=nobody, splits=splits).save(folder)
    return folder


def videos(folder, frames, *, names=None):
    for number, clip in enumerate(frames):
        name = f"clip-{number}" if names is None else names[number]
        video.write(folder / f"{name}.mp4", clip, 8, codec=video.Lossless())
    return folder
