"""A study of preference: which videos are shown beside each other, in what order, on which side.

Everything follows from the arguments, the videos' names and the rater's name, by SHA-256: the same
command makes the same plan anywhere, so a study that was killed goes on where it ended.
"""

import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from vdm_jax.core import page
from vdm_jax.core.refusal import Refusal

SUFFIXES = (".mp4", ".webm", ".gif", ".webp")  # of one name the first is taken
NAME = "study.json"
CAPTION = 2000  # characters shown at most


class Shown(NamedTuple):
    """Two models' videos of one name, and where each stands."""

    name: str
    left: str
    right: str


class Trial(NamedTuple):
    """A question about two videos."""

    shown: Shown
    question: str


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is asked about which videos.

    videos: of each name the models that have it, with the start of the SHA-256 of the file. pairs:
    how many each rater sees; None is all.
    """

    models: tuple[str, ...]
    questions: tuple[str, ...]
    seed: int
    pairs: int | None
    ties: bool
    videos: Mapping[str, Mapping[str, str]]

    def plan(self, rater: str) -> list[Trial]:
        """All questions about a pair come one after the other; the rest is the rater's own order.

        The couples of models are shown equally often, within one, on each side, within one; and
        each model is on the left as often as on the right, within one.
        """
        chosen = self._chosen(rater)
        way = 1 if self._draw(rater, "way")[0] % 2 else -1
        pairs = [Shown(name, *couple[::way]) for couple, name in _sides(chosen)]
        pairs.sort(key=lambda shown: self._draw(rater, "order", *sorted(shown)))
        return [Trial(shown, question) for shown in pairs for question in self.questions]

    def _chosen(self, rater: str) -> dict[tuple[str, ...], list[str]]:
        """Names of each couple of models, each couple in turn until there are `pairs`."""
        pool = {
            couple: sorted(names, key=lambda name: self._draw(rater, "pair", *couple, name))
            for couple, names in couples(self.models, self.videos).items()
        }
        ordered = sorted(pool, key=lambda couple: self._draw(rater, "couple", *couple))
        turns = itertools.zip_longest(*(pool[couple] for couple in ordered))
        every = [
            (couple, name)
            for turn in turns
            for couple, name in zip(ordered, turn, strict=True)
            if name is not None
        ]
        chosen: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for couple, name in every[: self.pairs]:
            chosen[couple].append(name)
        return chosen

    def _draw(self, *words: str) -> bytes:
        return hashlib.sha256(json.dumps([self.seed, *words]).encode()).digest()


def couples(
    models: Sequence[str], videos: Mapping[str, Container[str]]
) -> dict[tuple[str, ...], list[str]]:
    """The names that each two models both have, where there are any."""
    both = {
        couple: [name for name, have in videos.items() if all(model in have for model in couple)]
        for couple in itertools.combinations(models, 2)
    }
    return {couple: names for couple, names in both.items() if names}


def _sides(
    chosen: Mapping[tuple[str, ...], Sequence[str]],
) -> Iterator[tuple[tuple[str, ...], str]]:
    """((left, right), name) of each pair.

    Half of each couple's pairs one way round; the odd ones along trails through the models.

    A trail enters a model as often as it leaves it, but for its ends, and every model that has an
    odd number of odd ones is the end of exactly one (Euler).
    """
    turned = _trails([couple for couple, names in chosen.items() if len(names) % 2])
    for couple, names in chosen.items():
        first = turned.get(frozenset(couple), couple)
        yield from zip(itertools.cycle([first, first[::-1]]), names, strict=False)


def _trails(edges: Iterable[tuple[str, ...]]) -> dict[frozenset[str], tuple[str, ...]]:
    """Each edge in the direction in which it is walked."""
    left: dict[str, list[str]] = defaultdict(list)
    for a, b in edges:
        left[a].append(b)
        left[b].append(a)
    walked: dict[frozenset[str], tuple[str, ...]] = {}
    while any(left.values()):
        here = max(left, key=lambda model: (len(left[model]) % 2, len(left[model])))
        while left[here]:
            there = left[here].pop()
            left[there].remove(here)
            walked[frozenset((here, there))] = (here, there)
            here = there
    return walked


# ---- The files -----------------------------------------------------------------------------------


def folders(videos: Sequence[str]) -> dict[str, Path]:
    """Models and their folders, of texts such as "ours=runs/a/samples". Raises Refusal."""
    found: dict[str, Path] = {}
    for text in videos:
        model, equals, folder = text.partition("=")
        if not (model.strip() and equals and folder):
            raise Refusal(f"--videos {text}: write MODEL=FOLDER, such as ours=runs/a/samples")
        if model in found:
            raise Refusal(f"--videos: {model} is given twice")
        if not Path(folder).is_dir():
            raise Refusal(f"--videos {text}: no such folder")
        found[model] = Path(folder)
    if len(found) < 2:
        raise Refusal(
            f"--videos needs the folders of two models or more, got {', '.join(found) or 'none'}"
        )
    return found


def files(found: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """Of each name in any folder, the models' files, names sorted. Raises Refusal."""
    videos: dict[str, dict[str, Path]] = defaultdict(dict)
    for model, folder in found.items():
        entries = [each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES]
        if not entries:
            raise Refusal(f"{folder}: holds no video ({', '.join(SUFFIXES)})")
        for path in sorted(entries, key=lambda each: SUFFIXES.index(each.suffix.lower())):
            videos[path.stem].setdefault(model, path)
    return dict(sorted(videos.items()))


