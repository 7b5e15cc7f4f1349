"""The answers to "where is it?" are where they say."""

import ast
import re

import pytest
from docs import pages

PAGE = (pages.ROOT / "CONTRIBUTING.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| `([\w/.]+)` \| (.+?) \|$", PAGE, re.M)


@pytest.mark.parametrize(("question", "path", "names"), ROWS)
def test_the_answer_is_there(question, path, names):
    assert set(re.findall(r"`(\w+)`", names)) <= defined((pages.ROOT / path).read_text())


def test_the_questions_that_everyone_asks_are_answered():
    asked = " ".join(question for question, _, _ in ROWS)
    for words in ("samplers", "SVD's blend", "add a data set", "a checkpoint contain"):
        assert words in asked
    assert defined("class A: ...\ndef b(): ...\nC: int = 1\nD = 2") == {"A", "b", "C", "D"}


def defined(text: str) -> set[str]:
    """The names that a module defines."""
    names = set()
    for node in ast.parse(text).body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                names.add(node.name)
            case ast.Assign():
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    return names
