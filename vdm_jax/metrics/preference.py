"""Strengths of models from choices between two: Bradley and Terry (1952), on the scale of Elo.

P(i is preferred to j) = 1 / (1 + 10^((s_j - s_i) / 400)), the model of the preference studies of
Stable Video Diffusion (arXiv:2311.15127, appendix E). A tie counts as half a win of each, so that
a score says the same as a win rate. 95 % intervals take the larger of two variances: the inverse of
the observed Fisher information, and the sandwich estimate (Liang and Zeger 1986) over what was
compared, since several people's votes on the same videos are not independent. Many ties make them
somewhat too wide; fewer than thirty things, each judged by several, somewhat too narrow (92 % at
20 things and 3 people, simulated).
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int

from vdm_jax.core.refusal import Refusal

ELO = 400 / np.log(10)  # points of a natural unit of log odds
Z = 1.959963984540054  # 97.5 % of a normal distribution lie below
STEPS, PRECISION = 100, 1e-10  # of Newton's method


class Votes(NamedTuple):
    """n choices between the models of numbers `first` and `second`.

    outcome: 1 where the first was preferred, 0 the second, 1/2 neither. subject: the number of what
    was compared (a prompt): votes on different ones are independent.
    """

    first: Int[np.ndarray, " n"]
    second: Int[np.ndarray, " n"]
    outcome: Float64[np.ndarray, " n"]
    subject: Int[np.ndarray, " n"]


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


class Strengths(NamedTuple):
    """Elo scores, of mean 0. prior: virtual wins and losses that each model was given."""

    scores: list[Estimate]
    prior: float


class Agreement(NamedTuple):
    """How alike several people chose.

    same: share of pairs of choices on one thing that are the same. alpha: Krippendorff's (1970),
    1 where all agree, 0 as by chance; NaN where every choice of all was the same. things: those
    that two or more judged.
    """

    same: float
    alpha: float
    things: int


def strengths(votes: Votes, models: Sequence[str]) -> Strengths:
    """The maximum of the likelihood, by Newton's method.

    It exists if, in every split of the models into two groups, each group won something from the
    other (Ford 1957). Otherwise, as where a model never lost, every model gets one virtual win and
    one loss against an average one: finite, and told by `prior`.
    Raises Refusal where the votes do not link all models, naming the groups.
    """
    won = _won(votes, len(models))
    _check_linked(won, models)
    prior = 0.0 if _reached(won > 0).all() else 1.0
    centred = np.eye(len(models)) - 1 / len(models)
    basis = centred[:, :-1]  # of the scores whose mean is 0
    design = basis[votes.first] - basis[votes.second]
    free = np.zeros(len(models) - 1)
    for _ in range(STEPS):
        gradient, information = _slopes(free, design, basis, votes.outcome, prior)
        step = np.linalg.solve(information, gradient)
        size, before = 1.0, _likelihood(free, design, basis, votes.outcome, prior)
        while _likelihood(free + size * step, design, basis, votes.outcome, prior) < before - 1e-9:
            size /= 2
        free = free + size * step
        if np.abs(step).max() < PRECISION:
            break
    covariance = np.linalg.inv(_slopes(free, design, basis, votes.outcome, prior)[1])
    residuals = design * (votes.outcome - _logistic(design @ free))[:, None]
    robust = covariance @ _scatter(residuals, votes.subject) @ covariance
    scores = basis @ free
    spread = np.sqrt(np.maximum(_of_each(basis, covariance), _of_each(basis, robust)))
    return Strengths([_around(s, Z * d) for s, d in zip(scores, spread, strict=True)], prior)


def win_rate(votes: Votes, model: int) -> Estimate:
    """Part of a model's votes that it won, ties by half; NaN without votes."""
    mine = (votes.first == model) | (votes.second == model)
    won = np.where(votes.first == model, votes.outcome, 1 - votes.outcome)
    return proportion(won[mine], votes.subject[mine])


def proportion(hits: Float64[np.ndarray, " n"], subject: Int[np.ndarray, " n"]) -> Estimate:
    """The mean of values in [0, 1] and the interval of Wilson (1927); NaN of none.

    The number of votes in it is the effective one (Kish 1965): fewer where votes on one subject
    agree more than those on different ones.
    """
    if not len(hits):
        return Estimate(np.nan, np.nan, np.nan)
    mean, votes, subjects = hits.mean(), len(hits), len(np.unique(subject))
    if mean in (0, 1):
        effective = subjects
    else:
        scatter = _scatter((hits - mean)[:, None], subject).item()
        effective = votes / max(1.0, scatter / (votes * mean * (1 - mean)))
    middle = (mean + Z**2 / (2 * effective)) / (1 + Z**2 / effective)
    half = Z * np.sqrt(mean * (1 - mean) / effective + (Z / (2 * effective)) ** 2)
    half /= 1 + Z**2 / effective
    return Estimate(float(mean), float(middle - half), float(middle + half))


