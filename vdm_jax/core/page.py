"""Pages for people: HTML in one file, which fetches nothing; everything shown is escaped."""

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from vdm_jax.core.refusal import Refusal

MEDIA = {
    ".webp": "image/webp",
    ".png": "image/png",
    ".gif": "image/gif",
    ".jpg": "image/jpeg",
    ".mp4": "video/mp4",
}


def page(title: str, parts: Iterable[str]) -> str:
    """The whole page, of parts that are HTML; empty ones are left out."""
    return _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(filter(None, parts)))


def heading(text: str) -> str:
    return f"<h1>{escape(text)}</h1>"


def section(title: str, content: str) -> str:
    """A card with a title; nothing where there is no content."""
    return f"<section><h2>{escape(title)}</h2>\n{content}</section>" if content else ""


def folded(title: str, content: str) -> str:
    """Content that is shown when its title is clicked."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>" if content else ""


def facts(values: Mapping[str, str]) -> str:
    """A few short values, large, each below its name."""
    each = [f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in values.items()]
    return f"<dl>{''.join(each)}</dl>" if each else ""


def table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of texts; the first of each is its name."""
    cells = "".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(each)}</td>' for each in rest)}</tr>"
        for first, *rest in rows
    )
    return f"<table>{cells}</table>" if cells else ""


def verbatim(lines: str, kind: str = "") -> str:
    """Text as it is. kind: "events", which scroll, or "command", which wraps."""
    return f'<pre class="{kind}">{escape(lines)}</pre>' if lines else ""


def figure(content: bytes, suffix: str, words: str) -> str:
    """A picture or a video, of `MEDIA`, and the words below it."""
    source = data(content, suffix)
    show = f'<img src="{source}" alt="{escape(words)}">'
    if suffix == ".mp4":
        show = f'<video src="{source}" autoplay loop muted playsinline></video>'
    return f"<figure>{show}<figcaption>{escape(words)}</figcaption></figure>"


def data(content: bytes, suffix: str) -> str:
    """Content as an address that holds it."""
    return f"data:{MEDIA[suffix]};base64,{base64.b64encode(content).decode()}"


def replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises Refusal."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as fault:
        raise Refusal(f"cannot write {path}: {fault.strerror}") from fault


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
