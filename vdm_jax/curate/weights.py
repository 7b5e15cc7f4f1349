"""Weights that stages need and users bring: `--weights NAME=PATH`.

A stage asks for them by a name of its config, so that two stages share what they call alike. What
was not given is refused before any file is looked at; nothing is ever fetched or made up.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from vdm_jax.core import manifest
from vdm_jax.core.refusal import Refusal
from vdm_jax.curate.stage import Stage

NAME = re.compile(r"[a-z][a-z0-9_]*")
CLIP_WEIGHTS = (
    "a model directory of CLIP, both towers, which `python -m vdm_jax.convert.whole_clip --from "
    "FOLDER --output PATH` makes of a published one (config.json, model.safetensors, tokenizer)"
)


class Need(NamedTuple):
    """name: of the weights, as in --weights. what: the file or folder, and where one gets it."""

    name: str
    what: str


@runtime_checkable
class WeightedConfig(Protocol):
    """A frozen dataclass that builds a stage, given where its weights are."""

    @property
    def needs(self) -> Sequence[Need]: ...

    def build(self, weights: Mapping[str, Path]) -> Stage:
        """weights: the path of each of `needs` by name; not opened before `Stage.setup`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Weights:
    """digest: of all bytes; what was found out with other weights is not gone on with."""

    name: str
    path: str
    digest: str = ""


def given(texts: Iterable[str], before: Iterable[Weights] = ()) -> tuple[Weights, ...]:
    """What `NAME=PATH` texts say, over those `before`, each with its digest.

    Reads every byte. Raises Refusal for what is no such text, is not there, or is damaged.
    """
    paths = {each.name: each.path for each in before}
    named = set()
    for text in texts:
        name, equals, path = text.partition("=")
        if not (NAME.fullmatch(name) and equals and path):
            raise Refusal(f"--weights {text}: write NAME=PATH, such as clip=models/clip")
        if name in named:
            raise Refusal(f"--weights {name} is given twice")
        named.add(name)
        paths[name] = path
    return tuple(
        Weights(name=name, path=str(Path(path).absolute()), digest=_digest(name, Path(path)))
        for name, path in sorted(paths.items())
    )


def found(stages: Iterable[object], weights: Iterable[Weights]) -> dict[str, Path]:
    """Where the weights of all stages are. Raises one Refusal that names all that is missing."""
    paths = {each.name: Path(each.path) for each in weights}
    needs = [
        (type(stage).__name__, need)
        for stage in stages
        if isinstance(stage, WeightedConfig)
        for need in stage.needs
    ]
    missing = [
        f"{stage} needs --weights {need.name}=PATH: {need.what}"
        for stage, need in needs
        if need.name not in paths
    ]
    if missing:
        raise Refusal("; ".join(missing))
    known = {need.name for _, need in needs}
    if unknown := sorted(paths.keys() - known):
        asked = f"they ask for {', '.join(sorted(known))}" if known else "they ask for none"
        raise Refusal(f"--weights {unknown[0]}: no stage of this config asks for it; {asked}")
    return paths


def _digest(name: str, path: Path) -> str:
    if path.is_file():
        return _sha256(path)
    if not path.is_dir():
        raise Refusal(f"--weights {name}={path}: there is no such file or folder")
    if (path / manifest.NAME).is_file():
        try:
            manifest.verify(path)
        except manifest.Damaged as reason:
            raise Refusal(f"--weights {name}={path}: is damaged: {reason}") from None
        return _sha256(path / manifest.NAME)
    files = sorted(each for each in path.rglob("*") if each.is_file())
    if not files:
        raise Refusal(f"--weights {name}={path}: is empty")
    lines = [f"{each.relative_to(path)} {_sha256(each)}\n" for each in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
