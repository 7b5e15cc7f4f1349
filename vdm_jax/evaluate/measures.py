"""What is measured of each clip: by networks, on all devices of this process, or by formulas."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array

from vdm_jax.conditioning import tokenizer
from vdm_jax.conditioning.image import square
from vdm_jax.core import mesh as meshes
from vdm_jax.core.mesh import MeshConfig
from vdm_jax.core.refusal import Refusal
from vdm_jax.core.weights import Weights
from vdm_jax.evaluate.rows import Batch, Measure, Table
from vdm_jax.metrics import frames, motion
from vdm_jax.metrics.cd_fvd import videomae_features
from vdm_jax.metrics.clip import CLIP, CLIPConfig
from vdm_jax.metrics.fid import inception_features
from vdm_jax.metrics.fvd import i3d_logits
from vdm_jax.models.i3d import I3DConfig
from vdm_jax.models.inception import InceptionConfig
from vdm_jax.models.lpips import LPIPS
from vdm_jax.models.videomae import VideoMAEConfig
from vdm_jax.nn.platform import platform
from vdm_jax.sample.network import described, read
from vdm_jax.tasks.task import ModelConfig, Parts, to_signal

FORMULAS_VERSION = 1  # goes up when a formula gives other numbers
SIZES = {"cpu": 1, "gpu": 4, "tpu": 4}
"""Clips that a device sees at once: on CPU one, whose activations stay in the cache."""


class Network:
    """A network, on every device of this process; a batch is split over them.

    look: the module and the arrays of a batch to rows. arrays: what it looks at of a batch.
    """

    def __init__(
        self,
        name: str,
        weights: Weights,
        module: tuple[Any, nnx.State],
        look: Callable[..., Mapping[str, Array]],
        arrays: Callable[[Batch], dict[str, np.ndarray]],
    ):
        self.name = name
        self.identity = {"weights": weights.digest}
        self._mesh: Mesh = MeshConfig().build_on(jax.local_devices())
        shards = meshes.batch_shards(self._mesh)
        self.size = shards * SIZES[platform()]
        graphdef, params = module
        whole = meshes.replicated(self._mesh)
        self._params = jax.device_put(params, whole)
        self._arrays = arrays

        def run(params: nnx.State, arrays: dict[str, Array]) -> Mapping[str, Array]:
            with jax.default_matmul_precision("highest"):  # accelerators round float32 otherwise
                return look(nnx.merge(graphdef, params), **arrays)

        self._run = jax.jit(run, out_shardings=whole)

    def check(self, one: Batch) -> None:
        """Refuse clips that the network does not take, before any is looked at; computes nothing.

        one: a batch of a single clip of that shape.
        """
        jax.eval_shape(self._run, self._params, self._arrays(one))

    def __call__(self, batch: Batch) -> Table:
        arrays = self._arrays(batch)
        count = len(batch.clips)
        index = np.minimum(np.arange(self.size), count - 1)  # the last again, where they run out
        whole = {name: array[index] for name, array in arrays.items()}
        with jax.set_mesh(self._mesh):
            rows = self._run(self._params, meshes.put_whole_batch(whole, self._mesh))
        return {name: np.asarray(array)[:count] for name, array in rows.items()}


@dataclass(frozen=True)
class Formula:
    """A number of each clip, computed on the host."""

    name: str
    of: Callable[..., Any]
    size: int = 1

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"version": FORMULAS_VERSION}

    def check(self, one: Batch) -> None:
        """Refuse clips that have no such number."""
        self(one)

    def __call__(self, batch: Batch) -> Table:
        truth = [None] * len(batch.clips) if batch.truth is None else batch.truth
        found = zip(batch.clips, truth, batch.about, strict=True)
        return {"value": np.array([float(self.of(*each)) for each in found])}


def _i3d(weights: Weights) -> Measure:
    module = _module(weights, I3DConfig, "python -m vdm_jax.convert.i3d --output DIR")
    return Network("i3d", weights, module, lambda m, clips: {"row": i3d_logits(m, clips)}, _clips)


def _videomae(weights: Weights) -> Measure:
    made = "python -m vdm_jax.convert.videomae --from FILE --output DIR"
    module = _module(weights, VideoMAEConfig, made)
    look = lambda m, clips: {"row": videomae_features(m, clips)}  # noqa: E731
    return Network("videomae", weights, module, look, _clips)


def _inception(weights: Weights) -> Measure:
    made = "python -m vdm_jax.convert.inception --from FILE --output DIR"
    module = _module(weights, InceptionConfig, made)

    def look(model: Any, clips: Array) -> Mapping[str, Array]:
        b, t, *picture = clips.shape
        features, logits = inception_features(model, clips.reshape(b * t, *picture))
        return {"row": features.reshape(b, t, -1), "logits": logits.reshape(b, t, -1)}

    return Network("inception", weights, module, look, _clips)


def _lpips(weights: Weights) -> Measure:
    made = "python -m vdm_jax.convert.lpips --network alex --output DIR"
    config = described(Path(weights.path), Parts, f"LPIPS, made by {made}").model
    if config.lpips is None:
        raise Refusal(f"{weights.path} holds no LPIPS; {made} makes it")
    module = read(Path(weights.path), ModelConfig(lpips=config.lpips))

    def look(model: Any, clips: Array, truth: Array) -> Mapping[str, Array]:
        b, t, *picture = clips.shape
        distance: LPIPS = model.lpips
        x, y = (to_signal(each.reshape(b * t, *picture)) for each in (clips, truth))
        return {"value": distance(x, y).reshape(b, t).mean(1)}

    return Network("lpips", weights, module, look, _pairs)


def _clip(weights: Weights) -> Measure:
    folder = Path(weights.path)
    made = "python -m vdm_jax.convert.whole_clip --from FOLDER --output DIR"
    config = described(folder, CLIPConfig, f"CLIP, made by {made}")

    def arrays(batch: Batch) -> dict[str, np.ndarray]:
        side = config.picture.image_size
        pixels = [np.stack([square(frame, side) for frame in clip]) for clip in batch.clips]
        captions = [about.caption for about in batch.about]
        ids = tokenizer.tokenize(folder / config.tokenizer, captions, config.text.max_tokens)
        return {"pixels": np.stack(pixels), "ids": ids}

    def look(model: CLIP, pixels: Array, ids: Array) -> Mapping[str, Array]:
        b, t, *picture = pixels.shape
        frames = model.pictures(pixels.reshape(b * t, *picture)).reshape(b, t, -1)
        return {"frames": frames, "text": model.texts(ids)}

    return Network("clip", weights, read(folder, config), look, arrays)


def _module(weights: Weights, config: type, made: str) -> tuple[Any, nnx.State]:
    folder = Path(weights.path)
    return read(folder, described(folder, config, f"what {made} makes"))


def _clips(batch: Batch) -> dict[str, np.ndarray]:
    return {"clips": batch.clips}


def _pairs(batch: Batch) -> dict[str, np.ndarray]:
    assert batch.truth is not None
    return {"clips": batch.clips, "truth": batch.truth}


NETWORKS: Mapping[str, Callable[[Weights], Measure]] = {
    "i3d": _i3d,
    "videomae": _videomae,
    "inception": _inception,
    "lpips": _lpips,
    "clip": _clip,
}
"""By the names of --weights."""

FORMULAS: Mapping[str, Formula] = {
    "psnr": Formula("psnr", lambda clip, truth, _: frames.psnr(clip, truth).mean()),
    "ssim": Formula("ssim", lambda clip, truth, _: frames.ssim(clip, truth).mean()),
    "flicker": Formula("flicker", lambda clip, *_: motion.flicker(clip)),
    "motion": Formula("motion", lambda clip, _, about: motion.speed(clip, about.fps)),
    "warping": Formula("warping", lambda clip, *_: motion.warping_error(clip).error),
}
