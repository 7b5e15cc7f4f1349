"""A trained model as one callable: captions and pictures in, videos out, compiled once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, UInt8

from vdm_jax.core import mesh as meshes
from vdm_jax.core.refusal import Refusal
from vdm_jax.sample.asking import Ask, asking_model, asking_task
from vdm_jax.tasks import denoising, space
from vdm_jax.tasks.task import (
    Around,
    Arrays,
    Denoising,
    ModelConfig,
    Pictures,
    Task,
    VideoModel,
    abstract,
    to_bytes,
)

Drawer = Callable[[nnx.State, Arrays, Sequence[int]], np.ndarray]
"""Of parameters, the arrays of requests and a seed for each: videos "n t h w c" in -1..1."""


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
        around: Around = lambda denoise: denoise,
        ask: Ask | None = None,
    ):
        """`batch_size` is rounded up to what the mesh can share; `on_step` is called after each
        evaluation of the denoiser, which is what `around` makes of the task's. `ask` is asked
        before each of the network, and before decoding, whether to go on (`sample.asking`)."""
        shards = meshes.batch_shards(mesh)
        self.batch_size = -(-batch_size // shards) * shards
        self._task = task if ask is None else asking_task(ask, task)
        self._heard = partial(asking_model, ask) if ask is not None else lambda model: model
        self._model, self._mesh = model, mesh
        self._graphdef, _ = abstract(model)
        self._around = around if on_step is None else _counted(on_step, around)
        whole = meshes.replicated(mesh)
        self.run = jax.jit(self._of_model(self._generate), out_shardings=whole)
        self._draw = jax.jit(self._of_model(self._drawn), out_shardings=whole)
        self._encode = jax.jit(self._of_model(self._encoded), out_shardings=whole)
        self._decode = jax.jit(self._of_model(self._decoded), out_shardings=whole)
        self._read = jax.jit(self._of_model(self._embedded), out_shardings=whole)
        self._invert = jax.jit(self._of_model(self._inverted), out_shardings=whole)
        self._to_bytes = jax.jit(to_bytes, out_shardings=whole)

    def _of_model(self, function: Callable) -> Callable:
        """The function of a model, as one of its parameters."""

        def run(params: nnx.State, *arguments: Any) -> Array:
            return function(self._heard(nnx.merge(self._graphdef, params)), *arguments)

        return run

    def _generate(self, model: VideoModel, arrays: Arrays, key: Array) -> Array:
        return self._task.generate(model, arrays, key, around=self._around)

    def _drawn(self, model: VideoModel, arrays: Arrays, key: Array) -> Array:
        return self._denoising.draw(model, arrays, key, around=self._around)

    def _encoded(self, model: VideoModel, arrays: Arrays, key: Array) -> Array:
        del key
        return space.encode(model, arrays["video"])

    def _decoded(self, model: VideoModel, arrays: Arrays, key: Array) -> Array:
        del key
        return self._denoising.decode(model, arrays["x0"])

    def _embedded(self, model: VideoModel, arrays: Arrays, key: Array) -> Array:
        del key
        stream = denoising.encode_text(model, arrays).tokens["text"]
        return jnp.where(stream.mask[..., None], stream.embedding, 0)

    def _inverted(self, model: VideoModel, arrays: Arrays, key: Array) -> Array:
        del key
        return denoising.inverted(self._denoising, model, arrays, around=self._around)

    @property
    def _denoising(self) -> Denoising:
        if not isinstance(self._task, Denoising):
            raise Refusal(f"{type(self._task).__name__} draws no videos from noise")
        return self._task

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
        return self._whole(self.run, params, arrays, len(rows), jax.random.key(seed))

    def signal(
        self,
        params: nnx.State,
        captions: Sequence[str],
        pictures: Pictures | None,
        *,
        seed: int | Sequence[int],
        given: Mapping[str, np.ndarray],
    ) -> Float[np.ndarray, "n t h w c"]:
        """The same before rounding to bytes, in -1..1.

        seed: one for all; or one for each video, which is then number 0 of a request of its own.
        given: arrays "n ..." of the request that replace what the task would draw by itself, or,
            as "text_embedding", what it would make of the captions, which nobody reads then.
        """
        arrays = self._asked(captions, pictures, given)
        if isinstance(seed, int):
            return self._whole(self.run, params, arrays, len(captions), jax.random.key(seed))
        return self.signal_of(params, arrays, seed)

    def signal_of(
        self, params: nnx.State, arrays: Arrays, seeds: Sequence[int]
    ) -> Float[np.ndarray, "n t h w c"]:
        """Of the arrays of requests of one video each, the video in -1..1 of its own seed."""
        return self._whole(self.run, params, _alone(arrays, seeds), len(seeds), _keys(seeds))

    def compiled(self, params: nnx.State, arrays: Arrays, seeds: Sequence[int]) -> Drawer:
        """`signal_of`, compiled now, for arrays of these shapes and no others."""
        rows, keys = next(self._placed(_alone(arrays, seeds), len(seeds), _keys(seeds)))
        with jax.set_mesh(self._mesh):
            run = self.run.lower(params, rows, keys).compile()

        def draw(params: nnx.State, arrays: Arrays, seeds: Sequence[int]) -> np.ndarray:
            return self._whole(run, params, _alone(arrays, seeds), len(seeds), _keys(seeds))

        return draw

    def draw(
        self,
        params: nnx.State,
        captions: Sequence[str],
        pictures: Pictures | None,
        *,
        seed: int,
        part: int = 0,
        given: Mapping[str, np.ndarray],
    ) -> Float[np.ndarray, "n t h w c"]:
        """What `signal` would decode, in the space that the network works in.

        part: of a video that is drawn in parts, which differ in what is random.
        """
        arrays = self._asked(captions, pictures, given)
        key = jax.random.fold_in(jax.random.key(seed), part) if part else jax.random.key(seed)
        return self._whole(self._draw, params, arrays, len(captions), key)

    def encode(
        self, params: nnx.State, videos: UInt8[np.ndarray, "n t h w 3"]
    ) -> Float[np.ndarray, "n T H W c"]:
        """Videos in the space that the network works in."""
        padded = space.padded(self._model, self._task.video, videos)
        return self._whole(self._encode, params, {"video": padded}, len(videos), jax.random.key(0))

    def decode(
        self, params: nnx.State, x0: Float[np.ndarray, "n t h w c"]
    ) -> Float[np.ndarray, "n T H W 3"]:
        """What `draw` drew, as videos in -1..1; of any number of frames."""
        return self._whole(self._decode, params, {"x0": x0}, len(x0), jax.random.key(0))

    def invert(
        self,
        params: nnx.State,
        x0: Float[np.ndarray, "n t h w c"],
        captions: Sequence[str],
        pictures: Pictures | None,
    ) -> Float[np.ndarray, "n t h w c"]:
        """The unit noise from which these captions and pictures give videos back, by DDIM."""
        arrays = {**self._task.request(self._model, captions, pictures), denoising.START: x0}
        return self._whole(self._invert, params, arrays, len(x0), jax.random.key(0))

    def _asked(
        self, captions: Sequence[str], pictures: Pictures | None, given: Mapping[str, np.ndarray]
    ) -> Arrays:
        model = self._model
        if denoising.EMBEDDED in given:
            denoising.check_embedded(model, given[denoising.EMBEDDED], len(captions))
            model = replace(model, text=None)
        return {**self._task.request(model, captions, pictures), **given}

    def _whole(self, run, params, arrays, count, key):
        batches = self._batches(params, arrays, count, key, run)
        return np.concatenate([np.asarray(batch) for batch in batches])[:count]

    def embed(self, params: nnx.State, captions: Sequence[str]) -> Arrays:
        """What `given` takes in place of captions: their embedding "n l d", zero where no token is.

        Empty for a model without text.
        """
        arrays = self._model.tokenize(captions)
        if not arrays:
            return {}
        read = self._whole(self._read, params, arrays, len(captions), jax.random.key(0))
        return {denoising.EMBEDDED: read}

    def noise(self, seed: int, count: int) -> Float[np.ndarray, "{count} t h w c"]:
        """The unit noise that a request of `count` videos is drawn from, where it brings none.

        Of a task whose request needs no picture.
        """
        shape = space.sizes(nnx.merge(*abstract(self._model)), self._task.video)
        start_key, _ = jax.random.split(jax.random.key(seed))
        plan = self._denoising.sampling.noise
        return np.asarray(denoising.noise({}, "", start_key, jnp.arange(count), shape, plan))

    def _bytes(self, params, arrays, count, seed):
        batches = self._batches(params, arrays, count, jax.random.key(seed), self.run)
        videos = [np.asarray(self._to_bytes(batch)) for batch in batches]
        return np.concatenate(videos)[:count]

    def _batches(self, params, arrays, count, key, run):
        for rows, keys in self._placed(arrays, count, key):
            with jax.set_mesh(self._mesh):
                yield run(params, rows, keys)

    def _placed(self, arrays, count, key):
        """Each batch on the mesh: its rows, and the key or those of the rows."""
        arrays = {"row": np.arange(count, dtype=np.int32), **arrays}
        for start in range(0, count, self.batch_size):
            index = np.minimum(np.arange(start, start + self.batch_size), count - 1)
            rows = {name: values[index] for name, values in arrays.items()}
            placed = meshes.put_whole_batch(rows, self._mesh)
            yield placed, key if key.ndim == 0 else self._placed_keys(key, index)

    def _placed_keys(self, keys: Array, index: np.ndarray) -> Array:
        data = {"key": np.asarray(jax.random.key_data(keys))[index]}
        placed = meshes.put_whole_batch(data, self._mesh)["key"]
        return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(keys))


def _alone(arrays: Arrays, seeds: Sequence[int]) -> Arrays:
    """Each row as the first of a request of its own."""
    return {**arrays, "row": np.zeros(len(seeds), np.int32)}


def _keys(seeds: Sequence[int]) -> Array:
    keys = [jax.random.key(seed) for seed in seeds]
    data = np.stack([np.asarray(jax.random.key_data(key)) for key in keys])
    return jax.random.wrap_key_data(jnp.asarray(data), impl=jax.random.key_impl(keys[0]))


def _counted(on_step: Callable[[], object], change: Around) -> Around:
    def around(denoise: Callable) -> Callable:
        denoise = change(denoise)

        def tick(value: Array) -> None:
            del value  # taken only so that the call waits for it
            on_step()

        def counted(*args: Any) -> Array:
            x0 = denoise(*args)
            jax.debug.callback(tick, x0.ravel()[0])
            return x0

        return counted

    return around
