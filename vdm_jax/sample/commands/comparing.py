"""A page that compares plans of one film: how they look, their seams, how far they drift."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vdm_jax.core import page, video
from vdm_jax.metrics import seams
from vdm_jax.sample.long import Drawn


class Row(NamedTuple):
    """One plan: its name, its file, what it drew, how long it took, with compiling, and the most
    bytes that were in use meanwhile."""

    plan: str
    path: Path
    drawn: Drawn
    seconds: float
    memory: int


def measured(row: Row, window: int) -> dict[str, str]:
    """By name, as people read it."""
    jumps = seams.seams(row.drawn.video, row.drawn.begins)
    return {
        "jump inside a piece": f"{jumps.inside:.2f}",
        "jump at a seam": "none" if np.isnan(jumps.across) else f"{jumps.across:.2f}",
        "seam / inside": "" if np.isnan(jumps.across) else f"{jumps.ratio:.2f}",
        "drift": f"{seams.drift(row.drawn.video, window):.2f}",
        "time": f"{row.seconds:.1f} s",
        "memory": f"{row.memory / 1e9:.2f} GB",
    }


def report(path: Path, rows: Sequence[Row], *, window: int, fps: float | int) -> None:
    """Writes the page. Jumps and drift are in grey values, 0 to 255."""
    facts = {row.plan: measured(row, window) for row in rows}
    names = list(next(iter(facts.values())))
    table = [["", *facts], *([name, *(facts[plan][name] for plan in facts)] for name in names)]
    shown = [
        page.figure(
            video.encode(_bytes(row.drawn), fps, video.H264()), ".mp4",
            f"{row.plan}: {len(row.drawn.video)} frames, "
            + (f"pieces begin at {', '.join(map(str, row.drawn.begins))}" if row.drawn.begins
               else "one piece"),
        )
        for row in rows
    ]  # fmt: skip
    words = (
        "Jumps are root mean square differences of adjacent frames in grey values: 1.00 of a seam "
        "is no more than motion is. Drift is how far means and deviations of the colours of the "
        f"last {window} frames are from those of the first. Times include compiling. Memory is the "
        "most in use at any moment, of the fullest device, or on CPU of the whole "
        "process, with what the plans before it left there."
    )
    parts = [
        page.heading("One film by several plans"),
        page.section("How they hang together", page.table(table) + f"<p>{words}</p>"),
        page.section("The videos", "".join(shown)),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    page.replace(path, page.page("Plans of a long video", parts).encode())


def _bytes(drawn: Drawn) -> np.ndarray:
    return np.round(drawn.video * 255).astype(np.uint8)
