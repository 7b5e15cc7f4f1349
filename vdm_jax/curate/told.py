"""The numbers that go with a kept clip, which every sample of it then carries.

Those of the columns that `CurateConfig.told` names, and motion_bucket_id where motion was measured.
How Stable Video Diffusion made that of optical flow is not published, only that 127 is usual. This
is our own convention: 255 times the rank of the clip's motion among the kept ones, so that the
middle one has 127 and a clip's number depends on the others.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from vdm_jax.curate.stage import Row

MOTION, BUCKET = "motion", "motion_bucket_id"
BUCKETS = 255


def incomplete(columns: Mapping[str, np.ndarray], names: Sequence[str]) -> list[int]:
    """The clips of which one of the numbers is not known. names: as in `CurateConfig.told`."""
    wanted = {*names, *({MOTION} & columns.keys())}
    missing = [~np.isfinite(columns[name]) for name in sorted(wanted)]
    return np.any(missing, axis=0).nonzero()[0].tolist() if missing else []


def tell(clips: Sequence[Row], columns: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
    """Give every clip its "told": the numbers of one that is kept, none of others."""
    kept = np.array([not clip["rejected"] for clip in clips], bool)
    numbers = {name: columns[name][kept] for name in names}
    if MOTION in columns:
        numbers[BUCKET] = buckets(columns[MOTION][kept])
    for clip in clips:
        clip["told"] = {}
    for place, index in enumerate(kept.nonzero()[0].tolist()):
        clips[index]["told"] = {name: float(column[place]) for name, column in numbers.items()}


def buckets(motion: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The motion_bucket_id of each of some clips, from 0 to 255; equal motion has an equal one."""
    ordered = np.sort(motion)
    below, upto = (np.searchsorted(ordered, motion, side) for side in ("left", "right"))
    ranks = (below + upto) / 2 / max(len(motion), 1)  # the middle of those that are equal
    return np.ceil(BUCKETS * ranks - 0.5)  # halves go down: 127.5 is 127
