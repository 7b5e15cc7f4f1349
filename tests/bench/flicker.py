"""Trains a decoder of pictures and one that mixes frames, and measures how much each flickers.

    python tests/bench/flicker.py DIRECTORY

prints PSNR and flicker of an autoencoder of pictures, of its decoder trained for longer, and of a
temporal decoder trained for as long, as JSON. Minutes on two CPU cores. Align Your Latents trains
it for less flicker; trained as short as here it has 0.997 of it, at 21.87 dB against 21.84.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vdm_jax.core import config as configs
from vdm_jax.core import mesh as meshes
from vdm_jax.data.loader import stack
from vdm_jax.metrics.frames import psnr
from vdm_jax.sample import load
from vdm_jax.sample.generate import Generator
from vdm_jax.train.config import PartFrom
from vdm_jax.train.loop import train

FILE = "configs/align_your_latents.py"
STEPS, MORE, CLIPS = 1500, 300, 16


class Worth(NamedTuple):
    """psnr: dB. flicker: mean absolute change of the error between frames, of pixels in 0..255."""

    psnr: float
    flicker: float


def small(stage, **changes):
    """A stage of half its size, and 16x16 pixels."""
    full = configs.load(f"{FILE}:{stage}")
    vae = replace(full.model.vae, widths=(8, 16, 16))
    video = replace(full.task.video, height=16, width=16)
    shapes = {"height": 16, "width": 16}
    return replace(
        full, model=replace(full.model, vae=vae), task=replace(full.task, video=video),
        data=replace(full.data, **shapes), held_out=replace(full.held_out, **shapes),
        judge=None, num_previews=1, held_out_samples=8, **changes,
    )  # fmt: skip


def worth(workdir: Path, clips):
    """Of what comes back of clips that were not trained on."""
    described = load.describe(workdir)
    mesh = meshes.MeshConfig().build()
    task = replace(described.task, video=small("decoder").task.video)
    generator = Generator(task, described.model, mesh, batch_size=8)
    params = load.weights(workdir, described, described.model, mesh, "float32")
    made, true = generator.again(params, clips, seed=0), clips["video"]
    error = made.astype(np.float64) - true
    return Worth(float(psnr(made, true).mean()), float(np.abs(np.diff(error, axis=1)).mean()))


def main(root: Path) -> dict[str, Worth]:
    """Each but the first begins where that ended, and takes as many steps as the other."""
    first, longer, temporal = (root / name for name in ("pictures", "longer", "temporal"))
    often = {"save_every": 5000, "preview_every": 5000}
    pictures = small("autoencoder", steps=STEPS, **often)
    assert train(replace(pictures, optim=replace(pictures.optim, learning_rate=2e-3)), first)
    begun = {"parts_from": (PartFrom("vae", str(first)),), "steps": MORE, **often}
    config = small("decoder", **begun)
    assert train(config, temporal)
    assert train(replace(config, model=pictures.model), longer)
    source = config.held_out.build()
    clips = stack([source[i] for i in range(CLIPS)])
    return {run.name: worth(run, clips) for run in (first, longer, temporal)}


if __name__ == "__main__":
    print(json.dumps({name: w._asdict() for name, w in main(Path(sys.argv[1])).items()}))
