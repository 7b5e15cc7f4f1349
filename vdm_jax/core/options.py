"""A verb's own few options, read before those of its config."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from vdm_jax.core.refusal import Refusal


class Own(NamedTuple):
    """Values of the options given, the switches given, and the arguments that are not ours.

    lists: all values of the options that take several.
    """

    values: Mapping[str, str]
    switches: frozenset[str]
    rest: list[str]
    lists: Mapping[str, Sequence[str]] = MappingProxyType({})


def own(
    args: Sequence[str],
    values: Sequence[str],
    switches: Sequence[str],
    lists: Sequence[str] = (),
) -> Own:
    """Take `--name value` or `--name=value` for `values`, and bare `--name` for `switches`.

    Those of `lists` take one value or more, and may be given again. Refuses an option without its
    value.
    """
    found: dict[str, str] = {}
    several: dict[str, list[str]] = {name: [] for name in lists}
    seen: set[str] = set()
    rest: list[str] = []
    queue = list(args)
    while queue:
        arg = queue.pop(0)
        name, equals, value = arg.partition("=")
        if name in switches and not equals:
            seen.add(name)
        elif name in values or name in several:
            if not equals and (not queue or queue[0].startswith("--")):
                raise Refusal(f"{name} needs a value")
            found[name] = value if equals else queue.pop(0)
            if name in several:
                several[name].append(found.pop(name))
                while queue and not queue[0].startswith("--"):
                    several[name].append(queue.pop(0))
        else:
            rest.append(arg)
    return Own(found, frozenset(seen), rest, several)
