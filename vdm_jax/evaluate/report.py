"""The result for people: a table in the terminal, and a page with the clips side by side."""

import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from vdm_jax.core import gallery, page, video
from vdm_jax.evaluate.evaluation import Result, Row
from vdm_jax.evaluate.plan import LEAST, Plan
from vdm_jax.evaluate.protocol import TAKING
from vdm_jax.evaluate.sets import ClipSet
from vdm_jax.metrics.interval import LEVEL, Estimate

SHOWN = 6  # clips of each set on the page
COLOURS = {"fake": "#2563eb", "real": "#16a34a"}


def head(name: str, plan: Plan, changed: Sequence[str]) -> list[str]:
    """What is compared, a line for each fact."""
    facts = plan.protocol.recipe([plan.real.about(i).fps for i in range(len(plan.real))])
    facts["real clips"] = "; ".join(plan.notes) or TAKING[plan.protocol.taking]
    recipe = ", ".join(f"{key}: {value}" for key, value in facts.items())
    lines = [
        f"protocol {name}, N = {plan.protocol.num_clips} clips on each side; {recipe}",
        f"real clips: {plan.real.source}",
    ]
    if plan.protocol.repeats > 1:
        lines.append(f"{plan.protocol.repeats} runs, each with another seed")
    if changed:
        lines.append(f"not as the protocol {name} says: {'; '.join(changed)}")
    return lines


def lines(result: Result) -> list[str]:
    """The table, then what must be known beside it."""
    rows = table(result)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:],
                                                                        strict=True))])
        for row in rows
    ]  # fmt: skip
    rule = "-" * len(text[0])
    return ["", text[0], rule, *text[1:], rule, *legend(result)]


def table(result: Result) -> list[list[str]]:
    titles = [metric.title for metric in result.metrics.values()]
    return [["", "N", *titles], *(_cells(result, row) for row in result.rows)]


def _cells(result: Result, row: Row) -> list[str]:
    told = [
        "-" if row.estimates[name] is None else _told(row.estimates[name], metric.digits)
        for name, metric in result.metrics.items()
    ]
    runs = f" x {row.runs}" if row.runs > 1 else ""
    return [row.title, f"{row.n}{runs}", *told]


def _told(estimate: Estimate | None, digits: int) -> str:
    assert estimate is not None
    half = (estimate.high - estimate.low) / 2
    return f"{estimate.value:.{digits}f} ± {half:.{digits}f}"


def legend(result: Result) -> list[str]:
    """How the numbers are to be read."""
    plan = result.plan
    told = [f"{m.title}: {m.told}" for m in result.metrics.values()]
    told.append(
        f"±: {LEVEL:.0%} interval, of which videos were taken; compare values of equal N only"
    )
    if any(row.runs > 1 for row in result.rows):
        told.append("x 10 and the like: the mean of so many runs, and the interval of that mean")
    if plan.models:
        told.append(
            "a model is given captions or first frames of the real clips themselves, other real "
            "clips are not: it may come nearer than those"
        )
    if LEAST <= plan.fair < len(plan.real):
        told.append(
            f"there are too few real clips to compare {len(plan.real)} with as many of other "
            f"videos: {plan.other.title} are {plan.fair} beside {plan.fair}; compare lines of that "
            f"N, or all by --protocol.num-clips {plan.fair}"
        )
    return [*told, *result.notes]


def html(name: str, heading: Sequence[str], result: Result) -> str:
    """The whole page; the clips of each set beside the real ones."""
    plan = result.plan
    facts = {
        "protocol": name,
        "clips on each side": str(plan.protocol.num_clips),
        "frames": str(plan.protocol.num_frames),
        "size": f"{plan.protocol.width}x{plan.protocol.height}",
    }
    parts = [
        page.heading(f"Evaluation: {', '.join(plan.fakes)}"),
        page.facts(facts),
        page.section("Scores", _scores(result)),
        page.section("With intervals", _plot(result)),
        page.section("How to read them", _list(legend(result))),
        page.section("Clips", _clips(plan)),
        page.section("What was compared", _list(heading)),
        f"<p class=credit>{escape(plan.credit)}</p>" if plan.credit else "",
    ]
    return page.page(f"Evaluation: {name}", parts)


def _list(texts: Sequence[str]) -> str:
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def _scores(result: Result) -> str:
    first, *rest = table(result)
    style = ' style="white-space:nowrap;text-align:right"'
    head = "".join(f"<td{style}><b>{escape(title)}</b></td>" for title in first[1:])
    body = "".join(
        f'<tr><th style="white-space:nowrap">{escape(row[0])}</th>'
        + "".join(f"<td{style}>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rest
    )
    return f'<div style="overflow-x:auto"><table><tr><th></th>{head}</tr>{body}</table></div>'


def _plot(result: Result) -> str:
    """Of each metric, the sets below each other with their intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = list(reversed(result.rows)), min(3, len(result.metrics))
    deep = math.ceil(len(result.metrics) / columns)
    figure = Figure(figsize=(9, deep * (0.7 + 0.3 * len(rows))), dpi=110, layout="constrained")
    for number, (name, metric) in enumerate(result.metrics.items()):
        axes = figure.add_subplot(deep, columns, number + 1)
        for place, row in enumerate(rows):
            estimate = row.estimates[name]
            if estimate is None:
                continue
            real = row.title in (result.plan.other.title, result.plan.real.title)
            colour = COLOURS["real" if real else "fake"]
            axes.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=2)
            axes.plot(estimate.value, place, "o", color=colour, markersize=5)
        axes.set_title(metric.title, fontsize=10, loc="left")
        labels = [f"{row.title}, N {row.n}" if number % columns == 0 else "" for row in rows]
        axes.set_yticks(range(len(rows)), labels, fontsize=8)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return page.figure(png.getvalue(), ".png", "values with their intervals; green: real clips")


def _clips(plan: Plan) -> str:
    """Some clips of each set, playing; rows are numbers, columns sets."""
    chosen = np.linspace(0, len(plan.real) - 1, min(SHOWN, len(plan.real))).round().astype(int)
    columns: Mapping[str, ClipSet] = {
        "real": plan.real,
        **{title: several[0] for title, several in plan.fakes.items()},
    }
    shown = {title: np.stack([clips[int(i)] for i in chosen]) for title, clips in columns.items()}
    labels = [plan.real.about(int(i)).caption or f"clip {i}" for i in chosen]
    pictures = gallery.compare(shown, labels)
    fps = plan.real.about(0).fps
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "clips.webp"
        video.write(path, pictures, fps)
        return page.figure(path.read_bytes(), ".webp", "the same clips of each set")
