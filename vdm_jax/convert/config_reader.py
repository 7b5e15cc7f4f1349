"""The values of one config.json of diffusers or transformers, each checked as it is read.

What a config says that this package cannot do is refused by name; what it does not say has the
default of diffusers or transformers, which the caller gives.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from vdm_jax.core.refusal import Refusal

Config = Mapping[str, Any]
Number = TypeVar("Number", bound=int | float)


class ConfigReader:
    """The values of one config.json, each of the kind it must be."""

    def __init__(self, part: str, config: Config):
        self.part, self.config, self.read = part, config, {"_class_name"}

    def get(self, name: str, default: Any) -> Any:
        self.read.add(name)
        return self.config.get(name, default)

    def number(self, name: str, default: Number) -> Number:
        """A number of the default's type above 0."""
        value = self.get(name, default)
        kinds = (int, float) if isinstance(default, float) else (int,)
        if type(value) not in kinds or not 0 < value < float("inf"):
            kind = "number" if isinstance(default, float) else "whole number"
            raise self.refusal(name, f"a {kind} above 0")
        return type(default)(value)

    def each(self, name: str, default: int | tuple[int, ...], levels: int) -> tuple[int, ...]:
        """A whole number for each level, or one for all."""
        value = self.get(name, default)
        values = [value] * levels if type(value) is int else value
        if (
            not isinstance(values, (list, tuple))
            or len(values) != levels
            or not all(type(v) is int and v > 0 for v in values)
        ):
            raise self.refusal(name, f"a whole number above 0, or {levels} of them")
        return tuple(values)

    def same(self, name: str, default: int, levels: int) -> int:
        """A whole number that all levels share."""
        values = self.each(name, default, levels)
        if len(set(values)) > 1:
            raise self.refusal(name, "the same number for every level")
        return values[0]

    def names(self, name: str, default: Sequence[str], allowed: Sequence[str]) -> list[str]:
        values = self.get(name, default)
        if not isinstance(values, (list, tuple)) or not all(v in allowed for v in values):
            raise self.refusal(name, f"a list of {' and '.join(allowed)}")
        return list(values)

    def only(self, **allowed: Any) -> None:
        """Refuse other values than these, each either absent or one of a tuple."""
        for name, values in allowed.items():
            values = values if isinstance(values, tuple) else (values,)
            value = self.get(name, values[0])
            if not any(type(value) is type(v) and value == v for v in values):
                raise self.refusal(name, " or ".join(map(repr, values)))

    def rest(self, ignored: Sequence[str] = ()) -> None:
        """Refuse what was not read, unless it says nothing."""
        for name, value in self.config.items():
            silent = name.startswith("_") or name in ignored or value is None
            if name not in self.read and not silent:
                raise Refusal(f"{self.part}: {name} is {short(value)}; it is not known here")

    def refusal(self, name: str, want: str) -> Refusal:
        return Refusal(f"{self.part}: {name} is {short(self.config.get(name))}; {want} is needed")


def short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 120 else text[:117] + "..."


def class_of(part: str, config: Config, allowed: Sequence[str]) -> str:
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in allowed:
        raise Refusal(f"{part}: _class_name is {short(name)}; {' or '.join(allowed)} is needed")
    return name
