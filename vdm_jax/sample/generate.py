"""A trained model as one callable: captions and pictures in, videos out, compiled once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from vdm_jax.core import mesh as meshes
from vdm_jax.tasks import denoising, space
from vdm_jax.tasks.task import Around, Arrays, ModelConfig, Pictures, Task, abstract, to_bytes


class Generator:
    """Draws videos of one task in batches of a fixed size, so that it compiles only once.

    A video depends on its number in the request, on its caption and picture, and on the seed; not
    on the batch size, nor on what else is drawn beside it.
    """

    def __init__(
        self,
        task: Task,
        model: ModelConfig,
        mesh: Mesh,
        *,
        batch_size: int,
        on_step: Callable[[], object] | None = None,
    ):
        """`batch_size` is rounded up to what the mesh can share; `on_step` is called after each
        evaluation of the denoiser."""
        shards = meshes.batch_shards(mesh)
        self.batch_size = -(-batch_size // shards) * shards
        self._task, self._model, self._mesh = task, model, mesh
        self._graphdef, _ = abstract(model)
        self._around = _unchanged if on_step is None else _counted(on_step)
        whole = meshes.replicated(mesh)
        self.run = jax.jit(self._generate, out_shardings=whole)
        self._read = jax.jit(self._embedded, out_shardings=whole)
        self._to_bytes = jax.jit(to_bytes, out_shardings=whole)

    def _generate(self, params: nnx.State, arrays: Arrays, key: Array) -> Array:
        model = nnx.merge(self._graphdef, params)
        return self._task.generate(model, arrays, key, around=self._around)

    def __call__(
        self,
        params: nnx.State,
        captions: Sequence[str],
        pictures: Pictures | None,
        *,
        seed: int,
    ) -> UInt8[np.ndarray, "n t h w c"]:
        """One video for each caption (and picture). Refuses what the task cannot do."""
        arrays = self._task.request(self._model, captions, pictures)
        return self._bytes(params, arrays, len(captions), seed)

    def again(
        self, params: nnx.State, samples: Mapping[str, Any], *, seed: int
    ) -> UInt8[np.ndarray, "n t h w c"]:
        """What the model makes of samples of a source: of their captions, pictures, …"""
        arrays = self._task.prepare(self._model, samples)
        return self._bytes(params, arrays, len(samples["video"]), seed)

    def signal_again(
        self, params: nnx.State, samples: Mapping[str, Any], rows: Sequence[int], *, seed: int
    ) -> Float[np.ndarray, "n t h w c"]:
        """`again` before rounding to bytes, in -1..1, as numbers `rows` of one long request."""
        arrays = self._task.prepare(self._model, samples)
        arrays["row"] = np.array(rows, np.int32)
        batches = self._batches(params, arrays, len(rows), seed)
        return np.concatenate([np.asarray(batch) for batch in batches])[: len(rows)]

    def signal(
        self,
        params: nnx.State,
        captions: Sequence[str],
        pictures: Pictures | None,
        *,
        seed: int,
        given: Mapping[str, np.ndarray],
    ) -> Float[np.ndarray, "n t h w c"]:
        """The same before rounding to bytes, in -1..1.

        given: arrays "n ..." of the request that replace what the task would draw by itself.
        """
        arrays = {**self._task.request(self._model, captions, pictures), **given}
        batches = self._batches(params, arrays, len(captions), seed)
        return np.concatenate([np.asarray(batch) for batch in batches])[: len(captions)]

    def embed(self, params: nnx.State, captions: Sequence[str]) -> Arrays:
        """What `given` takes in place of captions: their embedding "n l d", zero where no token is.

        Empty for a model without text.
        """
        arrays = self._model.tokenize(captions)
        if not arrays:
            return {}
        arrays["row"] = np.arange(len(captions), dtype=np.int32)
        made = []
        for rows in self._placed(arrays):
            with jax.set_mesh(self._mesh):
                made.append(self._read(params, rows))
        return {
            name: np.concatenate([np.asarray(each[name]) for each in made])[: len(captions)]
            for name in made[0]
        }

    def _embedded(self, params: nnx.State, arrays: Arrays) -> Arrays:
        stream = denoising.encode_text(nnx.merge(self._graphdef, params), arrays).tokens["text"]
        return {denoising.EMBEDDED: jnp.where(stream.mask[..., None], stream.embedding, 0)}

    def noise(self, seed: int, count: int) -> Float[np.ndarray, "{count} t h w c"]:
        """The unit noise that a request of `count` videos is drawn from, where it brings none.

        Of a task whose request needs no picture.
        """
        shape = space.sizes(nnx.merge(*abstract(self._model)), self._task.video)
        start_key, _ = jax.random.split(jax.random.key(seed))
        return np.asarray(denoising.noise({}, "", start_key, jnp.arange(count), shape))

    def _bytes(self, params, arrays, count, seed):
        batches = self._batches(params, arrays, count, seed)
        videos = [np.asarray(self._to_bytes(batch)) for batch in batches]
        return np.concatenate(videos)[:count]

    def _batches(self, params, arrays, count, seed):
        arrays = {"row": np.arange(count, dtype=np.int32), **arrays}
        key = jax.random.key(seed)
        for rows in self._placed(arrays):
            with jax.set_mesh(self._mesh):
                yield self.run(params, rows, key)

    def _placed(self, arrays: Arrays) -> Iterator[Arrays]:
        """The rows in batches, on the devices."""
        for start in range(0, len(arrays["row"]), self.batch_size):
            rows = _rows(arrays, start, self.batch_size)
            yield meshes.put_whole_batch(rows, self._mesh)


def _rows(arrays: Arrays, start: int, size: int) -> Arrays:
    """Rows [start, start + size) of each array, the last one repeated where they run out."""
    total = len(arrays["row"])
    index = np.minimum(np.arange(start, start + size), total - 1)
    return {name: rows[index] for name, rows in arrays.items()}


def _unchanged(denoise: Callable) -> Callable:
    return denoise


def _counted(on_step: Callable[[], object]) -> Around:
    def around(denoise: Callable) -> Callable:
        def tick(value: Array) -> None:
            del value  # taken only so that the call waits for it
            on_step()

        def counted(*args: object) -> Array:
            x0 = denoise(*args)
            jax.debug.callback(tick, x0.ravel()[0])
            return x0

        return counted

    return around
