"""What a config is made of: parts (frozen dataclasses), tuples of parts, and leaves."""

import dataclasses
import types
import typing
from typing import Any, Literal, Union

SCALARS = (bool, int, float, str, types.NoneType)


def is_frozen(cls: type) -> bool:
    parameters: Any = getattr(cls, "__dataclass_params__", None)
    return parameters is not None and parameters.frozen


def is_part(value: Any) -> bool:
    return not isinstance(value, type) and is_frozen(type(value))


def has_parts(value: Any) -> bool:
    return type(value) is tuple and len(value) > 0 and all(map(is_part, value))


def fields(cls: type) -> list["dataclasses.Field[Any]"]:
    return [f for f in dataclasses.fields(typing.cast(Any, cls)) if f.init]


def tunable(hint: Any) -> bool:
    """Whether a leaf of this annotation can be written at the shell."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return True
    if origin in (Union, types.UnionType, tuple, dict):
        return all(tunable(a) for a in args if a is not Ellipsis)
    return hint in SCALARS


def fits(value: Any, hint: Any) -> bool:
    """Whether a decoded value may stand in a field of this annotation."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return any(type(value) is type(a) and value == a for a in args)
    if origin in (Union, types.UnionType):
        return any(fits(value, a) for a in args)
    if origin is tuple and args[-1:] == (Ellipsis,):
        return isinstance(value, tuple) and all(fits(v, args[0]) for v in value)
    if origin is tuple:
        same = isinstance(value, tuple) and len(value) == len(args)
        return same and all(map(fits, value, args))
    if origin is dict:
        return isinstance(value, dict) and all(fits(v, args[1]) for v in value.values())
    if hint in SCALARS:
        return type(value) is hint or (hint is float and type(value) is int)
    if getattr(hint, "_is_protocol", False):
        return is_part(value)
    return isinstance(value, hint) if isinstance(hint, type) else True


def described(hint: Any) -> str:
    """An annotation in words: "float or None", "one of 'a', 'b'", "2 values (int, int)"."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin in (Union, types.UnionType):
        return " or ".join(map(described, args))
    if origin is tuple and args[-1] is not Ellipsis:
        return f"{len(args)} values ({', '.join(map(described, args))})"
    if origin is tuple:
        return f"a list of {described(args[0])}"
    if origin is dict:
        return f"pairs of {described(args[0])} and {described(args[1])}"
    return "None" if hint is types.NoneType else getattr(hint, "__name__", str(hint))
