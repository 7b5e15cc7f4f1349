"""What a metric keeps of the clips it has seen, as plain arrays: to cache it, or to hand it on."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np

from vdm_jax.core.refusal import Refusal

S = TypeVar("S", bound="State")


@dataclass(frozen=True, eq=False)
class State:
    """Numbers and arrays. Never changed: what takes in more clips is another one.

    A state says itself how it is joined with others (`merge`) and whether its numbers can be true.
    """

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, by name."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_arrays(cls: type[S], arrays: Mapping[str, np.ndarray]) -> S:
        """What `arrays` told. Raises Refusal where these are not of such a state."""
        names = [field.name for field in fields(cls)]
        if set(arrays) != set(names):
            got = ", ".join(arrays) or "nothing"
            raise Refusal(f"{cls.__name__} is kept as {', '.join(names)}; got {got}")
        read = {name: np.array(arrays[name]) for name in names}
        return cls(**{name: value if value.ndim else value.item() for name, value in read.items()})
