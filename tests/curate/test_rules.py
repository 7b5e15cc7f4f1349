"""Rules: what they say of clips, and what they refuse to say."""

import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.curate.rules import Rule, judged

COLUMNS = {
    "motion": np.array([1.0, 2.0, 3.0, 4.0, np.nan]),
    "text": np.array([0.0, 9.0, 0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize(
    ("keep", "wanted"),
    [
        ("motion > 2", [0, 0, 1, 1, 0]),
        ("motion >= percentile(motion, 50)", [0, 0, 1, 1, 0]),
        ("1 < motion <= 3 and not text > 7", [0, 0, 1, 0, 0]),
        ("motion * 2 - 1 > 6 or text / 3 == 3", None),
        ("motion * 2 - 1 > 6 or text / 3 >= 3", [0, 1, 0, 1, 0]),
    ],
)
def test_what_a_rule_says(keep, wanted):
    if wanted is None:
        with pytest.raises(Refusal, match="more than a rule may"):
            Rule("x", keep).holds(COLUMNS)
    else:
        assert Rule("x", keep).holds(COLUMNS).tolist() == [bool(w) for w in wanted]


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("__import__('os').system('true')", "asks for __import__"),
        ("motion.__class__ > 1", "more than a rule may"),
        ("open > 1", "asks for open, which no stage tells; there are motion, text"),
        ("motion", "neither true nor false"),
        ("motion >", "no expression"),
        ("[m for m in motion]", "asks for m"),
        ("'a' > motion", "more than a rule may"),
    ],
)
def test_anything_else_is_refused_before_work_begins(keep, message):
    with pytest.raises(Refusal, match=message):
        Rule("x", keep).check(set(COLUMNS))


def test_rules_are_asked_one_after_the_other_of_what_is_left():
    rules = [Rule("still", "motion > percentile(motion, 50)"), Rule("late", "motion < 4")]
    reasons = ["short", "", "", "", ""]
    gone = {rule.reason: clips for rule, clips in judged(rules, COLUMNS, reasons)}
    assert gone == {"still": [1, 2, 4], "late": [3]}  # the median of 2, 3, 4 and none is 3