def agreement(things: Iterable[Sequence[Hashable]]) -> Agreement | None:
    """How alike the choices of different people on each thing are; None if no thing has two."""
    shared = [list(choices) for choices in things if len(choices) > 1]
    if not shared:
        return None
    counts = [Counter(choices) for choices in shared]
    alike = [sum(n * (n - 1) for n in count.values()) for count in counts]
    pairs = sum(len(choices) * (len(choices) - 1) for choices in shared)
    whole = sum(map(len, shared))
    observed = sum(a / (len(c) - 1) for a, c in zip(alike, shared, strict=True)) / whole
    total = sum(counts, Counter())
    chance = sum(n * (n - 1) for n in total.values()) / (whole * (whole - 1))
    alpha = np.nan if chance == 1 else (observed - chance) / (1 - chance)
    return Agreement(sum(alike) / pairs, alpha, len(shared))


def _won(votes: Votes, models: int) -> Float64[np.ndarray, "m m"]:
    """[i, j]: how often i was preferred to j."""
    won = np.zeros((models, models))
    np.add.at(won, (votes.first, votes.second), votes.outcome)
    np.add.at(won, (votes.second, votes.first), 1 - votes.outcome)
    return won


def _check_linked(won: Float64[np.ndarray, "m m"], models: Sequence[str]) -> None:
    if len(models) < 2:
        raise Refusal(f"a comparison needs two models, got {', '.join(models) or 'none'}")
    linked = _reached((won + won.T) > 0)
    groups = {tuple(np.flatnonzero(row).tolist()) for row in linked}
    if len(groups) > 1:
        said = "; ".join(", ".join(models[i] for i in group) for group in sorted(groups))
        raise Refusal(f"no vote compares these groups of models with each other: {said}")


def _reached(edges: Bool[np.ndarray, "m m"]) -> Bool[np.ndarray, "m m"]:
    """[i, j]: whether a path leads from i to j."""
    reached = edges | np.eye(len(edges), dtype=bool)
    for middle in range(len(edges)):
        reached = reached | (reached[:, middle, None] & reached[None, middle])
    return reached


def _logistic(odds: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    return np.exp(-np.logaddexp(0, -odds))


def _likelihood(
    free: Float64[np.ndarray, " f"],
    design: Float64[np.ndarray, "n f"],
    basis: Float64[np.ndarray, "m f"],
    outcome: Float64[np.ndarray, " n"],
    prior: float,
) -> float:
    odds, scores = design @ free, basis @ free
    lost = outcome @ np.logaddexp(0, -odds) + (1 - outcome) @ np.logaddexp(0, odds)
    return -lost - prior * (np.logaddexp(0, -scores) + np.logaddexp(0, scores)).sum()


def _slopes(
    free: Float64[np.ndarray, " f"],
    design: Float64[np.ndarray, "n f"],
    basis: Float64[np.ndarray, "m f"],
    outcome: Float64[np.ndarray, " n"],
    prior: float,
) -> tuple[Float64[np.ndarray, " f"], Float64[np.ndarray, "f f"]]:
    """Gradient of the log likelihood, and its negative second derivative."""
    chance, versus_average = _logistic(design @ free), _logistic(basis @ free)
    gradient = design.T @ (outcome - chance) + prior * basis.T @ (1 - 2 * versus_average)
    known = design.T @ (design * (chance * (1 - chance))[:, None])
    believed = 2 * prior * versus_average * (1 - versus_average)
    return gradient, known + basis.T @ (basis * believed[:, None])


def _scatter(
    residuals: Float64[np.ndarray, "n f"], subject: Int[np.ndarray, " n"]
) -> Float64[np.ndarray, "f f"]:
    """Sum over subjects of the outer product of their summed residuals."""
    names, place = np.unique(subject, return_inverse=True)
    sums = np.zeros((len(names), residuals.shape[1]))
    np.add.at(sums, place, residuals)
    return sums.T @ sums


def _of_each(
    basis: Float64[np.ndarray, "m f"], covariance: Float64[np.ndarray, "f f"]
) -> Float64[np.ndarray, " m"]:
    """Variance of each model's score."""
    return np.einsum("mf,fg,mg->m", basis, covariance, basis)


def _around(odds: float, half: float) -> Estimate:
    """In points of Elo."""
    return Estimate(float(ELO * odds), float(ELO * (odds - half)), float(ELO * (odds + half)))
