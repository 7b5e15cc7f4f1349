"""Configs: a Python function returning frozen dataclasses, tuned at the shell, stored as JSON.

Three steps, each its own function: `load` runs the user's own config file, `override` applies
`--optim.learning-rate 3e-4`, `to_json`/`from_json` keep the result beside the weights. Reading the
JSON runs no config code and builds nothing but frozen dataclasses of this package.
"""

import contextlib
import dataclasses
import difflib
import importlib
import io
import json
import math
import re
import traceback
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from vdm_jax.core import wording
from vdm_jax.core.parts import (
    SCALARS,
    described,
    fields,
    fits,
    has_parts,
    is_frozen,
    is_part,
    tunable,
)
from vdm_jax.core.refusal import Refusal

PACKAGE = __name__.partition(".")[0]
TYPE_NAME = re.compile(rf"{PACKAGE}(?:\.[a-z][a-z0-9_]*)+:[A-Za-z]\w*")

Config = TypeVar("Config")


# ---- A config file -----------------------------------------------------------------------------


def load(spec: str) -> Any:
    """The config that a file's function returns: "configs/x.py" is config(), "…x.py:smoke" smoke().

    The file is code and runs as such: load only your own. Refuses a missing file or function, a
    result that cannot be stored, and any exception raised inside the file (with its line).
    """
    name, _, function = spec.partition(".py:")
    path = Path(name if not function else f"{name}.py")
    function = function or "config"
    if path.suffix != ".py" or not path.is_file():
        raise Refusal(f"no config file {str(path)!r}; {_files_nearby(path)}")
    with _lines_of(path):
        namespace: dict[str, Any] = {"__name__": "config_file", "__file__": str(path)}
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
    if function not in namespace or not callable(namespace[function]):
        have = [k for k, v in namespace.items() if _defined_in(v, path) and not k.startswith("_")]
        raise Refusal(f"{path} has no function {function!r}; it has {_listed(have)}")
    with _lines_of(path):
        config = namespace[function]()
    if not is_part(config):
        got = type(config).__name__
        raise Refusal(f"{path}:{function}() returned {got}; it must return a frozen dataclass")
    to_json(config)
    return config


