"""What to do about files that cannot be read."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vdm_jax.core.refusal import Refusal

NAMED = 20  # bad files that are named one by one
LOG = logging.getLogger(__name__)

BadFiles = Callable[[Path, Sequence[Refusal], int], None]


def refuse_bad(folder: Path, bad: Sequence[Refusal], total: int) -> None:
    """Raise one Refusal that lists them."""
    raise Refusal(f"{folder}: {len(bad)} of {total} unreadable: {_listed(bad)}")


@dataclass(frozen=True)
class SkipBad:
    """Go on without them, saying how many and which; refuse more than this share of all."""

    share: float = 1.0

    def __call__(self, folder: Path, bad: Sequence[Refusal], total: int) -> None:
        if len(bad) > self.share * total:
            raise Refusal(
                f"{folder}: {len(bad)} of {total} unreadable, over the share of {self.share:g} "
                f"that may be: {_listed(bad)}"
            )
        LOG.warning("%s: skipping %d of %d unreadable: %s", folder, len(bad), total, _listed(bad))


def _listed(bad: Sequence[Refusal]) -> str:
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return "; ".join(str(refusal) for refusal in bad[:NAMED]) + more
