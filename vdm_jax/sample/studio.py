"""A model that draws the orders of many people, those of one shape side by side.

A program is compiled for each shape and number of videos, and kept; nothing else of an order leads
to a new one. A video is that of its own seed, whatever is drawn beside it.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import UInt8

from vdm_jax.core.mesh import MeshConfig, batch_shards
from vdm_jax.core.refusal import Refusal
from vdm_jax.nn.pieces import Chunked
from vdm_jax.sample import load, room
from vdm_jax.sample.order import Offer, Order, Shape
from vdm_jax.sample.pipeline import Dtype, default_dtype
from vdm_jax.sample.program import OnStep, Program, Turn
from vdm_jax.tasks.stable_video import StableVideo
from vdm_jax.tasks.task import Denoising


class Compiled(NamedTuple):
    """A program that is there: of which shape, for how many videos, and how long it took."""

    shape: Shape
    batch_size: int
    seconds: float


class Studio:
    """One model on the devices of this process.

        studio = Studio("models/svd_xt")
        studio.load()
        videos = studio.draw([Order(picture=a, seed=1), Order(picture=b, seed=2)], going_on)

    Calls come from one thread at a time.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        dtype: Dtype | None = None,
        mesh: Mesh | None = None,
        batch_size: int = 4,
        kept: int = 8,
    ):
        """Reads what the model is, not its weights.

        dtype: of weights and layers; None is float32 on CPU, bfloat16 elsewhere.
        mesh: None shares the batch among all devices. batch_size: most videos drawn at once.
        kept: programs that are kept, those that were used last.

        Raises Refusal for a directory that holds no model, or one that cannot be served so.
        """
        if batch_size < 1 or kept < 1:
            raise Refusal(f"batch_size and kept must be at least 1, got {batch_size} and {kept}")
        self._directory = Path(directory)
        self._config = load.describe(self._directory)
        self._offer = Offer(self._config)
        self._dtype = dtype or default_dtype()
        self._model = load.in_dtype(self._config.model, self._dtype)
        self._mesh = MeshConfig().build() if mesh is None else mesh
        self._batch_size, self._kept = batch_size, kept
        self._params: nnx.State | None = None
        self._programs: OrderedDict[tuple[Shape, int], Program] = OrderedDict()

    def facts(self) -> dict[str, Any]:
        """What a client must know of the model, as JSON takes it (see `Offer.facts`)."""
        return self._offer.facts()

    def check(self, order: Order) -> None:
        """Raises Refusal for what the model, or this machine, cannot draw. Compiles nothing."""
        self._offer.check(order)
        self.at_once(self.shape(order))

    def shape(self, order: Order) -> Shape:
        """Orders of one shape may be drawn together."""
        return self._offer.shape(order)

    def at_once(self, shape: Shape) -> int:
        """How many orders of a shape fit the devices side by side, up to the batch size.

        Raises Refusal where not one does, naming the largest setting that would.
        """
        shards = batch_shards(self._mesh)
        whole = math.ceil(self._batch_size / shards) * shards
        task = self._task(shape)
        if not isinstance(task, StableVideo):
            return whole
        fits = room.batch_that_fits(task, self._model, self._mesh, self._dtype, self._batch_size)
        return min(whole, fits)

    def load(self) -> None:
        """The weights, onto the mesh. Raises Refusal if they are damaged."""
        self._params = load.weights(
            self._directory, self._config, self._model, self._mesh, self._dtype
        )

    def warm(self, shape: Shape, count: int = 1) -> Compiled:
        """Compile, unless it is there, the program that draws `count` orders of a shape."""
        size = self._size(shape, count)
        return Compiled(shape, size, self._program(shape, size).seconds)

    @property
    def compiled(self) -> list[Compiled]:
        """The programs that are there, the last used last."""
        return [Compiled(*of, program.seconds) for of, program in self._programs.items()]

    def draw(
        self, orders: Sequence[Order], on_step: OnStep
    ) -> UInt8[np.ndarray, "n t h w 3"] | None:
        """The videos of orders of one shape, in their order; None where `on_step` said no.

        on_step: called before each evaluation of the network, and when all are done.

        Raises Refusal for orders of several shapes and for videos that are no numbers, and what
        `on_step` raises.
        """
        shapes = {self.shape(order) for order in orders}
        if len(shapes) != 1:
            raise Refusal(f"orders of one shape are drawn together, got {sorted(shapes)}")
        shape = shapes.pop()
        most = self.at_once(shape)
        parts = [orders[i : i + most] for i in range(0, len(orders), most)]
        videos = []
        for number, part in enumerate(parts):
            steps = shape.num_steps
            turn = Turn(on_step, before=number * steps, total=len(parts) * steps)
            drawn = self._drawn(shape, part, turn)
            if drawn is None:
                return None
            videos.append(drawn)
        return np.concatenate(videos)

    def _drawn(self, shape: Shape, orders: Sequence[Order], turn: Turn) -> np.ndarray | None:
        program = self._program(shape, self._size(shape, len(orders)))
        arrays, seeds = self._offer.arrays(orders), [int(order.seed) for order in orders]
        signal = program(self._weights, arrays, seeds, turn)
        if signal is None:
            return None
        if not np.isfinite(signal).all():
            raise Refusal("what the model drew is not finite: lower the guidance, or use float32")
        return np.round(np.clip(signal / 2 + 0.5, 0, 1) * 255).astype(np.uint8)

    @property
    def _weights(self) -> nnx.State:
        if self._params is None:
            raise Refusal("the weights are not loaded: call load() first")
        return self._params

    def _size(self, shape: Shape, count: int) -> int:
        """Of the two sizes of batches, the smaller one that holds `count` videos."""
        shards, most = batch_shards(self._mesh), self.at_once(shape)
        if not 1 <= count <= most:
            raise Refusal(f"from 1 to {most} videos of this shape are drawn at once, got {count}")
        return shards if count <= shards else most

    def _program(self, shape: Shape, size: int) -> Program:
        made = self._programs.pop((shape, size), None)
        if made is None:
            while len(self._programs) >= self._kept:
                self._programs.popitem(last=False)
            made = self._compile(shape, size)
        self._programs[shape, size] = made
        return made

    def _compile(self, shape: Shape, size: int) -> Program:
        arrays = self._offer.arrays([self._offer.blank(shape)])
        task, params = self._task(shape), self._weights
        return Program(task, self._model, self._mesh, params, arrays, batch_size=size)

    def _task(self, shape: Shape) -> Denoising:
        """As it is drawn: Stable Video Diffusion decodes as many frames at once as fit."""
        task = self._offer.task_of(shape)
        if not isinstance(task, StableVideo):
            return task
        chunk = room.chunk_that_fits(task, self._model, self._mesh, self._dtype)
        return replace(task, decoding=Chunked(chunk))
