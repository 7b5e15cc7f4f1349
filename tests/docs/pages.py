"""What the project's pages say: their commands, their links, and the places that they name."""

import contextlib
import functools
import importlib
import importlib.util
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vdm_jax.core import config as configs

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {part for part in path.relative_to(ROOT).parts if part.startswith(".")}
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
ENDS = {"|", "||", "&&", "&", ";", ">", ">>", "2>&1"}


class Command(NamedTuple):
    """`python -m MODULE WORDS`."""

    module: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(["python", "-m", self.module, *self.words])


def blocks(page: Path) -> list[str]:
    """The commands that a page would have one type: its blocks in bash."""
    return [body for kind, body in FENCE.findall(page.read_text()) if kind == "bash"]


def commands(text: str) -> Iterator[Command]:
    """Each call of one of our modules, in blocks and between backticks."""
    for _, body in FENCE.findall(text):
        for line in body.replace("\\\n", " ").splitlines():
            yield from of_line(line)
    for inline in INLINE.findall(FENCE.sub("", text)):
        yield from of_line(" ".join(inline.split()))


def of_line(line: str) -> Iterator[Command]:
    """The calls of our modules in one line of a shell."""
    words = iter(shlex.split(line, comments=True) if "python -m vdm_jax" in line else [])
    for word in words:
        if word != "python" or next(words, "") != "-m":
            continue
        module, said = next(words, ""), []
        for each in words:
            if each in ENDS:
                break
            said.append(each)
        if module.split(".")[0] == "vdm_jax":
            yield Command(module, tuple(said))


def wrong(command: Command) -> str:
    """What is wrong with a command, seen without running it; empty where nothing is."""
    spec = importlib.util.find_spec(command.module)
    if spec is None:
        return f"there is no module {command.module}"
    is_package = spec.submodule_search_locations is not None
    name = f"{command.module}.__main__" if is_package else command.module
    lead = _lead(command.words)
    config = _value(command.words, "--config")
    if config is not None:
        path, _, function = config.partition(":")
        if not (ROOT / path).is_file():
            return f"there is no {path}"
        configs.load(f"{ROOT / path}:{function or 'config'}")
    known = helped(name, lead, config, _value(command.words, "--task"))
    said = {word.partition("=")[0] for word in command.words if word.startswith("--")}
    unknown = sorted(said - known)
    return f"no option {', '.join(unknown)}" if unknown else ""


@functools.cache
def helped(module: str, lead: tuple[str, ...], config: str | None, task: str | None) -> set[str]:
    """The options that `--help` tells."""
    args = list(lead)
    if config is not None:
        args += ["--config", str(ROOT / config)]
    if task is not None:
        args += ["--task", task]
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        importlib.import_module(module).main([*args, "--help"])
    return {"--help", *re.findall(r"--[\w.-]*\w", out.getvalue())}


def broken_links(page: Path) -> list[str]:
    """Links of a page to files, folders and headings of the checkout that are not there."""
    links = LINK.findall(FENCE.sub("", page.read_text()))
    return [link for link in links if not re.match(r"[a-z]+:", link) and not _is_there(page, link)]


def _is_there(page: Path, link: str) -> bool:
    path, _, heading = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists() or not target.is_relative_to(ROOT):
        return False
    return not heading or heading in headings(target)


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ +(.+)$", FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _lead(words: tuple[str, ...]) -> tuple[str, ...]:
    """The verbs of a verb: `serve keys create`."""
    first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return words[:first]


def _value(words: tuple[str, ...], option: str) -> str | None:
    return words[words.index(option) + 1] if option in words else None
