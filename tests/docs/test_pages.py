"""What the pages say is there: every link, every command with its config and its options."""

import pytest
from docs import pages

from vdm_jax.core.refusal import Refusal

NAMES = [str(page.relative_to(pages.ROOT)) for page in pages.PAGES]


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_somewhere(name):
    assert pages.broken_links(pages.ROOT / name) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_its_module_config_and_options(name):
    told = pages.commands((pages.ROOT / name).read_text())
    assert {str(each): said for each in told if (said := pages.wrong(each))} == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("python -m vdm_jax.train --config configs/quickstart.py --optim.learning-rte 1", "rte"),
        ("python -m vdm_jax.train --config configs/quickstart.py:smok", "smok"),
        ("python -m vdm_jax.train --config configs/none.py", "none.py"),
        ("pip install x && python -m vdm_jax.tran --config configs/quickstart.py", "vdm_jax.tran"),
        ("python -m vdm_jax.sample --task walk --plan ar", "--plan"),
    ],
)
def test_a_command_that_cannot_be_is_seen(line, said):
    (command,) = pages.of_line(line)
    try:
        told = pages.wrong(command)
    except Refusal as refusal:
        told = str(refusal)
    assert said in told


def test_a_link_that_leads_nowhere_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    page = tmp_path / "a.md"
    page.write_text("# One two\n[a](#one-two) [b](#three) [c](a.md#one-two) [d](none.md) [e](..)\n")
    assert pages.broken_links(page) == ["#three", "none.md", ".."]
