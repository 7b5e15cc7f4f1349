"""The loss on samples that are never trained on, beside that of the best constant answer."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from vdm_jax.core import mesh as meshes
from vdm_jax.data.loader import Source, stack
from vdm_jax.diffusion.denoiser import Denoiser, denoiser
from vdm_jax.tasks.task import Arrays, to_signal
from vdm_jax.train.config import TrainConfig

NUM_FOR_MEAN = 64  # training samples that the constant answer is averaged from


class HeldOut:
    """The denoising loss on a fixed set of held-out samples, noised alike at every call."""

    def __init__(self, config: TrainConfig, mesh: Mesh, source: Source, held_out: Source):
        """The first `held_out_samples` of `held_out`, or all if there are fewer."""
        count = min(config.held_out_samples, len(held_out))
        count = max(count - count % meshes.batch_shards(mesh), meshes.batch_shards(mesh))
        samples = stack([held_out[i % len(held_out)] for i in range(count)])
        arrays = config.task.prepare(config.model, samples)
        self._arrays = meshes.put_whole_batch(arrays, mesh)
        self._task, self._key = config.task, jax.random.key(config.seed)
        self._graphdef, _ = nnx.split(meshes.build_abstract(config.build_model), nnx.Param)
        whole = meshes.replicated(mesh)
        self._loss = jax.jit(self._model_loss, out_shardings=whole)
        self._mean_loss = jax.jit(self._constant_loss, out_shardings=whole)
        self._mean = _mean_frame(source)

    def loss(self, params: nnx.State) -> float:
        """Of the model with these weights."""
        return float(self._loss(params, self._arrays, self._key))

    def mean_predictor_loss(self, params: nnx.State) -> float:
        """Of answering every noisy video with the mean training frame: what a model must beat."""
        return float(self._mean_loss(params, self._arrays, self._key, self._mean))

    def _model_loss(self, params: nnx.State, arrays: Arrays, key: Array) -> Float[Array, ""]:
        model = nnx.merge(self._graphdef, params)
        denoise = denoiser(model.network, self._task.process.precond)
        return self._task.price(denoise, self._task.condition(model, arrays), arrays, key)

    def _constant_loss(
        self, params: nnx.State, arrays: Arrays, key: Array, mean: Array
    ) -> Float[Array, ""]:
        model = nnx.merge(self._graphdef, params)
        answer: Denoiser = lambda z, level, cond: jnp.broadcast_to(mean[None, None], z.shape)  # noqa: E731
        return self._task.price(answer, self._task.condition(model, arrays), arrays, key)


def _mean_frame(source: Source) -> Float[np.ndarray, "h w c"]:
    spread = np.linspace(0, len(source) - 1, min(NUM_FOR_MEAN, len(source))).astype(int)
    frames = [
        np.asarray(to_signal(jnp.asarray(source[int(i)]["video"]))).mean(axis=0) for i in spread
    ]
    return np.mean(frames, axis=0)
