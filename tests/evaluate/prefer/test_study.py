import json
from collections import Counter

import numpy as np
import pytest

from vdm_jax.core.refusal import Refusal
from vdm_jax.evaluate.prefer import __main__ as prefer
from vdm_jax.evaluate.prefer import report as reports
from vdm_jax.evaluate.prefer import study as studies
from vdm_jax.evaluate.prefer import votes as ballots
from vdm_jax.evaluate.prefer.study import Study
from vdm_jax.evaluate.prefer.votes import Vote

QUESTION = "Which video looks better?"


def study(models="ab", names=7, **changes):
    videos = {f"{i:02}": {model: f"{model}{i}" for model in models} for i in range(names)}
    whole = dict(models=tuple(models), questions=(QUESTION,), seed=0, pairs=None, ties=True)
    return Study(**{**whole, "videos": videos, **changes})


def refused(args):
    with pytest.raises(Refusal) as refusal:
        prefer.main(args)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


# ---- The plan ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "names", "pairs"),
    [("ab", 7, None), ("ab", 8, 5), ("abcd", 5, None), ("abcde", 3, None), ("abcde", 9, 23)],
)
def test_models_are_left_as_often_as_right_and_meet_equally_often(models, names, pairs):
    for rater in ("anna", "ben", "carla"):
        shown = [trial.shown for trial in study(models, names, pairs=pairs).plan(rater)]
        couples = Counter(frozenset((one.left, one.right)) for one in shown)
        assert len(set(shown)) == len(shown) == pairs or len(shown) == names * len(couples)
        assert len(couples) == len(models) * (len(models) - 1) // 2
        assert max(couples.values()) - min(couples.values()) <= 1
        left, right = Counter(one.left for one in shown), Counter(one.right for one in shown)
        assert all(abs(left[model] - right[model]) <= 1 for model in models)
        ways = Counter((one.left, one.right) for one in shown)
        assert all(abs(ways[a, b] - ways[b, a]) <= 1 for a, b in ways)


def test_the_odd_side_and_the_order_differ_from_rater_to_rater():
    plans = [study().plan(f"rater {number}") for number in range(40)]
    assert len({tuple(trial.shown.name for trial in plan) for plan in plans}) == 40
    odd = Counter(sum(trial.shown.left == "a" for trial in plan) for plan in plans)
    assert odd.keys() == {3, 4} and min(odd.values()) > 8
    sides = [next(t.shown.left for t in plan if t.shown.name == "03") for plan in plans]
    assert 8 < sides.count("a") < 32


def test_a_plan_follows_from_the_arguments_alone():
    assert study("abc").plan("anna") == study("abc").plan("anna")
    assert study("abc").plan("anna") != study("abc", seed=1).plan("anna")
    first = [t.shown for t in study("abc", questions=("x", "y"), pairs=4).plan("anna")]
    assert first[::2] == first[1::2] and len(first) == 8


# ---- The report ----------------------------------------------------------------------------------


def ballot(rater, number, left, right, choice, question=QUESTION):
    return Vote(
        time=ballots.now(),
        rater=rater,
        question=question,
        name=f"{number:02}",
        left=left,
        right=right,
        choice=choice,
        milliseconds=2000,
    )


def test_the_report_counts_what_was_voted_whoever_stood_left(capsys, tmp_path):
    asked = study("ab", 7)
    studies.keep(asked, tmp_path)
    votes = {
        "votes.jsonl": [
            ballot("anna", 0, "a", "b", "left"),
            ballot("anna", 1, "b", "a", "right"),
            ballot("anna", 2, "b", "a", "left"),
            ballot("anna", 3, "a", "b", "tie"),
        ],
        "votes-ben.jsonl": [
            ballot("ben", 0, "b", "a", "right"),
            ballot("ben", 1, "b", "a", "right"),
            ballot("ben", 3, "a", "b", "right"),
        ],
    }
    for name, some in votes.items():
        lines = [json.dumps(vars(one)) + "\n" for one in some]
        (tmp_path / name).write_text("".join(lines))
    assert prefer.main(["--output", str(tmp_path), "--report"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == QUESTION
    assert said[2].split()[:5] == ["a", "7", "4", "2", "1"]
    assert said[3].split()[:5] == ["b", "7", "2", "4", "1"]
    assert "64.3%" in said[2] and "35.7%" in said[3]
    assert said[2].split()[9] == f"{200 * np.log10(4.5 / 2.5):+.0f}"
    assert "  votes: 7, by rater: anna 4, ben 3" in said
    assert any(line.startswith("  raters agree: 66.7% over 3 shared pairs") for line in said)
    assert any(line.startswith("  left chosen, ties apart: 33.3%") for line in said)
    assert "data:image/png;base64," in (tmp_path / "report.html").read_text()


def test_models_that_were_not_compared_yet_get_no_scores_and_the_reason():
    found = reports.results(study("abc"), [ballot("anna", 0, "a", "b", "left")])
    assert [row.score for row in found[0].rows] == [None, None, None]
    assert any(
        "compares these groups of models with each other: a, b; c" in line
        for line in reports.said(found)
    )
    assert "–" in reports.html(study("abc"), found, "x")


def test_damaged_and_foreign_votes_are_refused(tmp_path):
    studies.keep(study(), tmp_path)
    path, args = tmp_path / "votes.jsonl", ["--output", str(tmp_path), "--report"]
    good = json.dumps(vars(ballot("anna", 0, "a", "b", "left")))
    for bad in ("{}", "[", "[]", good.replace('"left", "mi', '"up", "mi'), good.replace("20", '"')):
        path.write_text(f"{good}\n{bad}\n{good}\n")
        assert "votes.jsonl: line 2 is no vote" in refused(args)
    for foreign in (good.replace('"b"', '"c"'), good.replace('"00"', '"99"')):
        path.write_text(f"{foreign}\n")
        assert "is of another study" in refused(args)
    path.write_text(good.replace(QUESTION, "Why?") + "\n")
    assert "is of another study: Why?" in refused(args)
