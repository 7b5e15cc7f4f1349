"""report.html of a curation: the funnel, what was kept and rejected, and how the scores lie."""

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from vdm_jax.core import gallery, page
from vdm_jax.curate.config import CurateConfig
from vdm_jax.curate.output import middles
from vdm_jax.curate.rules import COPY, KEPT, SAME, UNTOLD
from vdm_jax.curate.stage import Row
from vdm_jax.curate.verdict import Verdict, table
from vdm_jax.data.transform import cover

SHOWN = 24  # clips of a contact sheet
TILE = (90, 160)
BAR = "background:#2563eb;border-radius:4px;height:1.1rem;min-width:1px;width:{share:.2f}%"


def html(config: CurateConfig, verdict: Verdict, folder: Path, name: str) -> str:
    """The page; folder: where the spans' clips lie."""
    clips, kept = verdict.clips, verdict.kept
    bad = [file for file in verdict.files if file["reason"]]
    facts = {
        "files": f"{len(verdict.files):,}",
        "clips seen": f"{len(clips):,}, {_long(clips)}",
        "clips kept": f"{len(kept):,}, {_long(kept)}",
        "files in quarantine": f"{len(bad):,}",
    }
    sheets = [_sheet(KEPT, kept, folder)]
    reasons = [rule.reason for rule in config.rules] + [UNTOLD, COPY, SAME]
    sheets += [_sheet(why, [c for c in clips if c["rejected"] == why], folder) for why in reasons]
    parts = [
        page.heading(f"Curation: {name}"),
        page.facts(facts),
        page.section("Funnel", _funnel(verdict)),
        page.section("Clips", "".join(sheets)),
        page.section("Scores", _histograms(config, verdict)),
        page.section("Cost", page.table(_cost(verdict)) if verdict.cost else ""),
        page.section("Rules", page.table([("reason", "a clip is kept if"), *_rules(config)])),
        page.section("Quarantine", page.table([(f["file"], f["reason"], f["why"]) for f in bad])),
        f"<p class=credit>{escape(config.provenance.credit)}</p>",
    ]
    return page.page(f"Curation: {name}", parts)


def _rules(config: CurateConfig) -> list[tuple[str, str]]:
    rules = [(rule.reason, rule.keep) for rule in config.rules]
    if config.told:
        rules.append((UNTOLD, f"{', '.join(config.told)}: all are known"))
    rules.append((COPY, f"no other is alike by {config.alike:g} or more"))
    if config.same is not None:
        rules.append((SAME, f"no other shows the same by {config.same:g} or more, as CLIP sees it"))
    return rules


def _long(clips: Sequence[Row]) -> str:
    minutes = sum(clip["frames"] / clip["fps"] for clip in clips) / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:,.1f} h"


def _cost(verdict: Verdict) -> list[tuple[str, ...]]:
    whole = sum(verdict.cost.values())
    rows = [(step, f"{ms:.2f}", f"{1000 / ms:,.0f}") for step, ms in verdict.cost.items() if ms]
    head = ("step", "ms of a worker for a frame", "frames a second")
    return [head, *rows, ("all", f"{whole:.2f}", f"{1000 / whole:,.0f}")]


def funnel(verdict: Verdict) -> list[tuple[str, int, int]]:
    """(reason, clips it took, clips left after it), from all that was seen on."""
    left = len(verdict.clips)
    steps = [("seen", 0, left)]
    for reason, gone in verdict.funnel:
        left -= gone
        steps.append((reason, gone, left))
    return steps


def _funnel(verdict: Verdict) -> str:
    steps = funnel(verdict)
    most = max(steps[0][2], 1)
    rows = [
        f"<tr><th>{escape(reason)}</th>{_cell(f'-{gone:,}' if gone else '')}{_cell(f'{left:,}')}"
        f'<td><div style="{BAR.format(share=100 * left / most)}"></div></td></tr>'
        for reason, gone, left in steps
    ]
    head = f"<tr><th>reason</th>{_cell('rejected')}{_cell('left')}<td style=width:55%></td></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _cell(text: str) -> str:
    """Of a number, which is not wrapped."""
    return f'<td style="white-space:nowrap;text-align:right;padding-right:1.5rem">{text}</td>'


def _sheet(title: str, clips: Sequence[Row], folder: Path) -> str:
    """Middle frames of some of them, evenly over all."""
    if not clips:
        return ""
    chosen = np.linspace(0, len(clips) - 1, min(SHOWN, len(clips))).round().astype(int)
    some = [clips[i] for i in chosen]
    pictures = np.stack([cover([frame], TILE)[0] for frame in middles(some, folder)])
    labels = [f"{Path(clip['file']).name} {clip['start']}+{clip['frames']}" for clip in some]
    sheet = Image.fromarray(gallery.grid(pictures[:, None], labels, columns=6)[0])
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=80)
    words = f"{title}: {len(clips):,} clips"
    shown = page.figure(buffer.getvalue(), ".webp", words)
    return shown if title == KEPT else page.folded(words, shown)


def _histograms(config: CurateConfig, verdict: Verdict) -> str:
    """Of each score, all clips that were judged and those that were kept."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    judged = [clip for clip in verdict.clips if clip["scores"]]
    names = sorted({name for clip in judged for name in clip["scores"]})
    if not names:
        return ""
    columns, rows = table(judged, config), -(-len(names) // 3)
    kept = np.array([not clip["rejected"] for clip in judged])
    figure = Figure(figsize=(9, 2.2 * rows), dpi=110, layout="constrained")
    for number, name in enumerate(names):
        axes = figure.add_subplot(rows, 3, number + 1)
        values = columns[name]
        bins = np.histogram_bin_edges(values[np.isfinite(values)], 40).tolist()
        axes.hist(values, bins, color="#d4d4d8", label="seen")
        axes.hist(values[kept], bins, color="#2563eb", label=KEPT)
        axes.set_title(name, fontsize=10, loc="left")
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    FigureCanvasAgg(figure)
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return page.figure(png.getvalue(), ".png", "clips by score: seen, and kept")
