"""The loss on samples that are never trained on, beside that of the best constant answer."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from vdm_jax.core import mesh as meshes
from vdm_jax.data.source import Source, near, stack
from vdm_jax.diffusion.denoiser import Denoiser
from vdm_jax.tasks.task import Arrays, abstract
from vdm_jax.train.config import TrainConfig

NUM_FOR_MEAN = 64  # training samples that the constant answer is averaged from


class HeldOut:
    """The denoising loss on a fixed set of held-out samples, noised alike at every call."""

    def __init__(self, config: TrainConfig, mesh: Mesh, source: Source, held_out: Source):
        """The first `held_out_samples` of `held_out`, or all if there are fewer."""
        self._config, self._mesh, self._source = config, mesh, source
        self._task, self._key = config.task, jax.random.key(config.seed)
        self._graphdef, _ = abstract(config.model)
        self._shards = meshes.batch_shards(mesh)
        count = min(config.held_out_samples, len(held_out))
        count = max(count - count % self._shards, self._shards)
        self._arrays = self._put(held_out, [i % len(held_out) for i in range(count)])
        whole = meshes.replicated(mesh)
        self._loss = jax.jit(self._model_loss, out_shardings=whole)
        self._mean_loss = jax.jit(self._constant_loss, out_shardings=whole)
        self._frame = jax.jit(self._mean_frame, out_shardings=whole)
        self._mean: Array | None = None

    def loss(self, params: nnx.State) -> float:
        """Of the model with these weights."""
        with jax.set_mesh(self._mesh):
            return float(self._loss(params, self._arrays, self._key))

    def mean_predictor_loss(self, params: nnx.State) -> float:
        """Of answering every noisy video with the mean training frame: what a model must beat."""
        with jax.set_mesh(self._mesh):
            if self._mean is None:
                self._mean = self._mean_of_source(params)
            return float(self._mean_loss(params, self._arrays, self._key, self._mean))

    def _put(self, source: Source, numbers: Iterable[int]) -> Arrays:
        samples = stack([near(source, number, self._config.max_bad) for number in numbers])
        arrays = self._task.prepare(self._config.model, samples)
        return meshes.put_whole_batch(arrays, self._mesh)

    def _model_loss(self, params: nnx.State, arrays: Arrays, key: Array) -> Float[Array, ""]:
        model = nnx.merge(self._graphdef, params)
        answer, x0 = self._task.answer(model), self._task.clean(model, arrays)
        return self._task.price(answer, x0, self._task.condition(model, arrays), key)

    def _constant_loss(
        self, params: nnx.State, arrays: Arrays, key: Array, mean: Array
    ) -> Float[Array, ""]:
        model = nnx.merge(self._graphdef, params)
        answer: Denoiser = lambda z, level, cond: jnp.broadcast_to(mean[None, None], z.shape)  # noqa: E731
        x0 = self._task.clean(model, arrays)
        return self._task.price(answer, x0, self._task.condition(model, arrays), key)

    def _mean_frame(self, params: nnx.State, arrays: Arrays) -> Float[Array, "h w c"]:
        model = nnx.merge(self._graphdef, params)
        return self._task.clean(model, arrays).mean(axis=(0, 1))

    def _mean_of_source(self, params: nnx.State) -> Array:
        """Of clips all over the source, a few at a time."""
        each = len(self._arrays[next(iter(self._arrays))])
        spread = np.linspace(0, len(self._source) - 1, NUM_FOR_MEAN).astype(int)
        parts = [spread[start : start + each] for start in range(0, len(spread), each)]
        frames = [
            self._frame(params, self._put(self._source, np.resize(part, each).tolist()))
            for part in parts
        ]
        return jnp.mean(jnp.stack(frames), axis=0)
