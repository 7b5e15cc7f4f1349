"""A compiled drawing of a batch of orders, which may be stopped between its steps."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Float

from vdm_jax.sample.generate import Generator
from vdm_jax.tasks.task import Arrays, Denoising, ModelConfig

OnStep = Callable[[int, int], bool]
"""Told the steps that are done and all of them; answers whether to go on. It must not call JAX."""


class Turn:
    """One batch in a program: what it asks between steps, and what was answered.

    on_step: once it said no it is not called again; what it raises stops the batch too.
    before: steps done before this batch. total: those of all batches.
    """

    def __init__(self, on_step: OnStep, *, before: int, total: int):
        self._on_step, self._before, self._total = on_step, before, total
        self.going = True
        self._error: BaseException | None = None

    def after(self, steps: int) -> bool:
        """Whether to go on after so many of this batch's steps."""
        if self.going:
            try:
                self.going = bool(self._on_step(self._before + steps, self._total))
            except BaseException as error:  # from a thread of the program's, to that of the caller
                self.going, self._error = False, error
        return self.going

    def check(self) -> None:
        """Raises what `on_step` raised."""
        if self._error is not None:
            raise self._error


class Desk:
    """Where a compiled program asks; it may be that of one turn after another."""

    def __init__(self, num_steps: int, evaluations: int):
        self._num_steps, self._evaluations = num_steps, evaluations
        self._turn: Turn | None = None
        self._asked = 0

    def ask(self) -> bool:
        assert self._turn is not None  # a program asks while it runs
        steps, self._asked = self._asked // self._evaluations, self._asked + 1
        return self._turn.after(steps)

    def take(self, turn: Turn) -> None:
        self._turn, self._asked = turn, 0

    def leave(self) -> None:
        """The program has ended: tells so where it asked nothing after its last step."""
        if self._asked == self._num_steps * self._evaluations:
            self.ask()
        self._turn = None


class Program:
    """A task, compiled for `batch_size` videos with their own seeds.

    arrays: of a request of one video, for their shapes. Attribute `seconds`: what it took.
    """

    def __init__(
        self,
        task: Denoising,
        model: ModelConfig,
        mesh: Mesh,
        params: nnx.State,
        arrays: Arrays,
        *,
        batch_size: int,
    ):
        start = time.monotonic()
        # apart from this object, so that no trace of the program keeps the compiled one alive
        self._desk = Desk(task.sampling.num_steps, task.sampling.sampler.evaluations)
        generator = Generator(task, model, mesh, batch_size=batch_size, ask=self._desk.ask)
        self._draw = generator.compiled(params, arrays, [0])
        self.seconds = time.monotonic() - start

    def __call__(
        self, params: nnx.State, arrays: Arrays, seeds: Sequence[int], turn: Turn
    ) -> Float[np.ndarray, "n t h w 3"] | None:
        """Videos in -1..1; None where the turn was stopped. Raises what its `on_step` raised."""
        self._desk.take(turn)
        signal = self._draw(params, arrays, seeds)
        self._desk.leave()
        turn.check()
        return signal if turn.going else None
