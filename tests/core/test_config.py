"""Config files, shell options and JSON: exact where accepted, one clear line where refused."""

import dataclasses
import json
import math
import re
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdm_jax.core.config import from_json, load, override, show, to_json
from vdm_jax.core.refusal import Refusal


@runtime_checkable
class Schedule(Protocol):
    def level(self, t: float) -> float: ...


@dataclass(frozen=True)
class Cosine:
    """The cosine schedule."""

    shift: float = 0.008  # keeps sigma above zero

    def level(self, t: float) -> float:
        return math.cos(t + self.shift)


@dataclass(frozen=True)
class Linear:
    """The linear schedule."""

    start: float = 1e-4
    stop: float = 2e-2

    def level(self, t: float) -> float:
        return self.start + t * self.stop


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam."""

    learning_rate: float = 1e-3
    """The peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float | None = 1.0
    nesterov: bool = False
    kind: Literal["cosine", "constant"] = "cosine"

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise Refusal(f"learning_rate is {self.learning_rate}; it must be above 0")
        if len(self.betas) != 2 or self.betas[0] >= 1:
            raise ValueError(f"betas are {self.betas}; they must lie below 1")


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run."""

    optim: Adam = dataclasses.field(default_factory=Adam)
    schedule: Schedule = dataclasses.field(default_factory=Cosine)
    stages: tuple[Schedule, ...] = ()
    ema: Adam | None = None
    levels: tuple[int, ...] = (1, 2)
    names: dict[str, float] = dataclasses.field(default_factory=dict)
    title: str = ""
    steps: int = 5  # how long


@dataclass(frozen=True)
class Needy:
    """What has a field without a default."""

    width: int
    depth: int = 1


@dataclass(frozen=True)
class Foreign:
    x: int = 1


@dataclass
class Thawed:
    x: int = 1


@pytest.fixture(scope="module", autouse=True)
def inside_the_package() -> Any:
    """The classes above as a module of vdm_jax, for only those are stored."""
    module: Any = types.ModuleType("vdm_jax.parts_of_a_test")
    module.__file__ = __file__
    for cls in (Cosine, Linear, Adam, Run, Needy, Thawed):
        cls.__module__ = module.__name__
        setattr(module, cls.__name__, cls)
    module.Schedule, module.Foreign = Schedule, Foreign
    sys.modules[module.__name__] = module
    yield
    del sys.modules[module.__name__]


def write(folder: Path, text: str, name: str = "small.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


FILE = """
from vdm_jax.parts_of_a_test import Adam, Linear, Run

def config():
    return Run(schedule=Linear(), steps=100)

def smoke():
    return Run(steps=2)

def wrong():
    return {"steps": 3}

def fails():
    return Adam(learning_rate=-1.0)

def breaks():
    return 1 / 0

def foreign():
    from dataclasses import dataclass
    return dataclass(frozen=True)(type("Mine", (), {}))()
