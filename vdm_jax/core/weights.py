"""Weights that users bring: `--weights NAME=PATH`, each known by the hash of its bytes."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vdm_jax.core import manifest
from vdm_jax.core.refusal import Refusal

NAME = re.compile(r"[a-z][a-z0-9_]*")


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
