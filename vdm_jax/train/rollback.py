"""Back to the weights of a good checkpoint, when skipping bad steps no longer helps."""

from typing import Any

import numpy as np

from vdm_jax.core import mesh as meshes
from vdm_jax.core.checkpoint import Checkpoints, Restored
from vdm_jax.core.refusal import Refusal
from vdm_jax.train.guard import Guard
from vdm_jax.train.state import TrainState
from vdm_jax.train.step import Scalars

META = "rollback"


class Rollback:
    """After `guard.patience` bad steps in a row: weights, moments and average of a checkpoint.

    The newest from before the first of them; if none was saved since it was last gone back to, an
    older one each time; when there is none, Refusal. Steps and data go on from where they are: the
    batches since that checkpoint are not seen again, the bad ones among them, and what the others
    had taught is lost. What counted as usual is forgotten: if steps stay as they were, that is how
    they are now.

    All it looks at is in the training state and the checkpoints, so that every process of a run,
    and a run that was killed and started again, do the same.
    """

    def __init__(
        self,
        guard: Guard,
        checkpoints: Checkpoints,
        abstract: TrainState,
        restored: Restored | None,
    ):
        """abstract: the state to fill. restored: what the run goes on from."""
        self._patience, self._checkpoints, self._abstract = guard.patience, checkpoints, abstract
        last = None if restored is None else restored.meta.get(META)
        self._last: dict[str, int] | None = None if last is None else dict(last)
        self._bad = 0 if restored is None else int(restored.state.health.bad_in_a_row)

    def bad(self, scalars: Scalars | None) -> int:
        """How many steps were bad in a row, up to that with these results; None: up to the start.

        Their weights are those of the step before: saving them again would only push good
        checkpoints out.
        """
        if scalars is not None:
            self._bad = int(scalars["bad_in_a_row"])
        return self._bad

    def due(self, scalars: Scalars | None) -> bool:
        """Whether the step with these results was one bad step too many."""
        return self.bad(scalars) >= self._patience

    def meta(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: where the run last went back, and to which step."""
        return {} if self._last is None else {META: self._last}

    def back(self, step: int) -> tuple[TrainState, int]:
        """The state to go on with after `step`, at which it is `due`; the step of its weights."""
        first_bad, last = step - self._bad + 1, self._last
        before = first_bad
        if last is not None and not self._checkpoints.holds(range(last["at"] + 1, first_bad)):
            before = last["to"]
        found = self._checkpoints.restore(self._abstract, before=before)
        if found is None:
            raise Refusal(
                f"{self._bad} steps in a row up to step {step} were not finite or far "
                f"off, and no checkpoint is left to go back to; try a lower --optim.learning-rate. "
                f"What {self._checkpoints.directory} holds is intact"
            )
        self._last, self._bad = {"at": step, "to": found.step}, 0
        return self._going_on(found, step), found.step

    def _going_on(self, found: Restored, step: int) -> TrainState:
        """What was found, as the state of `step`; all steps since count as skipped."""
        state: TrainState = found.state
        skipped = int(state.skipped) + step - found.step
        was = self._abstract
        leaves = was.step, was.skipped, was.health.known, was.health.bad_in_a_row
        values = np.int32(step), np.int32(skipped), np.int32(0), np.int32(0)
        made = meshes.put(values, tuple(leaf.sharding for leaf in leaves))
        health = state.health._replace(known=made[2], bad_in_a_row=made[3])
        return state._replace(step=made[0], skipped=made[1], health=health)
