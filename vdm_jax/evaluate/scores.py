"""From rows to numbers: what each metric is, how it is computed, and how far it can be trusted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vdm_jax.core.refusal import Refusal
from vdm_jax.evaluate.rows import Rows, Table
from vdm_jax.metrics import interval
from vdm_jax.metrics.clip import frame_consistency, text_similarity
from vdm_jax.metrics.frechet import frechet, rank
from vdm_jax.metrics.inception_score import SPLITS, InceptionScore
from vdm_jax.metrics.interval import Estimate
from vdm_jax.metrics.kernel import mmd_estimate
from vdm_jax.metrics.moments import Moments, Parts

WIDE = 1024  # features from which on fewer parts are left out in turn, each taking minutes
FEW_PARTS = 5


@dataclass(frozen=True)
class Metric:
    """measure: what its rows come from. told: what it says, and of which size. of: the rows of a
    set and of the real one, as far as the first n clips, to an estimate.

    digits: after the point, where it is printed. against_real: it compares with the real set.
    """

    title: str
    told: str
    measure: str
    of: Callable[[Rows, Rows, int], Estimate]
    digits: int = 3
    against_real: bool = False


def _frechet(rows: Rows, real: Rows, n: int) -> Estimate:
    """With the interval of the sampling of clips on both sides."""
    a, b = _parts(rows, n), _parts(real, n)
    return interval.jackknife(a.parts, b.parts, frechet)


def _kernel(rows: Rows, real: Rows, n: int) -> Estimate:
    return mmd_estimate(*(np.concatenate([_flat(t) for t in r.tables(n)]) for r in (rows, real)))


def _parts(rows: Rows, n: int) -> Parts:
    found: Parts | None = None
    for numbers, table in _numbered(rows, n):
        flat = _flat(table)
        if found is None:
            few = flat.shape[1] >= WIDE or n < 2 * len(Parts().parts)
            found = Parts((Moments(),) * FEW_PARTS) if few else Parts()
        found = found.update(flat, np.repeat(numbers, len(flat) // len(numbers)))
    assert found is not None, "a set has clips"
    return found


def _numbered(rows: Rows, n: int) -> Iterator[tuple[np.ndarray, Table]]:
    start = 0
    for table in rows.tables(n):
        count = len(next(iter(table.values())))
        yield np.arange(start, start + count), table
        start += count


def _flat(table: Table) -> np.ndarray:
    """Features of clips, or of all frames of clips, as rows."""
    return table["row"].reshape(-1, table["row"].shape[-1])


def _mean_of(value: Callable[[Table], np.ndarray]) -> Callable[[Rows, Rows, int], Estimate]:
    def of(rows: Rows, real: Rows, n: int) -> Estimate:
        moments = Moments()
        for table in rows.tables(n):
            moments = moments.update(np.asarray(value(table), np.float64)[:, None])
        return interval.of_mean(moments)[0]

    return of


def _inception_score(rows: Rows, real: Rows, n: int) -> Estimate:
    """The mean of ten splits; low … high is the interval of that mean."""
    state = InceptionScore.of(SPLITS)
    for numbers, table in _numbered(rows, n):
        logits = table["logits"]
        flat = logits.reshape(-1, logits.shape[-1])
        state = state.update(flat, np.repeat(numbers, len(flat) // len(numbers)))
    mean, deviation, clips = state.score
    error = deviation / (SPLITS - 1) ** 0.5
    return interval.estimate(mean, error, clips // rows_per_clip(rows), SPLITS - 1)


def rows_per_clip(rows: Rows) -> int:
    """Rows of features that a clip gives: 1, or one for each frame."""
    table = next(rows.tables(1))
    shape = next(iter(table.values())).shape
    return shape[1] if len(shape) == 3 else 1


VALUE = _mean_of(lambda table: table["value"])
METRICS: Mapping[str, Metric] = {
    "fvd": Metric("FVD", "Fréchet distance of I3D logits: lower is better", "i3d", _frechet, 1,
                  against_real=True),
    "kvd": Metric("KVD", "unbiased kernel distance of I3D logits: lower is better", "i3d", _kernel,
                  3, against_real=True),
    "cd_fvd": Metric("CD-FVD", "Fréchet distance of VideoMAE features: lower is better",
                     "videomae", _frechet, 1, against_real=True),
    "cd_kvd": Metric("CD-KVD", "unbiased kernel distance of VideoMAE features: lower is better",
                     "videomae", _kernel, 3, against_real=True),
    "fid": Metric("FID", "Fréchet distance of Inception features of frames: lower is better",
                  "inception", _frechet, 2, against_real=True),
    "is": Metric("IS", "Inception score of frames: higher is better", "inception",
                 _inception_score, 2),
    "psnr": Metric("PSNR", "dB, frame by frame beside the true clip: higher is better", "psnr",
                   VALUE, 2),
    "ssim": Metric("SSIM", "structural similarity to the true clip: higher is better", "ssim",
                   VALUE),
    "lpips": Metric("LPIPS", "perceptual distance from the true clip: lower is better", "lpips",
                    VALUE),
    "clip": Metric("CLIP", "100 x cosine of frames and caption: higher is better", "clip",
                   _mean_of(lambda t: text_similarity(t["frames"], t["text"])), 2),
    "frame_clip": Metric("frame CLIP", "cosine of adjacent frames: read it with motion", "clip",
                         _mean_of(lambda t: frame_consistency(t["frames"]))),
    "flicker": Metric("flicker", "mean change between frames, of 255: near the real clips'",
                      "flicker", VALUE, 2),
    "motion": Metric("motion", "flow, % of the shorter side a second: near the real clips'",
                     "motion", VALUE, 1),
    "warping": Metric("warping", "1000 x mean squared difference of a frame and the next, moved "
                      "back by flow: lower is better, read it with motion", "warping",
                      _mean_of(lambda t: 1000 * t["value"]), 2),
}  # fmt: skip


def known(names: Sequence[str]) -> list[Metric]:
    """Raises Refusal for a name that no metric has."""
    if wrong := [name for name in names if name not in METRICS]:
        raise Refusal(f"--protocol.metrics {wrong[0]}: there are {', '.join(METRICS)}")
    return [METRICS[name] for name in names]


def singular(metric: Metric, real: Rows, n: int) -> str:
    """What is to be said of a Fréchet distance of few clips; nothing where there are enough."""
    if metric.of is not _frechet:
        return ""
    whole = _parts(real, n).whole
    found = rank(whole)
    if found == whole.width:
        return ""
    return (
        f"{metric.title}: the covariance of {n} clips is singular, of rank {found} of "
        f"{whole.width}: its value is mostly that of few clips; compare it at the same N only"
    )
