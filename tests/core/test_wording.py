"""What `--help` says of a config comes from its docstrings, whole and in one piece."""

from dataclasses import dataclass

import pytest

from vdm_jax.core import wording
from vdm_jax.core.config import override


@dataclass(frozen=True)
class Base:
    """A base.

    rate: frames a second.
    """

    rate: float = 8.0


@dataclass(frozen=True)
class Network(Base):
    """A network of levels: the finest is
    the first.

    width: of the finest level; others
    are wider. heads, groups: of each level.
    """

    width: int = 8
    heads: int = 2
    groups: int = 4
    steps: int = 1
    """How many steps
    it takes."""


@dataclass(frozen=True)
class Whole:
    """A run."""

    network: Network = Network()
    stages: tuple[Base, ...] = (Base(), Network())


NAMES = ["rate", "width", "heads", "groups", "steps"]


def test_each_field_has_its_words_in_one_line():
    assert wording.described(Network, NAMES) == {
        "rate": "Frames a second.",
        "width": "Of the finest level; others are wider.",
        "heads": "Of each level.",
        "groups": "Of each level.",
        "steps": "How many steps it takes.",
    }


def test_what_is_left_is_the_lead_and_a_word_that_is_no_field_stays_in_it():
    said = "A network of levels: the finest is the first."
    assert wording.lead(Network, NAMES, "Network") == f"Network: {said}"
    assert wording.lead(Network, NAMES, "") == said


def test_help_says_them_where_they_belong(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        override(Whole(), ["--help"], "vdm train")
    text = " ".join(capfd.readouterr().out.replace("│", " ").split())
    assert "Network: A network of levels: the finest is the first." in text
    assert "--network.width INT Of the finest level; others are wider. (default: 8)" in text
    assert "Base: A base." in text and text.count("Network: A network") == 2
    assert "--network.rate FLOAT Frames a second. (default: 8.0)" in text
