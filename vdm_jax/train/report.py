"""What a run leaves for people: loss.png and report.html, one file that needs nothing else.

Works on plain values and knows no model.
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from vdm_jax.core import page
from vdm_jax.core.refusal import Refusal
from vdm_jax.train.log import Record

EARLIER = 6  # sample grids shown besides the last one, spread over the run


class Palette(NamedTuple):
    """Colours of a drawing: ground, text, grid lines, training loss, held-out loss."""

    ground: str
    ink: str
    line: str
    train: str
    held_out: str


LIGHT = Palette("#ffffff", "#27272a", "#e4e4e7", "#2563eb", "#ea580c")
DARK = Palette("#18181b", "#d4d4d8", "#3f3f46", "#60a5fa", "#fb923c")


class Curve(NamedTuple):
    """One series over steps."""

    step: Int[np.ndarray, " n"]
    value: Float64[np.ndarray, " n"]


def curve(records: Sequence[Record], name: str) -> Curve:
    """The finite values of one scalar; records without it are passed over."""
    points = [(r["step"], r[name]) for r in records if isinstance(r.get(name), int | float)]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return Curve(np.array(steps, int), np.array(values, np.float64))


def smooth(values: Float64[np.ndarray, " n"], width: float) -> Float64[np.ndarray, " n"]:
    """Mean under a bell of `width` values on each side (standard deviation); no lag, no bias."""
    reach = min(int(3 * width), len(values) // 2)
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(width, 1e-6)) ** 2)
    weight = np.convolve(np.ones_like(values), bell, mode="same")
    return np.convolve(values, bell, mode="same") / weight


def loss_picture(
    records: Sequence[Record], title: str, palette: Palette = LIGHT, unit: str = "loss"
) -> bytes:
    """PNG of `loss` (as measured, and smoothed) and `held_out_loss` (points) over steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(8, 4), dpi=130, layout="constrained", facecolor=palette.ground)
    axes = figure.add_subplot(facecolor=palette.ground)
    train, held_out = curve(records, "loss"), curve(records, "held_out_loss")
    calm = smooth(train.value, len(train.value) / 60) if len(train.value) else train.value
    axes.plot(*train, color=palette.train, alpha=0.25, linewidth=0.8)
    axes.plot(train.step, calm, color=palette.train, linewidth=1.8, label="training, smoothed")
    if len(held_out.step):
        axes.plot(*held_out, "o-", color=palette.held_out, markersize=4, label="held out")
    shown = np.concatenate([train.value, held_out.value])
    if len(shown) and shown.min() > 0 and shown.max() > 5 * shown.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("step", color=palette.ink)
    axes.set_ylabel(unit, color=palette.ink)
    axes.set_title(title, color=palette.ink, loc="left", fontsize=11)
    axes.grid(color=palette.line, linewidth=0.7)
    axes.tick_params(colors=palette.ink)
    axes.spines[:].set_visible(False)
    axes.legend(frameon=False, labelcolor=palette.ink)
    FigureCanvasAgg(figure)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


@dataclass(frozen=True, kw_only=True)
class Report:
    """The contents of report.html. All but the name may be left out.

    facts: a few short values for the top ("steps", "training time"). scores: a text table.
    samples: grids by step, files of MEDIA kinds. events: what was said on the way. commands: what
    each does, and the command. config: as nested dicts. credit: whose data is shown.
    """

    name: str
    facts: Mapping[str, str] = field(default_factory=dict)
    scores: str = ""
    records: Sequence[Record] = ()
    samples: Mapping[int, Path] = field(default_factory=dict)
    events: Sequence[str] = ()
    commands: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    credit: str = ""

    def html(self) -> str:
        parts = [
            page.heading(self.name),
            page.facts(self.facts),
            page.section("Scores", page.verbatim(self.scores)),
            _samples(self.samples, self.credit),
            page.section("Loss", self._losses()),
            page.section("What happened", page.verbatim("\n".join(self.events), "events")),
            page.section("Commands", "".join(map(_command, self.commands.items()))),
            page.section(
                "Configuration", page.folded("All settings", page.table(flatten(self.config)))
            ),
            page.section("Environment", page.table(self.versions.items())),
        ]
        return page.page(self.name, parts)

    def write(self, path: str | os.PathLike) -> None:
        """Write it whole or not at all."""
        page.replace(Path(path), self.html().encode())

    def _losses(self) -> str:
        if not len(curve(self.records, "loss").step):
            return ""
        light, dark = (
            page.data(loss_picture(self.records, "", palette), ".png") for palette in (LIGHT, DARK)
        )
        return (
            f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
            f'<img src="{light}" alt="loss over steps"></picture>'
        )


def write_loss_picture(path: str | os.PathLike, records: Sequence[Record], title: str) -> None:
    """loss.png of a run directory."""
    page.replace(Path(path), loss_picture(records, title))


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested dicts as ("optim.learning_rate", "0.0003") pairs; names beginning with _ left out."""
    for name, value in config.items():
        if name.startswith("_"):
            continue
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            if any(isinstance(item, Mapping) for item in value):
                yield from flatten(
                    {str(i): item for i, item in enumerate(value)}, f"{prefix}{name}."
                )
            else:
                yield prefix + name, ", ".join(map(str, value)) or "none"
        else:
            yield prefix + name, "none" if value is None else str(value)


def _command(command: tuple[str, str]) -> str:
    purpose, line = command
    return f"<p>{escape(purpose)}</p>{page.verbatim(line, 'command')}"


def _samples(samples: Mapping[int, Path], credit: str) -> str:
    if not samples:
        return ""
    *earlier, last = sorted(samples)
    spread = np.linspace(0, len(earlier) - 1, min(EARLIER, len(earlier))).round().astype(int)
    figures = [_figure(earlier[i], samples[earlier[i]]) for i in spread]
    content = _figure(last, samples[last])
    if figures:
        content += page.folded("Earlier samples", "".join(figures))
    if credit:
        content += f"<p class=credit>{escape(credit)}</p>"
    return page.section("Samples", content)


def _figure(step: int, path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in page.MEDIA:
        raise Refusal(f"{path}: a report shows {', '.join(page.MEDIA)}")
    return page.figure(path.read_bytes(), suffix, f"samples of step {step}")
