"""What a run leaves for people: loss.png and report.html, one file that needs nothing else.

Works on plain values and knows no model; everything shown is escaped, nothing is fetched.
"""

import base64
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from vdm_jax.core.refusal import Refusal
from vdm_jax.train.log import Record

MEDIA = {
    ".webp": "image/webp",
    ".png": "image/png",
    ".gif": "image/gif",
    ".jpg": "image/jpeg",
    ".mp4": "video/mp4",
}
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
            f"<h1>{escape(self.name)}</h1>",
            _facts(self.facts),
            _section("Scores", f"<pre>{escape(self.scores)}</pre>" if self.scores else ""),
            _samples(self.samples, self.credit),
            _section("Loss", self._losses()),
            _section("What happened", _events(self.events)),
            _section("Commands", "".join(map(_command, self.commands.items()))),
            _section("Configuration", _folded("All settings", _table(flatten(self.config)))),
            _section("Environment", _table(self.versions.items())),
        ]
        body = "\n".join(part for part in parts if part)
        return _PAGE.format(title=escape(self.name), style=_STYLE, body=body)

    def write(self, path: str | os.PathLike) -> None:
        """Write it whole or not at all."""
        _replace(Path(path), self.html().encode())

    def _losses(self) -> str:
        if not len(curve(self.records, "loss").step):
            return ""
        light, dark = (
            _data(loss_picture(self.records, "", palette), ".png") for palette in (LIGHT, DARK)
        )
        return (
            f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
            f'<img src="{light}" alt="loss over steps"></picture>'
        )


def write_loss_picture(path: str | os.PathLike, records: Sequence[Record], title: str) -> None:
    """loss.png of a run directory."""
    _replace(Path(path), loss_picture(records, title))


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


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as fault:
        raise Refusal(f"cannot write {path}: {fault.strerror}") from fault


def _data(content: bytes, suffix: str) -> str:
    return f"data:{MEDIA[suffix]};base64,{base64.b64encode(content).decode()}"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>\n{content}</section>" if content else ""


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>" if content else ""


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    return f"<dl>{rows}</dl>" if rows else ""


def _command(command: tuple[str, str]) -> str:
    purpose, line = command
    return f"<p>{escape(purpose)}</p><pre class=command>{escape(line)}</pre>"


def _events(lines: Sequence[str]) -> str:
    return f"<pre class=events>{escape(chr(10).join(lines))}</pre>" if lines else ""


def _table(rows: Any) -> str:
    cells = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in rows)
    return f"<table>{cells}</table>" if cells else ""


def _samples(samples: Mapping[int, Path], credit: str) -> str:
    if not samples:
        return ""
    *earlier, last = sorted(samples)
    spread = np.linspace(0, len(earlier) - 1, min(EARLIER, len(earlier))).round().astype(int)
    figures = [_figure(earlier[i], samples[earlier[i]]) for i in spread]
    content = _figure(last, samples[last])
    if figures:
        content += _folded("Earlier samples", "".join(figures))
    if credit:
        content += f"<p class=credit>{escape(credit)}</p>"
    return _section("Samples", content)


def _figure(step: int, path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in MEDIA:
        raise Refusal(f"{path}: a report shows {', '.join(MEDIA)}")
    source = _data(path.read_bytes(), suffix)
    show = f'<img src="{source}" alt="samples of step {step}">'
    if suffix == ".mp4":
        show = f'<video src="{source}" autoplay loop muted playsinline></video>'
    return f"<figure>{show}<figcaption>step {step}</figcaption></figure>"


_STYLE = """
:root { color-scheme: light dark; --ground: #fafafa; --card: #fff; --ink: #18181b;
        --soft: #63636b; --line: #e4e4e7; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #0f0f11; --card: #18181b; --ink: #ececf0; --soft: #a1a1aa; --line: #303036; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2.5rem 1.25rem 4rem; background: var(--ground);
       color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 0 0 .75rem; }
section { margin-top: 1.25rem; padding: 1.1rem 1.25rem; background: var(--card);
          border: 1px solid var(--line); border-radius: 10px; }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2.25rem; margin: 0; }
dt, figcaption, .credit { color: var(--soft); font-size: .85rem; }
dd { margin: 0; font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums; }
pre { margin: .25rem 0 .75rem; padding: .75rem .9rem; overflow-x: auto; border-radius: 7px;
      background: var(--ground); border: 1px solid var(--line);
      font: 13px/1.5 ui-monospace, monospace; }
.events { max-height: 24rem; overflow-y: auto; }
.command { white-space: pre-wrap; overflow-wrap: anywhere; }
p { margin: .5rem 0; }
img, video { display: block; max-width: 100%; height: auto; border-radius: 7px; }
figure { margin: 0 0 1rem; }
summary { cursor: pointer; margin-bottom: .75rem; }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .75rem .3rem 0; border-top: 1px solid var(--line); text-align: left;
         vertical-align: top; overflow-wrap: anywhere; }
th { font-weight: 400; color: var(--soft); width: 40%; }
tr:first-child > * { border-top: 0; }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body>
{body}
</body>
</html>
"""