"""


def test_load_calls_the_named_function(tmp_path):
    path = write(tmp_path, FILE)
    assert load(path) == Run(schedule=Linear(), steps=100)
    assert load(path + ":smoke") == Run(steps=2)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        (":smok", "has no function 'smok'; it has config, smoke, wrong, fails, breaks, foreign"),
        (":wrong", "wrong() returned dict; it must return a frozen dataclass"),
        (":fails", "small.py:14: learning_rate is -1.0; it must be above 0"),
        (":breaks", "small.py:17: ZeroDivisionError: division by zero"),
        (":foreign", "is not a frozen dataclass of vdm_jax"),
    ],
)
def test_load_refuses_in_one_line(tmp_path, suffix, message):
    with pytest.raises(Refusal) as refusal:
        load(write(tmp_path, FILE) + suffix)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_load_names_close_files_and_the_line_of_a_syntax_error(tmp_path):
    write(tmp_path, FILE, "quickstart.py")
    with pytest.raises(Refusal, match=r"did you mean .*quickstart\.py"):
        load(str(tmp_path / "quikstart.py"))
    with pytest.raises(Refusal, match=r"has .*quickstart\.py"):
        load(str(tmp_path / "zzz.py"))
    with pytest.raises(Refusal, match=r"bad\.py:2: SyntaxError"):
        load(write(tmp_path, "x = 1\ndef config(:\n", "bad.py"))
    with pytest.raises(Refusal, match=r"bad\.py:1: ModuleNotFoundError"):
        load(write(tmp_path, "import no_such_module\n", "bad.py"))


def test_override_reaches_the_leaves_of_the_actual_parts():
    run = Run(schedule=Linear(), stages=(Cosine(), Linear()), ema=Adam())
    args = ["--optim.learning-rate", "3e-4", "--config.schedule.stop=0.5", "--ema.clip", "None"]
    args += ["--stages.1.start", "0.25", "--levels", "4", "5", "6", "--optim.nesterov"]
    args += ["--optim.betas", "0.5", "0.75", "--optim.kind", "constant", "--steps=7"]
    new = override(run, args, "vdm train")
    assert new == Run(
        optim=Adam(learning_rate=3e-4, nesterov=True, betas=(0.5, 0.75), kind="constant"),
        schedule=Linear(stop=0.5),
        stages=(Cosine(), Linear(start=0.25)),
        ema=Adam(clip=None),
        levels=(4, 5, 6),
        steps=7,
    )
    assert type(new) is Run and type(new.schedule) is Linear and type(new.optim) is Adam


def test_override_keeps_what_it_does_not_touch():
    run = Run(stages=(Cosine(math.nan),), title="x")
    assert override(run, [], "vdm train") is run
    new = override(run, ["--steps", "9"], "vdm train")
    assert new.optim is run.optim and new.stages is run.stages and new.steps == 9


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--optim.learning-rat", "1"], "no option --optim.learning-rat; did you mean "
         "--optim.learning-rate?"),
        (["--learning-rate", "1"], "no option --learning-rate; did you mean "
         "--optim.learning-rate?"),
        (["--stpes=4"], "no option --stpes; did you mean --steps?"),
        (["--schedule.stop", "4"], "no option --schedule.stop; did you mean --schedule.shift?"),
        (["--qqqqqq"], "no option --qqqqqq; see vdm train --help"),
        (["--steps", "many"], "--steps: got 'many'; expected int"),
        (["--steps"], "--steps: got 'nothing'; expected int"),
        (["--steps", "3", "4"], "--steps: got '3 4'; expected int"),
        (["--title", "a", "--steps=1.5"], "--steps: got '1.5'; expected int"),
        (["--optim.clip", "big"], "--optim.clip: got 'big'; expected float or None"),
        (["--optim.betas", "0.1"], "--optim.betas: got '0.1'; expected 2 values (float, float)"),
        (["--optim.kind", "cosin"], "--optim.kind: got 'cosin'; expected one of 'cosine', "
         "'constant'"),
        (["--optim.nesterov", "yes"], "--optim.nesterov: got 'yes'; expected no value"),
        (["steps", "3"], "unexpected argument 'steps'; options are written --name value"),
        (["-s", "3"], "unexpected argument '-s'; options are written --name value"),
        (["--optim.learning-rate", "-1"], "learning_rate is -1.0; it must be above 0"),
        (["--optim.betas", "2", "3"], "Adam: betas are (2.0, 3.0); they must lie below 1"),
    ],
)  # fmt: skip
def test_override_refuses_in_one_line(args, message, capfd):
    with pytest.raises(Refusal) as refusal:
        override(Run(), args, "vdm train")
    assert str(refusal.value) == message
    assert capfd.readouterr() == ("", "")


def test_help_lists_every_leaf_with_its_default_and_its_words(capfd):
    with pytest.raises(SystemExit) as stop:
        override(Run(schedule=Linear()), ["--help"], "vdm train")
    text = capfd.readouterr().out
    assert stop.value.code == 0
    for option in ("optim.learning-rate", "optim.betas", "schedule.start", "steps", "levels"):
        assert f"--{option}" in text
    for words in ("The peak learning rate.", "how long", "0.9 0.99", "0.0001", "linear schedule"):
        assert words in text
    assert "--ema" not in text


def test_show_names_every_part_and_leaf():
    text = show(Run(schedule=Linear(), stages=(Cosine(),)))
    assert "  schedule: Linear\n    start: 0.0001\n    stop: 0.02\n" in text
    assert "  stages[0]: Cosine\n    shift: 0.008\n" in text
    assert "  ema: None\n" in text


floats = st.floats(allow_nan=False)
words = st.text(max_size=5)
schedules = st.builds(Cosine, floats) | st.builds(Linear, floats, floats)
adams = st.builds(
    Adam,
    learning_rate=st.floats(min_value=0, exclude_min=True),
    betas=st.tuples(st.floats(max_value=0.5), floats),
    clip=st.none() | floats,
    nesterov=st.booleans(),
)
runs = st.builds(
    Run,
    optim=adams,
    schedule=schedules,
    stages=st.lists(schedules, max_size=3).map(tuple),
    ema=st.none() | adams,
    levels=st.lists(st.integers(), max_size=3).map(tuple),
    names=st.dictionaries(words.filter(lambda k: not k.startswith("_")), floats, max_size=3),
    title=words,
    steps=st.integers(),
)


@settings(max_examples=100, deadline=None)
@given(runs)
def test_json_gives_back_the_same_config_to_the_last_bit(run):
    text = to_json(run)
    assert not re.search(r"\b(Infinity|NaN)\b", re.sub(r'"(\\.|[^"\\])*"', "", text))
    back = from_json(text)
    assert back == run and repr(back) == repr(run) and to_json(back) == text


def test_json_keeps_nan():
    assert math.isnan(from_json(to_json(Cosine(math.nan))).shift)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Foreign(), "test_config:Foreign' is not a frozen dataclass of vdm_jax"),
        (Thawed(), "config is a Thawed"),
        (Run(title=["a"]), "config.title is a list"),
        (Run(names={"_type": 1.0}), "config.names has the key '_type'"),
        (Run(stages=(Cosine(), print)), "config.stages[1] is a builtin_function_or_method"),
        ({"a": object()}, "config.a is a object"),
    ],
)
def test_to_json_refuses_what_it_could_not_read_back(config, message):
    with pytest.raises(Refusal) as refusal:
        to_json(config)
    assert message in str(refusal.value)


M = "vdm_jax.parts_of_a_test"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "config is not JSON"),
        ("[" * 100_000, "config is not JSON"),
        ("3", "config holds int"),
        ('{"a": 1}', "config holds dict"),
        ('{"_type": "os:system"}', "'os:system' is not a frozen dataclass of vdm_jax"),
        ('{"_type": "vdm_jax.core.config:Path"}', "is not a frozen dataclass"),
        ('{"_type": "vdm_jax.core.config:load"}', "is not a frozen dataclass"),
        ('{"_type": "vdm_jax.nowhere:Thing"}', "is not a frozen dataclass"),
        ('{"_type": "vdm_jax..core:Thing"}', "is not a frozen dataclass"),
        ('{"_type": "vdm_jax.train.__main__:Thing"}', "is not a frozen dataclass"),
        ('{"_type": "vdm_jaxx.evil:Thing"}', "is not a frozen dataclass"),
        (f'{{"_type": "{M}:Foreign", "x": 1}}', "is not a frozen dataclass"),
        (f'{{"_type": "{M}:Thawed", "x": 1}}', "is not a frozen dataclass"),
        ('{"_type": 3}', "3 is not a frozen dataclass"),
        (f'{{"_type": "{M}:Needy"}}', "config: Needy lacks the field width"),
        (f'{{"_type": "{M}:Cosine", "shift": 1.0, "b": 2}}', "Cosine has no field b; it has shift"),
        (f'{{"_type": "{M}:Cosine", "shift": "1"}}', "config.shift: got '1'; expected float"),
        (f'{{"_type": "{M}:Cosine", "shift": true}}', "config.shift: got True; expected float"),
        (f'{{"_type": "{M}:Cosine", "shift": NaN}}', "NaN is not JSON"),
        (f'{{"_type": "{M}:Cosine", "shift": {{"_type": "{M}:Cosine", "shift": 1.0}}}}',
         "config.shift: got Cosine(shift=1.0); expected float"),
    ],
)  # fmt: skip
def test_from_json_refuses_and_says_where(text, message):
    with pytest.raises(Refusal) as refusal:
        from_json(text)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Run)])
def test_what_a_stored_config_is_older_than_takes_its_default(field):
    tree = json.loads(to_json(Run()))
    del tree[field]
    assert from_json(json.dumps(tree)) == Run()


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Run)])
def test_from_json_checks_each_field_of_a_part(field):
    text = to_json(Run(stages=(Linear(),)))
    renamed = text.replace(f'"{field}":', f'"{field}s":', 1)
    with pytest.raises(Refusal, match=f"Run has no field {field}s"):
        from_json(renamed)


def test_from_json_imports_nothing_but_the_package(tmp_path, monkeypatch):
    (tmp_path / "evil_part.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(Refusal):
        from_json('{"_type": "evil_part:Thing"}')
    assert "evil_part" not in sys.modules


def test_from_json_runs_the_parts_own_checks():
    text = to_json(Run()).replace("0.001", "-0.001")
    with pytest.raises(Refusal, match=r"learning_rate is -0\.001"):
        from_json(text)
