"""The table of systems is what the registry says, and the registry says what is there."""

import ast
import importlib

import pytest
from docs import pages, systems
from docs.systems import Planned, Works

from vdm_jax.core import config as configs

EVERY = [system for group in systems.SYSTEMS.values() for system in group]
WORKING = [system for system in EVERY if isinstance(system.state, Works)]
PLANNED = [system for system in EVERY if isinstance(system.state, Planned)]
NUMBERS = 50
RESTORERS = {"StableSR", "DiffBIR", "PASD", "SeeSR", "CoSeR", "RTN and masks of scratches"}


def test_every_system_stands_once():
    numbers = [system.number for system in EVERY if system.number]
    assert sorted(numbers) == sorted(f"S{number}" for number in range(1, NUMBERS + 1))
    names = [system.name for system in EVERY]
    assert len(names) == len(set(names))
    assert set(names) > RESTORERS


def test_the_page_is_what_the_registry_says():
    assert systems.PAGE.read_text() == systems.page(), "run python tests/docs/systems.py"


@pytest.mark.parametrize("system", WORKING, ids=lambda system: system.name)
def test_what_works_has_a_command_and_tests_that_ci_runs(system):
    for command in pages.of_line(system.state.command):
        assert pages.wrong(command) == "" and "--help" not in command.words
        has_what_it_claims(system.state.parts, command)
    for part in system.state.parts:
        module, _, name = part.rpartition(".")
        assert hasattr(importlib.import_module(f"vdm_jax.{module}"), name)
    assert system.state.shown and (system.state.command or system.state.parts)
    assert [each for each in system.state.shown if not _is_run(each)] == []


@pytest.mark.parametrize("system", PLANNED, ids=lambda system: system.name)
def test_what_is_planned_begins_with_files_that_are_there(system):
    assert system.state.begins
    assert [each for each in system.state.begins if not (pages.ROOT / each).is_file()] == []


def test_a_test_that_is_not_there_or_not_run_is_seen():
    assert not _is_run("tests/docs/test_systems.py::test_that_nobody_wrote")
    assert not _is_run("tests/docs/test_none.py::")
    assert not _is_run("tests/curate/test_truth.py::test_planted_videos")
    assert _is_run("tests/docs/test_systems.py::test_every_system_stands_once")


def has_what_it_claims(parts, command):
    """A training's config is made of the classes that its row names, of which there is one."""
    if "--config" in command.words:
        path, _, function = command.words[command.words.index("--config") + 1].partition(":")
        stored = configs.to_json(configs.load(f"{pages.ROOT / path}:{function or 'config'}"))
        assert parts and [part for part in parts if part.rpartition(".")[2] not in stored] == []


def _is_run(shown: str) -> bool:
    """Whether a file has this test (or any), not marked as one that only a person starts."""
    path, _, name = shown.partition("::")
    file = pages.ROOT / path
    if not file.is_file():
        return False
    nodes = ast.parse(file.read_text()).body
    if any(
        isinstance(node, ast.Assign) and "pytest.mark.slow" in ast.unparse(node) for node in nodes
    ):
        return False
    tests = [node for node in nodes if isinstance(node, ast.FunctionDef) and "test_" in node.name]
    run = [node.name for node in tests if not _by_hand(node)]
    return name in run if name else bool(run)


def _by_hand(test: ast.FunctionDef) -> bool:
    return any(ast.unparse(mark).startswith("pytest.mark.slow") for mark in test.decorator_list)
