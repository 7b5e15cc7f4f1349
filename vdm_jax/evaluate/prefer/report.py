"""What a study of preference found: a table for the terminal, and report.html."""

import io
from collections import defaultdict
from collections.abc import Sequence
from html import escape
from statistics import median
from typing import NamedTuple

import numpy as np

from vdm_jax.core import page
from vdm_jax.core.refusal import Refusal
from vdm_jax.evaluate.prefer.study import Study
from vdm_jax.evaluate.prefer.votes import CHOICES, Vote
from vdm_jax.metrics import preference
from vdm_jax.metrics.preference import Agreement, Estimate, Votes

OUTCOME = dict(zip(CHOICES, (1.0, 0.0, 0.5), strict=True))  # of the one on the left
HEAD = ("model", "votes", "wins", "losses", "ties", "win rate", "Elo")
NOTES = (
    "In brackets: 95 % intervals, which allow for several votes on the same videos. A tie is half a"
    " win of each. Elo: Bradley and Terry's strengths, 400 points for odds of 10 to 1, mean 0."
)


class Row(NamedTuple):
    """A model; score is None where the votes give none."""

    model: str
    wins: int
    losses: int
    ties: int
    rate: Estimate
    score: Estimate | None


class Result(NamedTuple):
    """What the votes on one question say. remark: what the scores are to be read with.

    left: part of the choices, but for ties, that took the left video. raters: their votes.
    """

    question: str
    rows: list[Row]
    remark: str
    left: Estimate
    agreement: Agreement | None
    raters: dict[str, int]
    seconds: float


def check(study: Study, votes: Sequence[Vote]) -> None:
    """Refuse votes on what the study does not ask."""
    for vote in votes:
        known = study.videos.get(vote.name, {})
        if vote.question not in study.questions or not {vote.left, vote.right} <= known.keys():
            raise Refusal(
                f"a vote of {vote.rater}, {vote.time}, is of another study: {vote.question}"
                f" {vote.name} of {vote.left} and {vote.right}"
            )


def results(study: Study, votes: Sequence[Vote]) -> list[Result]:
    """Of each question that was answered; votes: those that stand."""
    each = [[vote for vote in votes if vote.question == asked] for asked in study.questions]
    return [_result(study, some) for some in each if some]