def beside(paths: Mapping[str, Path], suffix: str) -> Path | None:
    """The first file of that suffix beside one of a name's videos."""
    own = (path.with_suffix(suffix) for path in paths.values())
    return next((path for path in own if path.is_file()), None)


def caption(paths: Mapping[str, Path]) -> str:
    """What the text beside one of a name's videos says; "" without one."""
    path = beside(paths, ".txt")
    if path is None:
        return ""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return " ".join(file.read(CAPTION).split())
    except OSError as fault:
        raise Refusal(f"{path}: cannot be read: {fault.strerror}") from fault


def fingerprint(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as fault:
        raise Refusal(f"{path}: cannot be read: {fault.strerror}") from fault


# ---- The record ----------------------------------------------------------------------------------


def keep(study: Study, output: Path) -> None:
    """Write down what the study is, or refuse to go on with another one, naming a difference."""
    path = output / NAME
    now = json.loads(json.dumps(asdict(study)))
    if not path.exists():
        page.replace(path, json.dumps(now, indent=1).encode())
        return
    before = json.loads(json.dumps(asdict(stored(output))))
    for part in ("models", "questions", "seed", "pairs", "ties"):
        if before[part] != now[part]:
            raise Refusal(
                f"{output}: its study has other {part}: {_said(before[part])}, now"
                f" {_said(now[part])}; give those, or another --output"
            )
    old, new = before["videos"], now["videos"]
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            what = "has other bytes"
            if old.get(name, {}).keys() != new.get(name, {}).keys():
                what = "is of other models, new or gone"
            raise Refusal(f"{output}: video {name} {what} since its study began; begin another")


def stored(output: Path) -> Study:
    """The study that `keep` wrote. Raises Refusal."""
    path = output / NAME
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return Study(
            models=tuple(held["models"]),
            questions=tuple(held["questions"]),
            seed=int(held["seed"]),
            pairs=held["pairs"],
            ties=bool(held["ties"]),
            videos={name: dict(have) for name, have in held["videos"].items()},
        )
    except FileNotFoundError:
        raise Refusal(f"{output}: holds no study ({NAME})") from None
    except OSError as fault:
        raise Refusal(f"{path}: cannot be read: {fault.strerror}") from fault
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Refusal(f"{path}: is damaged; take it back from a copy") from None


def _said(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {"None": "all", "True": "yes", "False": "no"}.get(str(value), str(value))