@contextlib.contextmanager
def _lines_of(path: Path) -> Iterator[None]:
    """Any exception raised within becomes one line that names the line of `path` it came from."""
    try:
        yield
    except SyntaxError as error:
        raise Refusal(f"{path}:{error.lineno}: SyntaxError: {error.msg}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((f.lineno for f in reversed(frames) if f.filename == str(path)), 0)
        kind = "" if isinstance(error, Refusal) else f"{type(error).__name__}: "
        raise Refusal(f"{path}:{line}: {kind}{_one_line(error)}") from error


def _files_nearby(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("configs")
    files = sorted(str(f) for f in folder.glob("*.py") if not f.name.startswith("_"))
    close = difflib.get_close_matches(path.stem, [Path(f).stem for f in files], n=3)
    if close:
        return f"did you mean {_listed([f for f in files if Path(f).stem in close])}?"
    return f"{folder} has {_listed(files)}"


def _defined_in(value: Any, path: Path) -> bool:
    return isinstance(value, types.FunctionType) and value.__code__.co_filename == str(path)


# ---- The shell -----------------------------------------------------------------------------------


def override(config: Config, args: Sequence[str], prog: str) -> Config:
    """`config` with the options of `args` applied, e.g. ["--optim.learning-rate", "3e-4"].

    Options are the field paths of the *actual* parts, so a part is swapped in Python and its
    leaves are tuned here. `--help` prints every leaf with its default and exits 0; a misspelt
    option or a value of the wrong type is refused in one line.
    """
    args = [re.sub(r"^--config\.(?=.)", "--", a) for a in args]
    schema = _schema(config)
    annotated = dict(_leaves(config))
    _check_names(args, annotated, prog)
    try:
        parsed = _parse(schema, args, prog)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise _wrong_value(config, args, annotated, prog) from None
    return _rebuild(config, parsed)


def _parse(schema: Any, args: Sequence[str], prog: str) -> Any:
    """tyro's own parse; its boxed message on stderr is dropped, --help on stdout is not."""
    markers = (tyro.conf.AvoidSubcommands, tyro.conf.SuppressFixed)
    with contextlib.redirect_stderr(io.StringIO()):
        return tyro.cli(type(schema), default=schema, args=args, prog=prog, config=markers)


def _schema(part: Any, title: str = "") -> Any:
    """A copy of `part` for tyro to fill: same fields, typed by the parts they actually hold.

    Each class is a subclass of the original, which is where tyro finds the comments for --help,
    but skips __post_init__: checks belong to the finished config (see _rebuild). title: of a group
    of options.
    """
    cls = type(part)
    values = {f.name: getattr(part, f.name) for f in fields(cls)}
    words = wording.described(cls, list(values))
    hints = typing.get_type_hints(cls, include_extras=True)
    narrowed: dict[str, Any] = {}
    for name, value in values.items():
        if is_part(value):
            values[name] = _schema(value, type(value).__name__)
            narrowed[name] = type(values[name])
        elif has_parts(value):
            values[name] = tuple(_schema(v, type(v).__name__) for v in value)
            narrowed[name] = types.GenericAlias(tuple, tuple(map(_titled, values[name])))
        else:
            narrowed[name] = hints[name] if tunable(hints[name]) else tyro.conf.Fixed[hints[name]]
        if not is_part(value):
            hint = "" if value == "" else None  # of nothing there is nothing to say
            said = tyro.conf.arg(name=_option(name), help=words.get(name), help_behavior_hint=hint)
            narrowed[name] = Annotated[narrowed[name], said]
    members = {
        "__annotations__": narrowed,
        "__doc__": wording.lead(cls, list(values), title),
        "__module__": cls.__module__,
        "__post_init__": _no_checks,
        **{name: dataclasses.field() for name in values},  # hides the defaults of cls
    }
    twin: Any = type(cls.__name__, (cls,), members)
    return dataclasses.dataclass(frozen=True, kw_only=True)(twin)(**values)


def _option(field: str) -> str:
    """What a field is called on the command line; one that ends in _ is a keyword of Python's."""
    return field.rstrip("_").replace("_", "-")


def _titled(schema: Any) -> Any:
    """The type of a member of a tuple, of which tyro says its help alone."""
    kind: Any = type(schema)
    return Annotated[kind, tyro.conf.arg(help=kind.__doc__)]


def _no_checks(self: Any) -> None:
    """A schema is checked once rebuilt as the real config."""


def _rebuild(part: Any, parsed: Any) -> Any:
    """`part` with every leaf that `parsed` changed; unchanged parts stay the same object."""
    changes = {}
    for field in fields(type(part)):
        old, new = getattr(part, field.name), getattr(parsed, field.name)
        if is_part(old):
            new = _rebuild(old, new)
        elif has_parts(old):
            new = tuple(_rebuild(o, n) for o, n in zip(old, new, strict=True))
            new = old if all(o is n for o, n in zip(old, new, strict=True)) else new
        elif type(new) is type(old) and new == old:
            new = old
        if new is not old:
            changes[field.name] = new
    try:
        return dataclasses.replace(part, **changes) if changes else part
    except ValueError as error:
        raise Refusal(f"{type(part).__name__}: {_one_line(error)}") from error


def _leaves(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """("optim.learning-rate", float), … : every option of `part` with its annotation."""
    hints = typing.get_type_hints(type(part))
    for field in fields(type(part)):
        value, name = getattr(part, field.name), prefix + _option(field.name)
        if is_part(value):
            yield from _leaves(value, name + ".")
        elif has_parts(value):
            for i, item in enumerate(value):
                yield from _leaves(item, f"{name}.{i}.")
        elif tunable(hints[field.name]):
            yield name, hints[field.name]


def _check_names(args: Sequence[str], annotated: Mapping[str, Any], prog: str) -> None:
    known = {"help", *annotated}
    for name, hint in annotated.items():
        if hint is bool:
            head, dot, leaf = name.rpartition(".")
            known.add(f"{head}{dot}no-{leaf}")
    if args and not args[0].startswith("--") and args[0] != "-h":
        raise Refusal(f"unexpected argument {args[0]!r}; options are written --name value")
    for arg in args:
        if not arg.startswith("--"):
            continue
        name = arg[2:].partition("=")[0].replace("_", "-")
        if name not in known:
            raise Refusal(f"no option --{name}; {_options_like(name, known, prog)}")


def _options_like(name: str, known: set[str], prog: str) -> str:
    """Options whose full path or whose last part looks like `name`."""
    last = name.rpartition(".")[2]
    same = sorted(k for k in known if k.rpartition(".")[2] == last)
    close = same or difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.75)
    if not close:
        ends = sorted({k.rpartition(".")[2] for k in known})
        tails = difflib.get_close_matches(last, ends, n=2)
        close = sorted(k for k in known if k.rpartition(".")[2] in tails)
    if not close:
        return f"see {prog} --help"
    return "did you mean " + " or ".join(f"--{k}" for k in close[:3]) + "?"


def _wrong_value(
    config: Any, args: Sequence[str], annotated: Mapping[str, Any], prog: str
) -> Refusal:
    """The refusal that names the first option whose value tyro does not take."""
    starts = [i for i, a in enumerate(args) if a.startswith("--")]
    for start, stop in zip(starts, [*starts[1:], len(args)], strict=True):
        group = args[start:stop]
        try:
            _parse(_schema(config), group, prog)
        except SystemExit:
            name, _, value = group[0][2:].partition("=")
            name = name.replace("_", "-")
            got = " ".join([value] * bool(value) + list(group[1:])) or "nothing"
            hint = annotated.get(name, bool)
            want = "no value" if hint is bool else described(hint)
            return Refusal(f"--{name}: got {got!r}; expected {want}")
    return Refusal(f"options {' '.join(args)!r} do not go together; see {prog} --help")


# ---- JSON ----------------------------------------------------------------------------------------


def to_json(config: Any) -> str:
    """Strict JSON of a config; refuses anything but this package's frozen dataclasses and scalars.

    A part is an object with its class in "_type", a tuple an array, inf and nan {"_float": "inf"}.
    """
    return json.dumps(_encoded(config, "config"), indent=2, allow_nan=False)


def from_json(text: str) -> Any:
    """The config that `to_json` wrote, equal to the last bit.

    Only modules of this package are imported and only its frozen dataclasses are built. Refuses
    broken JSON, foreign types, unknown fields, those missing that have no default, and values of
    the wrong type. A field newer than the text takes its default: that of a new field must do what
    was done before there was one.
    """
    try:
        tree = json.loads(text, parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"config is not JSON: {_one_line(error)}") from error
    config = _decoded(tree, "config")
    if not is_part(config):
        raise Refusal(f"config holds {type(config).__name__}; it must be an object with a _type")
    return config


def _not_json(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _encoded(value: Any, path: str) -> Any:
    if type(value) is float and not math.isfinite(value):
        return {"_float": repr(value)}
    if type(value) in SCALARS:
        return value
    if type(value) is tuple:
        return [_encoded(v, f"{path}[{i}]") for i, v in enumerate(value)]
    if type(value) is dict:
        for key in value:
            if type(key) is not str or key.startswith("_"):
                raise Refusal(f"{path} has the key {key!r}; keys are words without a leading _")
        return {k: _encoded(v, f"{path}.{k}") for k, v in value.items()}
    if not is_part(value):
        raise Refusal(
            f"{path} is a {type(value).__name__}; a stored config holds frozen dataclasses, "
            "tuples, dicts, numbers, strings, booleans and None"
        )
    cls = type(value)
    name = f"{cls.__module__}:{cls.__qualname__}"
    if _part_class(name, path) is not cls:
        raise Refusal(f"{path} is {name}, which is not the class of that name")
    held = {f.name: _encoded(getattr(value, f.name), f"{path}.{f.name}") for f in fields(cls)}
    return {"_type": name, **held}


def _decoded(tree: Any, path: str) -> Any:
    if isinstance(tree, list):
        return tuple(_decoded(v, f"{path}[{i}]") for i, v in enumerate(tree))
    if not isinstance(tree, dict):
        return tree
    if tree.keys() == {"_float"} and tree["_float"] in ("inf", "-inf", "nan"):
        return float(tree["_float"])
    if "_type" not in tree:
        return {k: _decoded(v, f"{path}.{k}") for k, v in tree.items()}
    cls = _part_class(tree["_type"], path)
    values = {k: _decoded(v, f"{path}.{k}") for k, v in tree.items() if k != "_type"}
    names = [f.name for f in fields(cls)]
    needed = {f.name for f in fields(cls) if f.default is f.default_factory is MISSING}
    if unknown := sorted(values.keys() - set(names)):
        has = f"it has {_listed(names)}"
        raise Refusal(f"{path}: {cls.__name__} has no field {_listed(unknown)}; {has}")
    if missing := sorted(needed - values.keys()):
        raise Refusal(f"{path}: {cls.__name__} lacks the field {_listed(missing)}")
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        if not fits(value, hints[name]):
            want = described(hints[name])
            raise Refusal(f"{path}.{name}: got {_one_line(repr(value))}; expected {want}")
    try:
        return cls(**values)
    except ValueError as error:
        raise Refusal(f"{path}: {cls.__name__}: {_one_line(error)}") from error


def _part_class(name: Any, path: str) -> Any:
    """The frozen dataclass of this package called "vdm_jax.module:Class"; refuses all others."""
    refusal = Refusal(f"{path}: {name!r} is not a frozen dataclass of {PACKAGE}")
    if not isinstance(name, str) or not TYPE_NAME.fullmatch(name):
        raise refusal
    module, _, qualname = name.partition(":")
    try:
        cls = vars(importlib.import_module(module)).get(qualname)
    except ImportError:
        raise refusal from None
    if not isinstance(cls, type) or not is_frozen(cls) or cls.__module__ != module:
        raise refusal
    return cls


# ---- Text ----------------------------------------------------------------------------------------


def show(config: Any) -> str:
    """The config for --print-config: one line a field, parts by class name, indented."""
    return "\n".join([type(config).__name__, *_shown(config, "  ")])


def _shown(part: Any, indent: str) -> Iterator[str]:
    for field in fields(type(part)):
        value = getattr(part, field.name)
        items = enumerate(value) if has_parts(value) else [("", value)]
        for i, item in items:
            name = f"{field.name}[{i}]" if has_parts(value) else field.name
            if is_part(item):
                yield f"{indent}{name}: {type(item).__name__}"
                yield from _shown(item, indent + "  ")
            else:
                yield f"{indent}{name}: {item!r}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _one_line(error: object) -> str:
    """The first line of a message, at most 300 characters of it."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
