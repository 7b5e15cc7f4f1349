"""What a config class says of itself and of its fields, for `--help`.

A field is described where it stands (a string below it), or in the docstring of its class:
"channels: width of the finest level. blocks, heads: of each level."
"""

import ast
import functools
import inspect
import itertools
import re
import textwrap
from collections.abc import Sequence

NAMES = re.compile(r"(?:^|(?<=[.:;]\s)|(?<=\n))(\w+(?:, \w+)*):\s")


def lead(cls: type, names: Sequence[str], title: str) -> str:
    """The docstring of `cls` behind a title, without what it says of the fields `names`."""
    paragraphs = [_split(text, names)[0] for text in _paragraphs(cls)]
    return ": ".join(filter(None, (title, "\n\n".join(filter(None, paragraphs)))))


def described(cls: type, names: Sequence[str]) -> dict[str, str]:
    """What is said of each of the fields `names`, those of the base classes too, in one line."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        for text in _paragraphs(base):
            found |= _split(text, names)[1]
        found |= {name: text for name, text in _below(base).items() if name in names}
    return found


def _paragraphs(cls: type) -> list[str]:
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    return [" ".join(part.split()) for part in text.split("\n\n")]


def _split(text: str, names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """What a paragraph says before it comes to fields, and what it says of each."""
    starts = [m for m in NAMES.finditer(text) if set(m[1].split(", ")) <= set(names)]
    found: dict[str, str] = {}
    ends = [m.start() for m in starts[1:]] + [len(text)]
    for start, end in zip(starts, ends, strict=False):
        words = text[start.end() : end].strip()
        found |= dict.fromkeys(start[1].split(", "), words[:1].upper() + words[1:])
    return (text[: starts[0].start()] if starts else text).strip(), found


@functools.cache
def _below(cls: type) -> dict[str, str]:
    """The strings that stand below the fields of a class, by field."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return {}
    found: dict[str, str] = {}
    body = getattr(tree.body[0], "body", [])
    for field, below in itertools.pairwise(body):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found
