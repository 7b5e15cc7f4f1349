"""Tables of names: theirs, ours, and the layout of what is so called; a checked bijection.

A name in a rule is a template in which {} stands for a number: "down_blocks.{}.resnets.{}" and
"down/{}/resnets/{}". The numbers stand in the same order on both sides.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from vdm_jax.convert import layout
from vdm_jax.convert.layout import Layout, Shape
from vdm_jax.core.refusal import Refusal

How = TypeVar("How")


class Rule(NamedTuple):
    """One array: its name with them, its name here, and how it gets from one to the other."""

    theirs: str
    ours: str
    how: Any


Rules = tuple[Rule, ...]


def rules(*groups: Rules) -> Rules:
    """The rules of all groups."""
    return tuple(rule for group in groups for rule in group)


def under(theirs: str, ours: str, *groups: Rules) -> Rules:
    """The rules of all groups, for a module that is called so; "" is no module."""
    before = f"{theirs}." if theirs else ""
    here = f"{ours}/" if ours else ""
    return tuple(Rule(before + t, here + o, how) for t, o, how in rules(*groups))


def one(theirs: str, ours: str, how: Layout = layout.SAME) -> Rules:
    """A single array."""
    return (Rule(theirs, ours, how),)


def _weighted(theirs: str, ours: str, kernel: Layout) -> Rules:
    weight = Rule(f"{theirs}.weight", f"{ours}/kernel", kernel)
    return weight, Rule(f"{theirs}.bias", f"{ours}/bias", layout.VECTOR)


def linear(theirs: str, ours: str = "") -> Rules:
    return _weighted(theirs, ours or theirs, layout.LINEAR)


def linear_out(theirs: str, ours: str) -> Rules:
    """A linear map of the heads of attention to one vector."""
    return _weighted(theirs, ours, layout.LINEAR_OUT)


def unbiased(theirs: str, ours: str = "") -> Rules:
    """A linear map without a bias."""
    return one(f"{theirs}.weight", f"{ours or theirs}/kernel", layout.LINEAR)


def point(theirs: str, ours: str = "") -> Rules:
    """A 1x1 convolution with them, a linear map here."""
    return _weighted(theirs, ours or theirs, layout.POINT)


def conv(theirs: str, ours: str = "") -> Rules:
    return _weighted(theirs, ours or theirs, layout.CONV)


def conv_of_frames(theirs: str, ours: str = "") -> Rules:
    """A convolution over time alone."""
    return _weighted(theirs, ours or theirs, layout.FRAMES)


def group_norm(theirs: str, ours: str = "") -> Rules:
    ours = ours or theirs
    return *one(f"{theirs}.weight", f"{ours}/scale"), *one(f"{theirs}.bias", f"{ours}/shift")


def layer_norm(theirs: str, ours: str = "") -> Rules:
    ours = ours or theirs
    return *one(f"{theirs}.weight", f"{ours}/scale"), *one(f"{theirs}.bias", f"{ours}/bias")


class Named(NamedTuple):
    """What a name becomes on the other side, and how."""

    name: str
    how: Any


class Table(Generic[How]):
    """Rules, looked up from either side. No two rules may speak of the same array."""

    def __init__(self, rules: Iterable[Rule]):
        self._ours: dict[str, list[tuple[re.Pattern[str], str, Any]]] = {}
        self._theirs: dict[str, list[tuple[re.Pattern[str], str, Any]]] = {}
        seen: set[str] = set()
        for theirs, ours, how in rules:
            names = {f"theirs {theirs}", f"ours {ours}"}
            assert not names & seen, f"two rules for {theirs} or {ours}"
            seen |= names
            self._ours.setdefault(_shape(theirs), []).append((_pattern(theirs), ours, how))
            self._theirs.setdefault(_shape(ours), []).append((_pattern(ours), theirs, how))

    def ours(self, theirs: str) -> Named | None:
        """Our name for theirs; None if no rule speaks of it."""
        return _looked_up(self._ours, theirs)

    def theirs(self, ours: str) -> Named | None:
        """Their name for ours; None if no rule speaks of it."""
        return _looked_up(self._theirs, ours)


def _shape(name: str) -> str:
    """The name with # for each number: what a template and the names it stands for share."""
    return re.sub(r"\{\}|(?<=[./])\d+(?=[./]|$)", "#", name)


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{\}", r"(0|[1-9]\d*)"))


def _looked_up(index: Mapping[str, Sequence[Any]], name: str) -> Named | None:
    for pattern, other, how in index.get(_shape(name), ()):
        if match := pattern.fullmatch(name):
            return Named(other.format(*match.groups()), how)
    return None


class Move(NamedTuple):
    """One array on its way: their name, our name, both shapes and the layout."""

    theirs: str
    ours: str
    shape: Shape
    our_shape: Shape
    layout: Layout


def moves(
    theirs: Mapping[str, Shape],
    ours: Mapping[str, Shape],
    table: Table[Layout],
    called: Callable[[str], str] = str,
) -> tuple[list[Move], list[str]]:
    """How each array gets from one side to the other, in our order; and what does not fit.

    Of what does not fit each line names one array: not known, missing, or of another shape.
    called: how it names one of theirs.
    """
    found: dict[str, tuple[str, Layout]] = {}
    wrong = []
    for name in theirs:
        named = table.ours(name)
        if named is None or named.name not in ours:
            wrong.append(f"{called(name)} is not a weight of this model")
        else:
            found[named.name] = (name, named.how)
    ready = []
    for path, shape in ours.items():
        if path not in found:
            wrong.append(f"{called(_their_name(table, path))} is missing")
            continue
        name, how = found[path]
        wanted = how.theirs(shape)
        if theirs[name] != wanted:
            got = list(theirs[name])
            wrong.append(f"{called(name)} has the shape {got}, not {list(wanted)}")
            continue
        ready.append(Move(name, path, wanted, shape, how))
    return ready, wrong


def _their_name(table: Table[Any], path: str) -> str:
    named = table.theirs(path)
    assert named is not None, f"no rule speaks of {path}"
    return named.name


def refuse(what: str, wrong: Iterable[str]) -> None:
    """Raise a Refusal that names everything in `wrong`, if there is any."""
    lines = list(wrong)
    if lines:
        count = f" ({len(lines)} tensors)" if len(lines) > 1 else ""
        raise Refusal(f"{what}{count}: {'; '.join(lines)}")


def unused(names: Iterable[str], allowed: Sequence[str]) -> Iterator[str]:
    """Those of `names` that a template of `allowed` speaks of."""
    patterns = [_pattern(template) for template in allowed]
    return (name for name in names if any(pattern.fullmatch(name) for pattern in patterns))
