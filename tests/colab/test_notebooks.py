"""The notebooks are what their sources say, and name nothing that is not there."""

import ast
import importlib
import io
import re
import runpy
import sys
import types
from contextlib import redirect_stdout
from functools import cache
from itertools import product

import jupytext
import pytest
from colab.books import INSTALL, NAMES, PROJECT, ROOT, code, extras, source, stored

from vdm_jax.core import config as configs

ADDRESS = PROJECT["urls"]["Repository"]
HOLDS = {"TPU": "V5E1"}
INSTALLER = runpy.run_path(str(ROOT / "colab" / "install.py"))


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


def test_these_are_all_notebooks():
    assert sorted(NAMES) == sorted(path.stem for path in (ROOT / "colab").glob("*.ipynb"))
    readme = (ROOT / "colab" / "README.md").read_text()
    assert all(badge(name) in readme for name in NAMES)


def test_a_notebook_is_what_its_source_says(name):
    made, kept = (jupytext.writes(book, "ipynb") for book in (source(name), stored(name)))
    ids = re.compile(r'"id": "[^"]*"')
    assert ids.sub("", made) == ids.sub("", kept)


def test_it_has_no_outputs_and_asks_colab_for_a_tpu(name):
    book = stored(name)
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)
    assert {book.metadata.accelerator: book.metadata.colab.gpuType} == HOLDS
    assert book.metadata.kernelspec.name == "python3"


def badge(name: str) -> str:
    place = ADDRESS.removeprefix("https://github.com/")
    return (
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{place}/blob/main/colab/{name}.ipynb)"
    )


def test_it_opens_with_a_badge_and_the_minutes(name):
    opening = stored(name).cells[0].source
    assert opening.startswith(badge(name))
    assert "**Minutes to expect.**" in opening and "measured" in opening
    links = re.findall(r"blob/main/colab/(\w+)\.ipynb", str(stored(name)))
    assert set(links) <= set(NAMES)


def test_the_install_cells_are_one(name):
    """But for the extras, which the project has."""
    cell, first = (code(stored(which))[0] for which in (name, NAMES[0]))
    assert INSTALL.sub("", cell) == INSTALL.sub("", first)
    assert f"git clone --quiet --depth 1 {ADDRESS} {{SOURCE}}" in cell
    assert "notebook" in extras(name)
    assert set(extras(name)) <= PROJECT["optional-dependencies"].keys()


def test_it_defines_nothing(name):
    parsed = ast.parse((ROOT / "colab" / f"{name}.py").read_text())
    kinds = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
    assert not [node for node in ast.walk(parsed) if isinstance(node, kinds)]


def test_every_field_of_its_form_can_be_overridden(name):
    text = (ROOT / "colab" / f"{name}.py").read_text()
    shown = re.findall(r"^(\w+) = .*# @param ", text, re.MULTILINE)
    (call,) = (c for c in calls(text, "form"))
    assert shown and [word.arg for word in call.keywords] == shown


def calls(text: str, function: str) -> list[ast.Call]:
    """The calls of notebook.FUNCTION."""
    return [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"notebook.{function}"
    ]


def commands(name: str) -> list[str]:
    """Every command of this package that the notebook runs or names."""
    text = (ROOT / "colab" / f"{name}.py").read_text()
    texts = [
        "".join(str(n.value) for n in ast.walk(call.args[0]) if isinstance(n, ast.Constant))
        for call in calls(text, "run")
    ]
    named = re.findall(r"`(python -m [^`]*)`", "\n".join(c.source for c in stored(name).cells))
    return [command for command in texts + named if " vdm_jax." in command]


@cache
def options(verb: str, *before: str) -> frozenset[str]:
    """The options that --help of a command names."""
    plain = verb.count(".") == 1
    main = importlib.import_module(f"{verb}.__main__" if plain else verb).main
    with redirect_stdout(io.StringIO()) as told:
        try:
            assert main([*before, "--help"]) in (0, None)
        except SystemExit as end:
            assert end.code == 0
    return frozenset(re.findall(r"--[a-z][a-z0-9-]*(?:\.[a-z0-9-]+)*", told.getvalue()))


def test_its_configs_are_there(name):
    text = "\n".join(cell.source for cell in stored(name).cells)
    assert all(configs.load(str(ROOT / spec)) is not None for spec in specs(text))


def specs(text: str) -> list[str]:
    """The configs that a notebook names, those with a function last."""
    files = sorted(set(re.findall(r"configs/\w+\.py(?::\w+)?", text)))
    return [*files, *trained(text)]


def trained(text: str) -> list[str]:
    """The configs that a notebook may train: files, with each function that stands alone."""
    files = sorted(set(re.findall(r"configs/\w+\.py(?!:)\b", text)))
    functions = sorted(set(re.findall(r'":(\w+)"', text)))
    return [f"{path}:{function}" for path, function in product(files, functions)] or files


def test_its_commands_are_there(name, monkeypatch):
    """With the options that they are given, whatever config they are given."""
    monkeypatch.setenv("COLUMNS", "200")
    text = "\n".join(code(stored(name)))
    for command in commands(name):
        verb, asked = command.split()[2], set(re.findall(r"(?<= )--[a-z][a-z0-9.-]*", command))
        of = trained(command) or trained(text) if verb == "vdm_jax.train" else [None]
        for spec in of:
            known = options(verb, *(("--config", str(ROOT / spec)) if spec else ()))
            assert asked <= known, f"{spec}: {command}"


def test_what_is_installed_fits_the_hardware(monkeypatch):
    hardware, told = INSTALLER["hardware"], INSTALLER["hardware"].__globals__
    monkeypatch.setitem(told, "glob", lambda _: [])
    for variable in INSTALLER["TPU"]:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    assert hardware() == []
    assert INSTALLER["installer"]()[1:3] == ["-m", "pip"]
    monkeypatch.setenv("TPU_NAME", "local")
    assert hardware() == ["tpu"]
    assert set(hardware()) <= PROJECT["optional-dependencies"].keys()


def test_a_jax_that_is_in_use_already_is_not_replaced_behind_its_back(monkeypatch):
    """As where somebody imported Colab's own before the first cell."""
    asked = []
    monkeypatch.setitem(
        INSTALLER["install"].__globals__,
        "subprocess",
        types.SimpleNamespace(
            run=lambda argv, **_: asked.append(argv) or types.SimpleNamespace(returncode=0)
        ),
    )
    old = types.ModuleType("jax")
    old.__version__ = "0.7.2"
    monkeypatch.setitem(sys.modules, "jax", old)
    with pytest.raises(RuntimeError, match=r"0\.7\.2 was already imported: choose Restart"):
        INSTALLER["install"]("notebook")
    (argv,) = asked
    assert argv[-1].startswith(f"{ROOT}[notebook")
