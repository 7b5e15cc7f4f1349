"""From rows to numbers: what each metric is, how it is computed, and how far it can be trusted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from vdm_jax.core.refusal import Refusal
from vdm_jax.evaluate.rows import Rows, Table
from vdm_jax.evaluate.sets import video_of
from vdm_jax.metrics import interval
from vdm_jax.metrics.clip import frame_consistency, text_similarity
from vdm_jax.metrics.frechet import frechet, rank
from vdm_jax.metrics.inception_score import SPLITS, InceptionScore
from vdm_jax.metrics.interval import Estimate
from vdm_jax.metrics.kernel import mmd_estimate
from vdm_jax.metrics.moments import GROUPS, Moments, Parts

WIDE = 1024  # features from which on fewer parts are left out in turn, each taking minutes
FEW_PARTS = 5
FEW_VIDEOS = 4  # with fewer, intervals take the clips of a video as independent


@dataclass(frozen=True)
class Metric:
    """measure: what its rows come from. told: what it says. of: the rows of a set and of the real
    one, as far as the first n clips, to an estimate; None where they are too few for it.

    digits: after the point, where it is printed. against_real: it compares with the real set.
    paired: it compares clip by clip. captions: it reads them.
    """

    title: str
    told: str
    measure: str
    of: Callable[[Rows, Rows, int], Estimate | None]
    digits: int = 3
    against_real: bool = False
    paired: bool = False
    captions: bool = False


def parts_of(rows: Rows, n: int) -> Int64[np.ndarray, " n"]:
    """The part that each clip is left out with, for intervals: clips of one video are in one."""
    return _dealt(tuple(video_of(rows.clips.about(i)) for i in range(n)))


@lru_cache(maxsize=16)
def _dealt(videos: tuple[str, ...]) -> Int64[np.ndarray, " n"]:
    names = {video: number for number, video in enumerate(dict.fromkeys(videos))}
    if len(names) < FEW_VIDEOS:
        return np.arange(len(videos)) % GROUPS
    return np.array([names[video] for video in videos]) % GROUPS


def _frechet(rows: Rows, real: Rows, n: int) -> Estimate:
    """With the interval of the sampling of clips on both sides."""
    return interval.jackknife(_moments(rows, n).parts, _moments(real, n).parts, frechet)


def _kernel(rows: Rows, real: Rows, n: int) -> Estimate:
    a, b = (np.concatenate([_flat(table) for table in each.tables(n)]) for each in (rows, real))
    return mmd_estimate(a, b, (parts_of(rows, n), parts_of(real, n)))


@lru_cache(maxsize=4)
def _moments(rows: Rows, n: int) -> Parts:
    found: Parts | None = None
    numbers = parts_of(rows, n)
    for chunk, table in rows.numbered(n):
        flat = _flat(table)
        if found is None:
            found = Parts((Moments(),) * FEW_PARTS) if flat.shape[1] >= WIDE else Parts()
        found = found.update(flat, np.repeat(numbers[chunk], len(flat) // len(chunk)))
    assert found is not None, "a set has clips"
    return found


def _flat(table: Table) -> np.ndarray:
    """Features of clips, or of all frames of clips, as rows."""
    return table["row"].reshape(-1, table["row"].shape[-1])


def _mean_of(value: Callable[[Table], np.ndarray]) -> Callable[[Rows, Rows, int], Estimate]:
    def of(rows: Rows, real: Rows, n: int) -> Estimate:
        found, numbers = Parts(), parts_of(rows, n)
        for chunk, table in rows.numbered(n):
            column = np.asarray(value(table), np.float64)[:, None]
            found = found.update(column, numbers[chunk])
        return interval.jackknife(found.parts, (Moments(),), lambda a, _: float(a.mean[0]))

    return of


def _inception_score(rows: Rows, real: Rows, n: int) -> Estimate | None:
    """The mean of ten splits; low … high is the interval of that mean."""
    if n < SPLITS:
        return None
    state = InceptionScore.of(SPLITS)
    for chunk, table in rows.numbered(n):
        logits = table["logits"]
        flat = logits.reshape(-1, logits.shape[-1])
        state = state.update(flat, np.repeat(np.array(chunk), len(flat) // len(chunk)))
    mean, deviation, _ = state.score
    return interval.estimate(mean, deviation / (SPLITS - 1) ** 0.5, n, SPLITS - 1)


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
                   VALUE, 2, paired=True),
    "ssim": Metric("SSIM", "structural similarity to the true clip: higher is better", "ssim",
                   VALUE, paired=True),
    "lpips": Metric("LPIPS", "perceptual distance from the true clip: lower is better", "lpips",
                    VALUE, paired=True),
    "clip": Metric("CLIP", "100 x cosine of frames and caption: higher is better", "clip",
                   _mean_of(lambda t: text_similarity(t["frames"], t["text"])), 2, captions=True),
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
    whole = _moments(real, n).whole
    found = rank(whole)
    if found == whole.width:
        return ""
    return (
        f"{metric.title}: the covariance of {n} clips is singular, of rank {found} of "
        f"{whole.width}: its value is mostly that of few clips; compare it at the same N only"
    )
