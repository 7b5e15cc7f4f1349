"""Which weights training changes, and how a whole model comes of those and of the others.

A `Trainable` takes the parameters of a model apart into what is trained and what is only read, and
puts them together again. What is trained has gradients, moments, an average and checkpoints; what
is only read has none of them.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol, runtime_checkable

from flax import nnx
from jaxtyping import Array

from vdm_jax.core.refusal import Refusal


@runtime_checkable
class Trainable(Protocol):
    """Takes the parameters of a model apart and puts them together again."""

    def split(self, params: nnx.State, key: Array) -> tuple[nnx.State, nnx.State]:
        """(trained, frozen), of arrays or under `jax.eval_shape`; `join` of them is `params`.

        key: for what is drawn at random. Refuses parameters in which nothing is trained.
        """
        ...

    def join(self, trained: nnx.State, frozen: nnx.State) -> nnx.State:
        """The parameters of the model."""
        ...


@dataclass(frozen=True)
class Selected:
    """The parameters whose path matches one of the patterns; "*" stands for anything.

    patterns: of paths with dots, such as "network.down.0.transformers.1.time.0.attn1.to_q.kernel".
    """

    patterns: tuple[str, ...]

    def split(self, params: nnx.State, key: Array) -> tuple[nnx.State, nnx.State]:
        del key  # nothing is new
        found = [path for path, _ in nnx.to_flat_state(params)]
        for pattern in self.patterns:
            if not any(fnmatchcase(dotted(path), pattern) for path in found):
                raise Refusal(f"nothing in the model is called {pattern}; see --print-sharding")
        trained, frozen = nnx.split_state(params, lambda path, _: self._matches(path), ...)
        return trained, frozen

    def join(self, trained: nnx.State, frozen: nnx.State) -> nnx.State:
        return nnx.merge_state(trained, frozen)

    def _matches(self, path: tuple) -> bool:
        return any(fnmatchcase(dotted(path), pattern) for pattern in self.patterns)


def dotted(path: tuple) -> str:
    """A path in a tree of parameters, as users write it."""
    return ".".join(map(str, path))


EVERYTHING = Selected(("*",))

NETWORK = Selected(("network.*",))
"""The denoiser alone: its encoders and its autoencoder stay as they are."""

TIME_LAYERS = Selected(("network.*.time.*", "network.*.blend.*", "network.*.frame_embedding.*"))
"""What mixes frames in `models.svd_unet`, and how much it is heeded (Blattmann et al. 2023,
arXiv:2304.08818, section 3.1): the layers of single pictures stay as they are."""
