"""A sample of `run.py`: one device, four of one process, and two processes of two devices each."""

import pytest
from topology.run import HERE, ONE, Plan, held, layout, proof

pytestmark = pytest.mark.long

LAYOUTS = [ONE, layout("1x4:fsdp2,context2"), layout("2x2:context2,tensor2")]
SHORT = {"steps": 10, "save_every": 5, "preview_every": 10}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    plan = Plan(f"{HERE / 'configs.py'}:pixels", tmp_path_factory.mktemp("topology"), SHORT)
    return {str(each): found for each, _, found in proof(LAYOUTS, plan)}


@pytest.mark.parametrize("where", LAYOUTS, ids=str)
def test_a_run_is_the_same_wherever_it_is_trained_and_goes_on_anywhere(found, where):
    assert held(found[str(where)], len(LAYOUTS)), found[str(where)]


def test_layouts_round_differently_so_that_they_are_layouts_at_all(found):
    assert any(found[str(where)].loss > 0 for where in LAYOUTS[1:])