def said(found: Sequence[Result]) -> list[str]:
    """Lines for the terminal."""
    lines = []
    for result in found:
        rows = _table(result)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += [result.question]
        lines += [
            "  " + "  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        lines += [f"  {result.remark}"] if result.remark else []
        lines += [f"  {name}: {value}" for name, value in _about(result).items()]
    return lines


def html(study: Study, found: Sequence[Result], name: str) -> str:
    """The page."""
    raters = {rater for result in found for rater in result.raters}
    facts = {
        "votes": f"{sum(sum(result.raters.values()) for result in found):,}",
        "raters": f"{len(raters)}",
        "models": ", ".join(study.models),
    }
    sections = [page.section(result.question, _section(result)) for result in found]
    title = f"Preference: {name}"
    notes = f"<p class=credit>{NOTES}</p>"
    return page.page(title, [page.heading(title), page.facts(facts), *sections, notes])


def _result(study: Study, votes: Sequence[Vote]) -> Result:
    numbers = {model: i for i, model in enumerate(study.models)}
    names = {name: i for i, name in enumerate(study.videos)}
    told = Votes(
        np.array([numbers[vote.left] for vote in votes]),
        np.array([numbers[vote.right] for vote in votes]),
        np.array([OUTCOME[vote.choice] for vote in votes]),
        np.array([names[vote.name] for vote in votes]),
    )
    scores, remark = _scores(told, study.models)
    decided = told.outcome != OUTCOME["tie"]
    raters: dict[str, int] = defaultdict(int)
    things: dict[tuple[object, ...], list[str]] = defaultdict(list)
    for vote in votes:
        raters[vote.rater] += 1
        things[vote.name, frozenset((vote.left, vote.right))].append(_preferred(vote))
    return Result(
        votes[0].question,
        [_row(told, i, model, scores[i]) for i, model in enumerate(study.models)],
        remark,
        preference.proportion(told.outcome[decided], told.subject[decided]),
        preference.agreement(things.values()),
        dict(raters),
        median(vote.milliseconds for vote in votes) / 1000,
    )


def _scores(votes: Votes, models: Sequence[str]) -> tuple[Sequence[Estimate | None], str]:
    try:
        found = preference.strengths(votes, models)
    except Refusal as refusal:
        return [None] * len(models), f"no Elo scores: {refusal}"
    if not found.prior:
        return found.scores, ""
    return found.scores, (
        "the votes alone set no bound to these scores, as some models never lost to others, or"
        " never won: each model was given one virtual win and one loss against an average one"
    )


def _row(votes: Votes, number: int, model: str, score: Estimate | None) -> Row:
    mine = np.where(votes.first == number, votes.outcome, 1 - votes.outcome)
    mine = mine[(votes.first == number) | (votes.second == number)]
    wins, ties, losses = (int(np.sum(mine == value)) for value in (1, 0.5, 0))
    return Row(model, wins, losses, ties, preference.win_rate(votes, number), score)


def _preferred(vote: Vote) -> str:
    """The model, or a tie."""
    return {"left": f"={vote.left}", "right": f"={vote.right}"}.get(vote.choice, vote.choice)


def _table(result: Result) -> list[tuple[str, ...]]:
    ranked = sorted(result.rows, key=lambda row: -np.nan_to_num(row.rate.value, nan=-1.0))
    if all(row.score is not None for row in result.rows):
        ranked = sorted(result.rows, key=lambda row: -row.score.value if row.score else 0.0)
    return [HEAD, *map(_cells, ranked)]


def _cells(row: Row) -> tuple[str, ...]:
    counts = (row.wins + row.losses + row.ties, row.wins, row.losses, row.ties)
    score = "–"
    if row.score is not None:
        score = "{:+.0f} ({:+.0f} to {:+.0f})".format(*row.score)
    return row.model, *map(str, counts), _percent(row.rate), score


def _percent(rate: Estimate) -> str:
    if np.isnan(rate.value):
        return "–"
    return f"{rate.value:.1%} ({rate.low:.1%} to {rate.high:.1%})"


def _about(result: Result) -> dict[str, str]:
    raters = ", ".join(f"{name} {count}" for name, count in sorted(result.raters.items()))
    facts = {
        "votes": f"{sum(result.raters.values())}, by rater: {raters}",
        "left chosen, ties apart": _percent(result.left),
        "median time": f"{result.seconds:.1f} s",
    }
    alike = result.agreement
    if alike is not None:
        alpha = "" if np.isnan(alike.alpha) else f", Krippendorff's alpha {alike.alpha:.2f}"
        facts["raters agree"] = f"{alike.same:.1%} over {alike.things} shared pairs{alpha}"
    return facts


def _section(result: Result) -> str:
    parts = [
        page.figure(_plot(result), ".png", "Elo score and win rate with their 95 % intervals"),
        _ranking(result),
        f"<p>{escape(result.remark)}</p>" if result.remark else "",
        page.table(_about(result).items()),
    ]
    return "".join(parts)


def _ranking(result: Result) -> str:
    """The table, its columns as wide as their content."""
    rows = [
        f'<tr><th style="width:auto">{escape(model)}</th>'
        + "".join(f'<td style="white-space:nowrap">{escape(cell)}</td>' for cell in cells)
        + "</tr>"
        for model, *cells in _table(result)
    ]
    table = f'<table style="margin-bottom:1.25rem">{"".join(rows)}</table>'
    return f'<div style="overflow-x:auto">{table}</div>'


def _plot(result: Result) -> bytes:
    """Each model's Elo and win rate as a dot in its interval, the best on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    order = [cells[0] for cells in _table(result)[1:]]
    rows = sorted(result.rows, key=lambda row: -order.index(row.model))
    figure = Figure(figsize=(9, 1.1 + 0.45 * len(rows)), dpi=110, layout="constrained")
    shown = {"Elo": [row.score for row in rows], "win rate, %": [_hundred(row) for row in rows]}
    for number, (title, estimates) in enumerate(shown.items()):
        axes = figure.add_subplot(1, 2, number + 1)
        for place, estimate in enumerate(estimates):
            if estimate is not None:
                axes.plot((estimate.low, estimate.high), (place, place), color="#93c5fd", lw=5)
                axes.plot(estimate.value, place, "o", color="#2563eb")
        axes.axvline((0, 50)[number], color="#a1a1aa", lw=1, ls=":")
        axes.set_yticks(range(len(rows)), [row.model[:30] for row in rows] if not number else [])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_title(title, fontsize=10, loc="left")
        axes.tick_params(labelsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _hundred(row: Row) -> Estimate | None:
    return None if np.isnan(row.rate.value) else Estimate(*(100 * value for value in row.rate))
